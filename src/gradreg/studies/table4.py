"""Table 4 of the paper: SpectReg, DoubleBack and the confidence penalty on small CIFAR-10 and CIFAR-100."""

from gradreg.studies import _cifar
from gradreg.studies._paper import Asked
from gradreg.study.grid import Study


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The table.

    Args:
        scale: "paper", 50000 steps and 10 seeds (for a GPU); "quick", tens of minutes on two cores; "smoke", seconds.
        protocol: "paper" or "scripts"; see `gradreg.studies._cifar`.

    Source: the paper's section 4.3, table 4; appendices B.2 and C.3.
    """
    asked = Asked(scale, protocol)
    return Study(
        name=asked.name("table4"),
        title=asked.title("table 4: gradient regularization and the confidence penalty, small CIFAR"),
        arms=_cifar.table4_arms(asked, (_cifar.TEN, _cifar.HUNDRED)),
        seeds=_cifar.SEEDS[asked.scale],
        about=(
            "Which regularizer serves a residual network best with 200 labels a class? The paper finds SpectReg "
            "ahead. " + _cifar.reading(asked)
        ),
    )
