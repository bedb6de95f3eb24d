"""Penalties together on small MNIST: which combination does validation find, and what does it reach?"""

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.study.config import Penalty
from gradreg.study.grid import Arm, Grid, Reported, Study

# The paper's best of small MNIST, from its table 3.
BEST = Reported(98.07, 0.09)
_DOUBLEBACK, _SPECTREG = (10.0, 20.0, 50.0), (0.01, 0.03)
_CONFIDENCE, _SMOOTHING = (0.5, 1.0, 2.0), (0.1, 0.3)
# Differences over about a pixel: at that distance images tell more than their derivatives, and it costs less.
_TANGENTS = (0.1, 0.3)
_MOVES = (("samples", 1), ("engine", "FiniteDifference"), ("step", 12.0))
# Steps, seeds, tuning seeds, and of each grid at most so many values.
SIZES = {"paper": (10000, 10, 2, 3), "quick": (1000, 3, 1, 2), "smoke": (5, 2, 1, 1)}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The paper's best pair with its weights, and combinations of two to four penalties whose weights are searched.

    Args:
        scale: "paper", "quick" or "smoke"; the smaller ones have smaller grids.
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's table 3, whose last row is the baseline here; beyond it the paper tries no combination.
    """
    asked = Asked(scale, protocol)
    steps, seeds, tuning_seeds, most = SIZES[asked.scale]
    grids = {
        "DoubleBack": (_mnist.doubleback, _DOUBLEBACK),
        "SpectReg": (lambda weight: _mnist.spectreg(asked, weight), _SPECTREG),
        "ConfidencePenalty": (lambda weight: Penalty("ConfidencePenalty", weight), _CONFIDENCE),
        "LabelSmoothing": (lambda weight: Penalty("LabelSmoothing", weight), _SMOOTHING),
        "TangentProp": (lambda weight: Penalty("TangentProp", weight, _MOVES), _TANGENTS),
    }

    confidence = _mnist.confidence(0.01)

    def arm(*names: str, decays: tuple[float, ...] = (), given: tuple[Penalty, ...] = (), most: int = most) -> Arm:
        made = [(grids[name][0], grids[name][1][:most]) for name in names]
        axes = [(f"penalties.{i}.weight", weights) for i, (_, weights) in enumerate(made)]
        if decays:
            axes.append(("optimizer.weight_decay", decays[:most]))
        run = _mnist.run(asked, steps, *(make(weights[0]) for make, weights in made), *given)
        name = " + ".join((*names, *(penalty.preset for penalty in given), *(["weight decay"] if decays else [])))
        return Arm(name, run, Grid(tuple(axes)))

    paper = _mnist.run(asked, steps, _mnist.doubleback(10.0), confidence)
    return Study(
        name=asked.name("combination"),
        title=asked.title("combinations of penalties, small MNIST"),
        arms=(
            Arm("DoubleBack + ConfidencePenalty, the paper's weights", paper, reported=BEST),
            arm("DoubleBack", "ConfidencePenalty"),
            arm("DoubleBack", "LabelSmoothing"),
            arm("DoubleBack", "SpectReg"),
            arm("DoubleBack", "SpectReg", "ConfidencePenalty"),
            arm("DoubleBack", "ConfidencePenalty", decays=(0.00005, 0.005, 0.002)),
            arm("DoubleBack", "SpectReg", "ConfidencePenalty", "LabelSmoothing"),
            # It knows what moves an image may make, which the others do not: an arm to look at by itself.
            arm("TangentProp", "DoubleBack", given=(confidence,), most=min(most, 2)),
        ),
        seeds=seeds,
        tuning_seeds=tuning_seeds,
        about="What do penalties reach together, with the data, the network and the steps of the paper's small MNIST? "
        "The weights of each combination are those of the highest validation accuracy, and so is the combination to "
        "take: see the validation accuracies in the report. " + _mnist.reading(asked),
    )
