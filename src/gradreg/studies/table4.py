"""The paper's table 4: SpectReg, DoubleBack and the confidence penalty on small CIFAR-10 and CIFAR-100."""

from gradreg.studies._cifar import SEEDS, table4_arms
from gradreg.studies._scales import called
from gradreg.study.grid import Study

ABOUT = (
    "Which regularizer serves a medium residual network best with 200 labels a class? The paper's section 4.3 and "
    "appendices B.2 and C.3, with its weights; the confidence penalty's are on the sum over a batch of 128, as in the "
    "published scripts."
)


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """Table 4.

    Args:
        scale: "paper", 50000 steps and 10 seeds (for a GPU); "quick", a narrow network, 1000 steps and 3 seeds, tens of
            minutes on two cores; "smoke", seconds.
        protocol: "paper", "scripts": see `gradreg.studies._cifar.cifar_run`.
    """
    name = called("table4", scale, protocol)
    return Study(
        name=name,
        title="Table 4, small CIFAR-10 and CIFAR-100",
        arms=table4_arms(scale=scale, protocol=protocol),
        seeds=SEEDS[scale],
        about=ABOUT,
    )
