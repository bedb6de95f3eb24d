"""Table 8 of the paper: the best weight of each regularizer by the number of training points, MNIST."""

from collections.abc import Callable

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.study.config import Penalty, StudyError
from gradreg.study.grid import Arm, Grid, Reported, Study

TRAIN_SIZES = (500, 1000, 2000, 3000, 4000, 5000, 10000, 15000, 20000)
# The weights as the table prints them, by training size; those of the confidence penalty are for a sum over the batch.
WEIGHTS: dict[str, tuple[float, ...]] = {
    "DoubleBack": (50, 50, 50, 20, 20, 20, 5, 2, 2),
    "SpectReg": (0.03, 0.03, 0.03, 0.03, 0.03, 0.003, 0.01, 0.01, 0.001),
    "JacReg": (0.3, 0.03, 1, 1, 1, 1, 1, 1, 0.3),
    "ConfidencePenalty": (0.01, 0.01, 0.01, 0.01, 0.01, 0.1, 0.1, 0.01, 0.03),
}
# From end to end of the paper's intervals (appendix B), all weights of the table among them; which others the paper
# tried is not printed.
_DECADES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
GRIDS: dict[str, tuple[float, ...]] = {
    "DoubleBack": (0.0003, 0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
    "SpectReg": _DECADES,
    "JacReg": _DECADES,
    "ConfidencePenalty": _DECADES,
}
# What figure 1 shows at 2000 training points is in tables 3 and 6.
AT_SMALL = {
    "Baseline": _mnist.BASELINE,
    "DoubleBack": _mnist.DOUBLEBACK,
    "SpectReg": _mnist.SPECTREG,
    "JacReg": _mnist.JACREG,
    "ConfidencePenalty": _mnist.CONFIDENCE,
}
# Steps, seeds, tuning seeds, training sizes.
SIZES = {
    "paper": (10000, 10, 3, TRAIN_SIZES),
    "quick": (300, 2, 1, (500, 2000)),
    "smoke": (5, 2, 1, (500, 1000)),
}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The search over the weights of each regularizer at each training size, on validation points.

    Args:
        scale: "paper"; "quick" and "smoke" have two training sizes, and the paper's weight with its two neighbours.
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's section 4.4, table 8 in appendix C.4; the intervals of appendix B.
    """
    asked = Asked(scale, protocol)
    steps, seeds, tuning_seeds, sizes = SIZES[asked.scale]
    return Study(
        name=asked.name("table8"),
        title=asked.title("table 8: the best weight by training size, MNIST"),
        arms=tuple(arm for size in sizes for arm in arms(asked, steps, size, searched=True)),
        seeds=seeds,
        tuning_seeds=tuning_seeds,
        about="The weight that validation accuracy selects for each regularizer at each training size, beside the one "
        "in the paper's table 8, and the accuracy that it reaches. The paper shows accuracies in figure 1 alone, "
        "without numbers; those at 2000 points are from its tables 3 and 6. " + _mnist.reading(asked),
    )


def arms(asked: Asked, steps: int, size: int, *, searched: bool) -> tuple[Arm, ...]:
    """The baseline and the four regularizers at a training size.

    Args:
        asked: size and reading.
        steps: of training.
        size: number of training points; one of the table's.
        searched: whether weights are searched; else they are the table's.
    """
    if size not in TRAIN_SIZES:
        raise StudyError(f"table 8 got {size} training points; expected one of {', '.join(map(str, TRAIN_SIZES))}.")
    make: dict[str, Callable[[float], Penalty]] = {
        "DoubleBack": _mnist.doubleback,
        "SpectReg": lambda weight: _mnist.spectreg(asked, weight),
        "JacReg": lambda weight: Penalty("JacReg", weight),
        "ConfidencePenalty": _mnist.confidence,
    }
    group = f"training points {size}"

    def reported(name: str) -> Reported | None:
        return AT_SMALL[name] if size == _mnist.SMALL else None

    found = [Arm("Baseline", _mnist.run(asked, steps, train_size=size), group=group, reported=reported("Baseline"))]
    for name, weights in WEIGHTS.items():
        printed = weights[TRAIN_SIZES.index(size)]
        tried = tuple(make[name](weight).weight for weight in _grid(name, printed, asked))
        found.append(
            Arm(
                name,
                _mnist.run(asked, steps, make[name](float(printed)), train_size=size),
                Grid((("weight", tried),)) if searched else None,
                group,
                reported(name),
                make[name](float(printed)).weight if searched else None,
            )
        )
    return tuple(found)


def _grid(name: str, printed: float, asked: Asked) -> tuple[float, ...]:
    """The weights to try: all, or at smaller scales the printed one with its neighbours."""
    grid = GRIDS[name]
    at = grid.index(printed)
    return grid if asked.scale == "paper" else grid[max(0, at - 1) : at + 2]
