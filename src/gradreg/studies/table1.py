"""Table 1 of the paper: SpectReg with and without weight decay. The rows of small MNIST."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.study.config import Penalty, Run
from gradreg.study.grid import Arm, Reported, Study


@dataclass(frozen=True)
class Half:
    """One half of a row of the printed table: a data set with one weight decay.

    Attributes:
        data: as the paper calls it; a key of `BASES`.
        decay: the weight decay.
        baseline, spectreg: accuracies.
        weight: of SpectReg, from the paper's appendix C.1.
    """

    data: str
    decay: float
    baseline: Reported
    weight: float
    spectreg: Reported


HALVES = (
    Half("small MNIST", 0.0, Reported(97.25, 0.22), 0.03, Reported(97.69, 0.11)),
    Half("small MNIST", 0.0005, Reported(97.40, 0.15), 0.05, Reported(97.73, 0.13)),
)
# By data set: the run without a penalty, and SpectReg of a weight, which may differ by the reading.
BASES: dict[str, tuple[Callable[[Asked], Run], Callable[[Asked, float], Penalty]]] = {
    "small MNIST": (lambda asked: _mnist.run(asked, _mnist.SIZES[asked.scale][0]), _mnist.spectreg),
}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The table.

    Args:
        scale: "paper", "quick" or "smoke".
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's section 4.1, table 1; appendix C.1.
    """
    asked = Asked(scale, protocol)
    return Study(
        name=asked.name("table1"),
        title=asked.title("table 1: gradient regularization alongside weight decay"),
        arms=tuple(arm for half in HALVES for arm in _arms(half, asked)),
        seeds=_mnist.SIZES[asked.scale][1],
        about="What SpectReg adds to weight decay, and in its place: the rows of small MNIST in the paper's table 1. "
        "The paper finds that on MNIST it gains more than weight decay does, and gains beside it too. "
        + _mnist.reading(asked),
    )


def _arms(half: Half, asked: Asked) -> tuple[Arm, Arm]:
    base, spectreg = BASES[half.data]
    run = base(asked)
    run = replace(run, optimizer=replace(run.optimizer, weight_decay=half.decay))
    group = f"{half.data}, weight decay {half.decay:g}" if half.decay else f"{half.data}, no weight decay"
    return (
        Arm("Baseline", run, group=group, reported=half.baseline),
        Arm(
            "SpectReg",
            replace(run, penalties=(spectreg(asked, half.weight),)),
            group=group,
            reported=half.spectreg,
        ),
    )
