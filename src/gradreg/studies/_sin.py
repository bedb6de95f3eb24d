"""What the studies on SIN have in common: the paper's setting in both readings, its weights and its numbers.

The scripts minimize, over a batch of B = 50 points, half the squared error summed over the batch plus the weight times
the mean squared slope. With e_i the errors and s_i the slopes that is

    sum_i e_i^2 / 2 + w mean_i s_i^2  =  B/2 (mean_i e_i^2 + (2 w / B) mean_i s_i^2)

so ``loss_factor=25`` on the mean squared error. That is 25 times the objective MSE + (w / 25) mean squared slope, and
Adam does not see the 25: its step m / (sqrt(v) + epsilon) is that of the objective without it, with epsilon / 25. So
the scripts' weight w is the weight w / 25 of the paper's text, "MSE + w times the penalty", at the same learning rate.

The slope of a single output is its Jacobian: FrobReg is the mean squared slope itself, which is what the scripts take.
SpectReg multiplies it by r^2, r ~ N(0, 1), whose mean is 1; the paper's appendix A draws one r for a batch.
"""

from dataclasses import replace
from typing import Literal

from gradreg.study.config import Data, Model, Optimizer, Penalty, Protocol, Run, Schedule, Split, StudyError
from gradreg.study.grid import Arm, Reported

Reading = Literal["paper", "scripts"]

# Steps, seeds.
SCALES = {"paper": (10000, 10), "quick": (2000, 3), "smoke": (20, 2)}
# By weight, as the paper's table 7 prints them, under "MSE (1e-5)"; and the unit of our tables, 1e-3, in those.
PAPER = {
    0.0: 16.6,
    0.001: 24.5,
    0.003: 2.5,
    0.01: 2.3,
    0.03: 1.6,
    0.1: 3.4,
    0.3: 74.9,
    1.0: 497.7,
    3.0: 1264.4,
    10.0: 2002.2,
}
PRINTED_UNIT = 1e-5


def sin_run(scale: str, protocol: str, data: str = "sin") -> Run:
    """The run of seed 0 without a penalty.

    Args:
        scale: "paper": 10000 steps; "quick": 2000; "smoke": 20.
        protocol: "paper": the mean squared error; "scripts": half the squared error summed over the batch.
        data: "sin" or "sin-doubled".

    Raises:
        StudyError: an unknown scale or protocol.

    Source: the paper's appendix B.4; the optimizer, which it does not name, is the scripts'.
    """
    if scale not in SCALES:
        raise StudyError(f"--scale got {scale!r}; expected one of {', '.join(SCALES)}.")
    if protocol not in ("paper", "scripts"):
        raise StudyError(f"--protocol got {protocol!r}; expected paper or scripts.")
    schedule = Schedule(steps=SCALES[scale][0], batch_size=50)
    return Run(
        data=Data(data),
        # Validation and test points are the data set's own: 1000 with noise, and the grid of 900.
        split=Split(train_size=100, validation_size=1000, balanced=False),
        model=Model("mlp-5x64"),
        optimizer=Optimizer(learning_rate=0.01),
        schedule=schedule,
        protocol=Protocol(norm_points=900),
        loss_factor=schedule.batch_size / 2 if protocol == "scripts" else 1.0,
    )


def penalty(weight: float, protocol: str) -> Penalty:
    """The penalty of a weight: of the scripts the mean squared slope itself, of the paper its random projection."""
    if protocol == "scripts":
        return Penalty("FrobReg", weight)
    return Penalty("SpectReg", weight, (("per", "batch"),))


def sin_arm(run: Run, weight: float, protocol: str, group: str = "", *, reported: bool = False) -> Arm:
    """The arm of a weight; of weight 0 the baseline.

    Args:
        run: without penalties.
        weight, protocol: see `penalty`.
        group: of the arm.
        reported: whether the paper's number of table 7 stands beside it.
    """
    paper = Reported(PAPER[weight] * PRINTED_UNIT / run.metric.size) if reported else None
    if weight == 0:
        return Arm("Baseline", run, group=group, reported=paper)
    term = penalty(weight, protocol)
    return Arm(str(term), replace(run, penalties=(term,)), group=group, reported=paper)


def named(name: str, scale: str, protocol: str) -> str:
    """The name of a study: of the scripts' reading at the paper's scale the short one."""
    return "-".join([name, *([scale] if scale != "paper" else []), *([protocol] if protocol != "scripts" else [])])


def about(protocol: str) -> str:
    """The setting in words."""
    reading = (
        "half the squared error summed over a batch of 50 plus the weight times the mean squared slope, as the paper's "
        "scripts (on one output FrobReg is the mean squared slope, and SpectReg that times the square of a random "
        "number; in terms of a mean squared error every weight is a 25th)"
        if protocol == "scripts"
        else "the mean squared error plus SpectReg, one random number for a batch, as the paper's text and appendix A"
    )
    return (
        f"SIN: y = sin(5x) from 100 noisy points, an MLP of five layers of 64; minimized is {reading}. Test MSE is on "
        "a grid of 900 points without noise."
    )
