"""The paper's setting for small CIFAR-10 and CIFAR-100, and its rows of tables 1 and 4: appendices B.2 and C.

200 labels a class, a residual network, 50000 steps of 128 by SGD with Nesterov's momentum 0.9; no augmentation.
"""

from dataclasses import dataclass, replace

from gradreg.study.config import Data, Model, Optimizer, Options, Penalty, Protocol, Run, Schedule, Split
from gradreg.study.grid import Arm, Reported

PER_CLASS = 200
WEIGHT_DECAY = 0.003
# The published scripts sum the confidence penalty over the batch, and average the loss: a weight w of theirs is
# w * BATCH on the mean over the batch, as it is here.
BATCH = 128


@dataclass(frozen=True)
class _Size:
    """What a scale is: network, steps, examples in a step, seeds, and what is held out and measured."""

    model: str
    steps: int
    batch: int
    seeds: int
    validation: int = 10000
    test_points: int = 0
    norm_points: int = 500


_SIZES = {
    "paper": _Size("resnet", 50000, BATCH, 10),
    "quick": _Size("resnet-width8", 1000, BATCH, 3, norm_points=100),
    "smoke": _Size("resnet-width8", 2, 10, 2, validation=100, test_points=100, norm_points=2),
}
SEEDS = {scale: size.seeds for scale, size in _SIZES.items()}


def cifar_run(data: str, *, classes: int, scale: str, protocol: str, weight_decay: float = WEIGHT_DECAY) -> Run:
    """The run of seed 0 without a penalty.

    Args:
        data: "cifar10", "cifar10-jpeg" or "cifar100".
        classes: of the data.
        scale: "paper", as above; "quick", a network of width 8 and 1000 steps; "smoke", to see that it runs.
        protocol: "paper", the text: learning rate 0.1, as many labels of each class; "scripts": 0.01, and the first
            points of a shuffle. Both divide it by 10 at 50 % and at 75 % of the steps.
        weight_decay: times half the squared norm of the filters and matrices.
    """
    size, scripts = _SIZES[scale], protocol == "scripts"
    # Of the paper's scale the exact norm of 100 outputs would cost more than training.
    norm_points = size.norm_points if classes <= 10 else max(2, size.norm_points // 10)
    train = PER_CLASS * classes if scale != "smoke" else 2 * classes
    return Run(
        data=Data(data),
        split=Split(train, size.validation, 0, balanced=not scripts),
        model=Model(size.model),
        optimizer=Optimizer(0.01 if scripts else 0.1, "sgd", 0.9, weight_decay),
        schedule=Schedule(steps=size.steps, batch_size=size.batch),
        protocol=Protocol(norm_points=norm_points, test_points=size.test_points),
    )


def spectreg(weight: float, protocol: str) -> Penalty:
    """SpectReg with a row for each example; by the scripts, with one for the whole batch."""
    options: Options = (("per", "batch"),) if protocol == "scripts" else ()
    return Penalty("SpectReg", weight, options)


def table1_arms(
    *, scale: str, protocol: str, ten: str | None = "cifar10", hundred: str | None = "cifar100"
) -> tuple[Arm, ...]:
    """The CIFAR rows of table 1: baseline and SpectReg, without and with weight decay 0.003, as a group each.

    Args:
        scale, protocol: as for `cifar_run`.
        ten, hundred: the data sets; None leaves the rows out.
    """
    rows = (
        (ten, 10, 0.0, (48.27, 0.82), 0.001, (50.41, 0.65)),
        (ten, 10, WEIGHT_DECAY, (55.63, 2.06), 0.03, (59.24, 1.48)),
        (hundred, 100, 0.0, (37.81, 0.33), 0.001, (41.80, 0.70)),
        (hundred, 100, WEIGHT_DECAY, (49.56, 2.96), 0.0003, (52.49, 0.65)),
    )
    arms = []
    for data, classes, decay, baseline, weight, penalized in rows:
        if data is None:
            continue
        run = cifar_run(data, classes=classes, scale=scale, protocol=protocol, weight_decay=decay)
        group = f"small CIFAR-{classes}, " + (f"weight decay {decay:g}" if decay else "no weight decay")
        arms += [
            Arm("Baseline", run, group=group, reported=Reported(*baseline)),
            Arm(
                "SpectReg",
                replace(run, penalties=(spectreg(weight, protocol),)),
                group=group,
                reported=Reported(*penalized),
            ),
        ]
    return tuple(arms)


def table4_arms(
    *, scale: str, protocol: str, ten: str | None = "cifar10", hundred: str | None = "cifar100"
) -> tuple[Arm, ...]:
    """Table 4: baseline, SpectReg, DoubleBack and ConfidencePenalty, a group for each data set.

    Args:
        scale, protocol: as for `cifar_run`.
        ten, hundred: the data sets; None leaves the group out.
    """
    groups = (
        (
            (ten, 10, (55.63, 2.06)),
            (
                (spectreg(0.03, protocol), (59.24, 1.48)),
                (Penalty("DoubleBack", 1.0), (57.45, 1.79)),
                (Penalty("ConfidencePenalty", 0.003 * BATCH), (58.30, 1.79)),
            ),
        ),
        (
            (hundred, 100, (49.56, 2.96)),
            (
                (spectreg(0.00003, protocol), (52.49, 0.65)),
                (Penalty("DoubleBack", 0.003), (48.72, 2.84)),
                (Penalty("ConfidencePenalty", 0.00001 * BATCH), (51.04, 1.29)),
            ),
        ),
    )
    arms = []
    for (data, classes, baseline), methods in groups:
        if data is None:
            continue
        run, group = cifar_run(data, classes=classes, scale=scale, protocol=protocol), f"small CIFAR-{classes}"
        arms.append(Arm("Baseline", run, group=group, reported=Reported(*baseline)))
        arms += [
            Arm(penalty.preset, replace(run, penalties=(penalty,)), group=group, reported=Reported(*reported))
            for penalty, reported in methods
        ]
    return tuple(arms)
