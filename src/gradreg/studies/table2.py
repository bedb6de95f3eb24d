"""Table 2 of the paper: dropout and batch normalization against gradient regularization, small MNIST."""

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.study.grid import Arm, Reported, Study

# By row of the printed table: the network, and what is reported; DoubleBack's and SpectReg's weights are those of the
# paper's appendix C.2.
NETWORKS = {
    "neither": ("lenet5-plain", Reported(96.99, 0.15), (0.01, Reported(97.59, 0.13)), (50.0, Reported(97.56, 0.24))),
    "batch normalization": (
        "lenet5-batchnorm",
        Reported(96.89, 0.23),
        (0.001, Reported(96.94, 0.27)),
        (0.001, Reported(96.89, 0.22)),
    ),
    "dropout": ("lenet5", Reported(97.29, 0.19), (0.01, Reported(97.65, 0.14)), (50.0, Reported(97.98, 0.12))),
}
# The comparison that the paper makes across its rows: of methods that each stand alone.
ALONE = {"dropout": ("dropout", "Baseline"), "batch normalization": ("batch normalization", "Baseline")} | {
    name: ("neither", name) for name in ("SpectReg", "DoubleBack")
}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The table, and its methods each alone; the runs of the second are among those of the first.

    Args:
        scale: "paper", "quick" or "smoke".
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's section 4.2, table 2; appendix C.2.
    """
    asked = Asked(scale, protocol)
    table = {(group, arm.name): arm for group in NETWORKS for arm in _arms(group, asked)}
    alone = [
        Arm(name, table[place].run, group="each alone", reported=table[place].reported) for name, place in ALONE.items()
    ]
    return Study(
        name=asked.name("table2"),
        title=asked.title("table 2: dropout and batch normalization against gradient regularization, small MNIST"),
        arms=(*table.values(), *alone),
        seeds=_mnist.SIZES[asked.scale][1],
        pairs=True,
        about="The paper's table 2: LeNet-5 with dropout after the last hidden layer, with batch normalization in its "
        "place, and with neither. The paper finds that SpectReg and DoubleBack each alone do better than dropout and "
        "than batch normalization, and that dropout with DoubleBack does best. " + _mnist.reading(asked),
    )


def _arms(group: str, asked: Asked) -> tuple[Arm, ...]:
    network, baseline, (spectreg, with_spectreg), (doubleback, with_doubleback) = NETWORKS[group]
    if asked.is_scripts and network == "lenet5-batchnorm":
        network = "lenet5-batch-statistics"  # by the batch at test time too
    steps, _ = _mnist.SIZES[asked.scale]
    penalties = {
        "Baseline": ((), baseline),
        "SpectReg": ((_mnist.spectreg(asked, spectreg),), with_spectreg),
        "DoubleBack": ((_mnist.doubleback(doubleback),), with_doubleback),
    }
    return tuple(
        Arm(name, _mnist.of_network(_mnist.run(asked, steps, *terms), network), group=group, reported=reported)
        for name, (terms, reported) in penalties.items()
    )
