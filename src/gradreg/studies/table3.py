"""Table 3 of the paper: the confidence penalty against gradient regularization, and with it, small MNIST."""

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.study.config import Penalty
from gradreg.study.grid import Arm, Reported, Study

# As the paper prints it, for a sum over the batch.
CONFIDENCE = 0.01
WITHOUT, WITH = "without confidence penalty", "with confidence penalty"


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The table; the confidence penalty alone stands in both groups: beside the baseline, and as the baseline of one.

    Args:
        scale: "paper", "quick" or "smoke".
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's section 4.3, table 3; appendix C.3.
    """
    asked = Asked(scale, protocol)
    steps, seeds = _mnist.SIZES[asked.scale]
    confidence = _mnist.confidence(CONFIDENCE)

    def arm(group: str, name: str, reported: Reported, *penalties: Penalty) -> Arm:
        return Arm(name, _mnist.run(asked, steps, *penalties), group=group, reported=reported)

    return Study(
        name=asked.name("table3"),
        title=asked.title("table 3: confidence penalty against gradient regularization, small MNIST"),
        arms=(
            arm(WITHOUT, "Baseline", _mnist.BASELINE),
            arm(WITHOUT, "SpectReg", _mnist.SPECTREG, _mnist.spectreg(asked, 0.03)),
            arm(WITHOUT, "DoubleBack", _mnist.DOUBLEBACK, _mnist.doubleback(50.0)),
            arm(WITHOUT, "ConfidencePenalty", _mnist.CONFIDENCE, confidence),
            arm(WITH, "Baseline", _mnist.CONFIDENCE, confidence),
            arm(WITH, "SpectReg", Reported(97.89, 0.12), _mnist.spectreg(asked, 0.03), confidence),
            arm(WITH, "DoubleBack", Reported(98.07, 0.09), _mnist.doubleback(10.0), confidence),
        ),
        seeds=seeds,
        pairs=True,
        about="The paper's table 3. It finds that every regularizer improves on the baseline, DoubleBack most, and "
        "that the gains of gradient regularization and of the confidence penalty add up. " + _mnist.reading(asked),
    )
