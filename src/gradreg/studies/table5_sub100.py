"""The paper's table 5 on the copy of TinyImageNet-200 with 100 of the 500 training images of each class."""

from gradreg.studies._scales import called
from gradreg.studies._tinyimagenet import SEEDS, table5_arms
from gradreg.studies.table5 import ABOUT
from gradreg.study.grid import Study


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """Table 5 on ``tinyimagenet-sub100``: 80 training images a class, beside 4000 validation points.

    Args:
        scale, protocol: as for `gradreg.studies.table5.study`.
    """
    return Study(
        name=called("table5_sub100", scale, protocol),
        title="Table 5, TinyImageNet-200 (a fifth of the training images)",
        arms=table5_arms(scale=scale, protocol=protocol, data="tinyimagenet-sub100"),
        seeds=SEEDS[scale],
        about=ABOUT + " The training images are a fifth of the paper's, so its numbers are out of reach.",
    )
