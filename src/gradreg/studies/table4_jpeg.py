"""Table 4 of the paper, the CIFAR-10 half, on the JPEG copy of CIFAR-10, where that is what there is."""

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
        name=asked.name("table4_jpeg"),
        title=asked.title("table 4 on the JPEG copy of CIFAR-10"),
        arms=_cifar.table4_arms(asked, (_cifar.JPEG,)),
        seeds=_cifar.SEEDS[asked.scale],
        about=(
            "Which regularizer serves a residual network best with 200 labels a class? The paper finds SpectReg "
            "ahead. "
            "The images are those of a lossy copy, the paper's numbers those of CIFAR-10 itself. "
            + _cifar.reading(asked)
        ),
    )
