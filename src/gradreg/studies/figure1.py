"""Figure 1 of the paper: accuracy against the number of training points, MNIST, with the weights of its table 8."""

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.studies.table8 import TRAIN_SIZES, arms
from gradreg.study.grid import Study

# Steps, seeds, training sizes.
SIZES = {"paper": (10000, 10, TRAIN_SIZES), "quick": (500, 2, (500, 2000, 5000)), "smoke": (5, 2, (500, 1000))}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The figure: a group for each training size, each regularizer with the paper's weight there.

    Args:
        scale: "paper"; "quick" and "smoke" have fewer training sizes.
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's section 4.4, figure 1; the weights are those of table 8.
    """
    asked = Asked(scale, protocol)
    steps, seeds, sizes = SIZES[asked.scale]
    return Study(
        name=asked.name("figure1"),
        title=asked.title("figure 1: the effect of training set size, MNIST"),
        arms=tuple(arm for size in sizes for arm in arms(asked, steps, size, searched=False)),
        seeds=seeds,
        about="The paper's figure 1, with the weights of its table 8. It finds DoubleBack best at every size and "
        "JacReg below its peers. The figure has no printed numbers; those at 2000 points are from tables 3 and 6. "
        + _mnist.reading(asked),
    )
