"""Figure 5 of the paper: accuracy and the size of the weights against the weight of DoubleBack, small MNIST."""

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.study.grid import Arm, Study

WEIGHTS = (0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
DECAYS = (0.0, 0.0005, 0.005)
FEW = (1.0, 5.0, 20.0, 50.0, 1000.0)
# Steps, seeds, weight decays, weights.
SIZES = {
    "paper": (10000, 10, DECAYS, WEIGHTS),
    "quick": (1000, 2, DECAYS[:2], FEW),
    "smoke": (5, 2, DECAYS[:2], (1.0, 20.0, 1000.0)),
}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The figure: a group for each weight decay, an arm for each weight of DoubleBack, the first without it.

    Args:
        scale: "paper"; "quick" and "smoke" have fewer weights and two weight decays.
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's appendix D, figure 5. Which weights and weight decays it shows is not in its text; these are
    ours.
    """
    asked = Asked(scale, protocol)
    steps, seeds, decays, weights = SIZES[asked.scale]
    found = []
    for decay in decays:
        group = f"weight decay {decay:g}" if decay else "no weight decay"
        found.append(Arm("Baseline", _mnist.run(asked, steps, decay=decay), group=group))
        for weight in weights:
            run = _mnist.run(asked, steps, _mnist.doubleback(weight), decay=decay)
            found.append(Arm(f"DoubleBack({weight:g})", run, group=group))
    return Study(
        name=asked.name("figure5"),
        title=asked.title("figure 5: accuracy and weight norm against DoubleBack's weight, small MNIST"),
        arms=tuple(found),
        seeds=seeds,
        about="The paper's figure 5: accuracy, and half the squared L2 norm of the weights, against the weight of "
        "DoubleBack, for several weight decays. The paper finds that accuracy rises until a phase transition near a "
        "weight of 20, whatever the weight decay, and then collapses; and that below it the norm grows with the "
        "weight, except without weight decay, where it falls. The figure has no printed numbers. "
        + _mnist.reading(asked),
    )
