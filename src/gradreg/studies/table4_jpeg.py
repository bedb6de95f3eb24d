"""The CIFAR-10 half of the paper's table 4 on the JPEG copy of CIFAR-10, where that is what there is."""

from gradreg.studies._cifar import SEEDS, table4_arms
from gradreg.studies._scales import called
from gradreg.studies.table4 import ABOUT
from gradreg.study.grid import Study


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """Table 4 on ``cifar10-jpeg``: the images of CIFAR-10 after a lossy compression.

    Args:
        scale, protocol: as for `gradreg.studies.table4.study`.
    """
    return Study(
        name=called("table4_jpeg", scale, protocol),
        title="Table 4, small CIFAR-10 (JPEG copy)",
        arms=table4_arms(scale=scale, protocol=protocol, ten="cifar10-jpeg", hundred=None),
        seeds=SEEDS[scale],
        about=ABOUT + " The images are those of a lossy copy, the paper's numbers those of CIFAR-10 itself.",
    )
