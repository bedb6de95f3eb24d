"""The paper's setting for TinyImageNet-200, and the rows of its table 5: section 4.5, appendices B.3 and C.5."""

from dataclasses import replace

from gradreg.studies._cifar import spectreg
from gradreg.study.config import Data, Model, Optimizer, Penalty, Protocol, Run, Schedule, Split
from gradreg.study.grid import Arm, Grid, Reported

EPOCHS, BATCH = 75, 64
# As printed, 20000 is the weight of another normalization. The mean over the 12288 inputs and the 200 outputs in place
# of the sums would make it 0.008 of ours; over the inputs alone 1.6; inputs of 0 to 255 would make it about 4.
PRINTED = 20000.0
WEIGHTS = (0.003, 0.03, 0.3, 3.0)
SEEDS = {"paper": 10, "quick": 3, "smoke": 2}


def tinyimagenet_run(data: str, *, scale: str, protocol: str) -> Run:
    """The run of seed 0 without a penalty.

    Args:
        data: "tinyimagenet", or "tinyimagenet-sub100" of 100 training images a class.
        scale: "paper": 75 epochs of 64 over all training images that are left beside the validation points, with Adam
            0.001, divided by 10 after 25 and 50 epochs; "quick": 40 images a class, a network of width 16, 1000 steps;
            "smoke", to see that it runs.
        protocol: "paper"; "scripts", of which none are known for this data, draws an unbalanced subset as the others.
    """
    sub = data == "tinyimagenet-sub100"
    held = 4000 if sub else 10000
    left = 20000 - held if sub else 100000 - held
    # All that is left cannot be balanced: validation points were drawn from all classes alike, not as many from each.
    train, balanced = (left, False) if scale == "paper" else (8000, protocol == "paper")
    steps = -(-EPOCHS * train // BATCH) if scale == "paper" else 1000
    split, schedule = Split(train, held, 0, balanced), Schedule(steps, BATCH, (1 / 3, 2 / 3))
    measured = Protocol(norm_points=100 if scale == "paper" else 10, top_k=5)
    if scale == "smoke":
        split, schedule = Split(200, 100, 0), replace(schedule, steps=2, batch_size=10)
        measured = Protocol(norm_points=1, top_k=5, test_points=100)
    return Run(
        data=Data(data),
        split=split,
        model=Model("resnet18" if scale == "paper" else "resnet18-width16"),
        optimizer=Optimizer(0.001, weight_decay=0.0001),
        schedule=schedule,
        protocol=measured,
    )


def table5_arms(*, scale: str, protocol: str, data: str = "tinyimagenet") -> tuple[Arm, ...]:
    """Table 5: baseline and SpectReg by top-1 and by top-5 accuracy of the same runs, each as a group.

    The weight of SpectReg is searched on the validation points; the printed one is an arm of its own.

    Args:
        scale, protocol, data: as for `tinyimagenet_run`.
    """
    run = tinyimagenet_run(data, scale=scale, protocol=protocol)
    weights = WEIGHTS if scale != "smoke" else WEIGHTS[1:2]
    search = Grid((("weight", weights),))
    printed: Penalty = spectreg(PRINTED, protocol)
    arms = []
    for group, metric, baseline, penalized in (
        ("top-1", "test_accuracy", Reported(44.62, 0.58), Reported(50.76, 0.59)),
        ("top-5", "test_top5_accuracy", Reported(70.20, 0.58), Reported(75.93, 0.40)),
    ):
        arms += [
            Arm("Baseline", run, group=group, reported=baseline, metric=metric),
            Arm(
                "SpectReg",
                replace(run, penalties=(spectreg(weights[0], protocol),)),
                search,
                group=group,
                reported=penalized,
                metric=metric,
            ),
            Arm("SpectReg, as printed", replace(run, penalties=(printed,)), group=group, metric=metric),
        ]
    return tuple(arms)
