"""Table 1 of the paper: the rows of small CIFAR-10, on the JPEG copy of CIFAR-10."""

from gradreg.studies import _cifar
from gradreg.studies._paper import Asked
from gradreg.study.grid import Study


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The table.

    Args:
        scale: "paper", 50000 steps and 10 seeds (for a GPU); "quick", tens of minutes on two cores; "smoke", seconds.
        protocol: "paper" or "scripts"; see `gradreg.studies._cifar`.

    Source: the paper's section 4.1, table 1; appendices B.2 and C.1.
    """
    asked = Asked(scale, protocol)
    return Study(
        name=asked.name("table1_jpeg"),
        title=asked.title("table 1 on the JPEG copy of CIFAR-10"),
        arms=_cifar.table1_arms(asked, (_cifar.JPEG,)),
        seeds=_cifar.SEEDS[asked.scale],
        about=(
            "What SpectReg adds to weight decay, and in its place, on small CIFAR: the paper finds that weight "
            "decay matters more than on MNIST, and that SpectReg gains beside it too. "
            "The images are those of a lossy copy, the paper's numbers those of CIFAR-10 itself. "
            + _cifar.reading(asked)
        ),
    )
