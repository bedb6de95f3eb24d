"""SpectReg on unlabelled inputs: MNIST with ten labels a class, and the other training images without theirs."""

from dataclasses import replace

from gradreg.studies import _mnist
from gradreg.studies._paper import Asked
from gradreg.study.config import Penalty, Run
from gradreg.study.grid import Arm, Grid, Study

LABELS = 100
SPECTREG, DOUBLEBACK = (0.003, 0.01, 0.03, 0.1, 0.3), (5.0, 20.0, 50.0, 100.0, 200.0)
# Steps, seeds, tuning seeds, every so many of a grid's weights, and unlabelled inputs: all that are left at first.
SIZES = {"paper": (10000, 10, 3, 1, 49900), "quick": (1000, 3, 1, 2, 49900), "smoke": (5, 2, 1, 4, 500)}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The baseline, SpectReg on the labelled inputs, on labelled and unlabelled ones, and DoubleBack.

    Args:
        scale: "paper", "quick" or "smoke"; the smaller ones have smaller grids.
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: the paper's section 5, future work: "SpectReg makes no use of labels and can be applied to unlabeled inputs
    in a semi-supervised setting".
    """
    asked = Asked(scale, protocol)
    steps, seeds, tuning_seeds, every, unlabelled = SIZES[asked.scale]
    run = _mnist.run(asked, steps, train_size=LABELS)

    def arm(name: str, term: Penalty, weights: tuple[float, ...], run: Run = run) -> Arm:
        return Arm(name, replace(run, penalties=(term,)), Grid((("weight", weights[::every]),)))

    spectreg, more = _mnist.spectreg(asked, 0.03), replace(run, split=replace(run.split, unlabelled=unlabelled))
    return Study(
        name=asked.name("semisupervised"),
        title=asked.title(f"SpectReg on unlabelled inputs, MNIST with {LABELS} labels"),
        arms=(
            Arm("Baseline", run),
            arm("SpectReg, labelled inputs", spectreg, SPECTREG),
            arm("SpectReg, labelled + unlabelled", spectreg, SPECTREG, more),
            arm("DoubleBack", _mnist.doubleback(50.0), DOUBLEBACK),
        ),
        seeds=seeds,
        tuning_seeds=tuning_seeds,
        about=f"Does SpectReg gain from inputs without labels? {LABELS} labelled images, and {unlabelled} others whose "
        f"inputs alone are used: each step takes {_mnist.BATCH_SIZE} of both, and the penalty is the mean over all of "
        "them. Weights are chosen on validation labels (10000 at the paper's scale), which is generous: nobody with so "
        "few labels would spare as many for that. All methods have the same advantage, so that they can be compared; "
        "none would reach its number without. " + _mnist.reading(asked),
    )
