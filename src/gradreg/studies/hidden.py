"""SpectReg with respect to hidden activations, layer by layer: which is best on small MNIST?"""

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.study.config import Penalty
from gradreg.study.grid import Arm, Grid, Study

# What the stages of LeNet-5 return, after their nonlinearity and pooling.
STAGES = {
    "convolution 1": "features.2",
    "convolution 2": "features.5",
    "dense 1": "classifier.2",
    "dense 2": "classifier.4",
}
# For all sites: the norms there are of one order of magnitude.
WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3)
# Steps, seeds, tuning seeds, and every so many of the weights.
SIZES = {"paper": (10000, 10, 2, 1), "quick": (1000, 3, 1, 2), "smoke": (5, 2, 1, 4)}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The baseline, SpectReg at the input, at each hidden stage, and at all of them together.

    Args:
        scale: "paper", "quick" or "smoke"; the smaller ones have smaller grids.
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's section 5, future work: "gradients calculated with respect to hidden activations".
    """
    asked = Asked(scale, protocol)
    steps, seeds, tuning_seeds, every = SIZES[asked.scale]
    grid = Grid((("weight", WEIGHTS[::every]),))

    def arm(name: str, site: str = "") -> Arm:
        term = _mnist.spectreg(asked, 0.03)
        options = (*term.options, *((("site", site),) if site else ()))
        return Arm(name, _mnist.run(asked, steps, Penalty(term.preset, term.weight, options)), grid)

    return Study(
        name=asked.name("hidden"),
        title=asked.title("SpectReg with respect to hidden activations, small MNIST"),
        arms=(
            Arm("Baseline", _mnist.run(asked, steps)),
            arm("input"),
            *(arm(name, site) for name, site in STAGES.items()),
            arm("all hidden stages", ",".join(STAGES.values())),
        ),
        seeds=seeds,
        tuning_seeds=tuning_seeds,
        about="Where should the Jacobian be taken? SpectReg with respect to the input, and to what each stage of "
        "LeNet-5 returns (after ReLU and pooling; the last before dropout). At hidden stages scale alone can make the "
        "norm small: activations c times as large, and weights behind them a c-th, compute the same with a c-th of the "
        "derivative; weight decay is what stands against it. Which layer is best is chosen like the weights, by "
        "validation accuracy. " + _mnist.reading(asked),
    )
