"""Table 6 of the paper: does the random projection of SpectReg lose accuracy against the whole Jacobian?"""

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.study.config import Penalty
from gradreg.study.grid import Arm, Study

# JacReg and FrobReg take a backward pass for each of the 10 outputs.
SIZES = _mnist.SIZES | {"quick": (1000, 2)}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The table: every pair is compared, with Bonferroni's correction, as the paper does; there is no baseline.

    Args:
        scale: "paper", "quick" or "smoke".
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's section 4.6, table 6; appendix C.6.
    """
    asked = Asked(scale, protocol)
    steps, seeds = SIZES[asked.scale]
    return Study(
        name=asked.name("table6"),
        title=asked.title("table 6: a random projection of the Jacobian against all of it, small MNIST"),
        arms=(
            Arm("SpectReg", _mnist.run(asked, steps, _mnist.spectreg(asked, 0.03)), reported=_mnist.SPECTREG),
            Arm("JacReg", _mnist.run(asked, steps, Penalty("JacReg", 1.0)), reported=_mnist.JACREG),
            Arm("FrobReg", _mnist.run(asked, steps, Penalty("FrobReg", 0.03)), reported=_mnist.FROBREG),
        ),
        seeds=seeds,
        correction="bonferroni",
        pairs=True,
        about="The paper's table 6: SpectReg penalizes a random projection of the Jacobian of the logits, FrobReg all "
        "of it, JacReg all of that of the probabilities. The paper finds SpectReg best, and after Bonferroni's "
        "correction only the difference between SpectReg and JacReg significant. SpectReg is the baseline here. "
        + _mnist.reading(asked),
    )
