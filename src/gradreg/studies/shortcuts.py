"""What cheaper forms of SpectReg and DoubleBack keep of their gain: LeNet-5 on MNIST, 200 labels a class."""

from dataclasses import replace

from gradreg.studies.mnist import RUN
from gradreg.study.config import Options, Penalty, Protocol, StudyError
from gradreg.study.grid import Arm, Grid, Study

# Name in the table: the options of SpectReg(0.03).
SPECTREG: dict[str, Options] = {
    "SpectReg": (),
    "every 4 steps": (("every", 4),),
    "every 8 steps": (("every", 8),),
    "every 16 steps": (("every", 16),),
    "half of the batch": (("fraction", 0.5),),
    "forward mode, input side": (("engine", "ForwardMode"), ("side", "input")),
    "finite difference 0.01": (("engine", "FiniteDifference"), ("step", 0.01)),
    "finite difference 0.1": (("engine", "FiniteDifference"), ("step", 0.1)),
    "finite difference 0.5": (("engine", "FiniteDifference"), ("step", 0.5)),
    "finite difference 0.3, input side": (("engine", "FiniteDifference"), ("side", "input"), ("step", 0.3)),
}
# Steps, seeds.
SCALES = {"paper": (10000, 5), "quick": (2000, 3), "smoke": (10, 2)}
LAZY_WEIGHTS = (6.0, 12.0, 25.0, 50.0)


def study(scale: str = "paper") -> Study:
    """The comparison.

    Args:
        scale: "paper", the 10000 steps of the paper's protocol; "quick", "smoke".
    """
    if scale not in SCALES:
        raise StudyError(f"--scale got {scale!r}; expected one of {', '.join(SCALES)}.")
    steps, seeds = SCALES[scale]
    run = replace(RUN, schedule=replace(RUN.schedule, steps=steps), protocol=Protocol())

    def arm(name: str, preset: str, weight: float, options: Options, weights: tuple[float, ...] = ()) -> Arm:
        search = Grid((("weight", weights),)) if weights else None
        return Arm(name, replace(run, penalties=(Penalty(preset, weight, options),)), search)

    return Study(
        name="shortcuts" if scale == "paper" else f"shortcuts-{scale}",
        title="what cheaper forms of a penalty keep of its gain",
        arms=(
            Arm("Baseline", run),
            *(arm(name, "SpectReg", 0.03, options) for name, options in SPECTREG.items()),
            arm("DoubleBack", "DoubleBack", 50.0, ()),
            arm("DoubleBack every 4 steps", "DoubleBack", 50.0, (("every", 4),), LAZY_WEIGHTS),
        ),
        seeds=seeds,
        tuning_seeds=1,
        about="SpectReg(0.03) and DoubleBack(50) at every step, and in forms that cost less: taken every k steps with "
        "k times the weight, on a part of the batch, by finite differences, by a probe on the input side. The weights "
        "are those of the paper, except that DoubleBack's lazy form is tuned.",
    )
