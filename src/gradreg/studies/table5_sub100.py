"""Table 5 of the paper on the copy of TinyImageNet-200 with 100 of the 500 training images of each class."""

from gradreg.studies import _tinyimagenet
from gradreg.studies._paper import Asked
from gradreg.study.grid import Study


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The table.

    Args:
        scale: "paper", 75 epochs and 10 seeds (for a GPU); "quick", tens of minutes on two cores; "smoke", seconds.
        protocol: "paper" or "scripts"; see `gradreg.studies._tinyimagenet`.

    Source: the paper's section 4.5, table 5; appendices B.3 and C.5.
    """
    asked = Asked(scale, protocol)
    return Study(
        name=asked.name("table5_sub100"),
        title=asked.title("table 5 on a fifth of TinyImageNet-200"),
        arms=_tinyimagenet.table5_arms(asked, _tinyimagenet.SUB100),
        seeds=_tinyimagenet.SEEDS[asked.scale],
        about=(
            "Does SpectReg help ResNet-18 on TinyImageNet-200? Its printed weight of 20000 is of a normalization that "
            "the paper does not give, so the weight is searched on validation points, by top-1 accuracy for both "
            "groups; the printed one stands beside it. "
            "The training images are a fifth of the paper's, so that its numbers are out of reach. "
            + _tinyimagenet.reading(asked)
        ),
    )
