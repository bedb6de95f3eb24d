"""What the paper's studies on small CIFAR-10 and CIFAR-100 have in common: appendices B.2 and C, in two readings.

A residual network of three levels (48, 96 and 192 filters), 200 labels a class, no augmentation, SGD with Nesterov's
momentum 0.9, 50000 steps of 128, the learning rate divided by 10 at 50 % and at 75 % of them, weight decay 0.003 (which
appendix C.1 gives as 0.0005 for CIFAR-10; table 1 and appendix B.2 have 0.003).

"paper" is the paper's text: learning rate 0.1, as many training points of each class, SpectReg with a row for each
example. "scripts" is what the published scripts do where they differ: learning rate 0.01 in most of them, the first of
a shuffle whatever their classes, one row for the whole batch.

In both, the confidence penalty's weights, which the scripts sum over the batch while they average the loss, are
multiplied by 128, since ours is a mean; and final runs are measured on the official test set, weights are chosen on
10000 points of the training set (the scripts tune on the test set).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gradreg.studies._paper import Asked
from gradreg.study.config import Data, Model, Optimizer, Penalty, Protocol, Run, Schedule, Split
from gradreg.study.grid import Arm, Reported

PER_CLASS = 200
BATCH_SIZE = 128
WEIGHT_DECAY = 0.003


@dataclass(frozen=True)
class Source:
    """A data set that rows of the tables are made from.

    Attributes:
        data: its name here.
        classes: number of labels.
    """

    data: str
    classes: int

    @property
    def title(self) -> str:
        """As the paper calls it."""
        return f"small CIFAR-{self.classes}"


TEN, HUNDRED = Source("cifar10", 10), Source("cifar100", 100)
# The lossy copy of CIFAR-10.
JPEG = Source("cifar10-jpeg", 10)


@dataclass(frozen=True)
class _Size:
    """Network, steps, examples in a step, seeds; points of validation and of test (0: all), and of the norm."""

    model: str
    steps: int
    batch: int
    seeds: int
    validation: int = 10000
    test: int = 0
    norm: int = 500


_SIZES = {
    "paper": _Size("resnet", 50000, BATCH_SIZE, 10),
    "quick": _Size("resnet-width8", 400, BATCH_SIZE, 3, norm=100),
    "smoke": _Size("resnet-width8", 2, 10, 2, validation=100, test=100, norm=2),
}
SEEDS = {scale: size.seeds for scale, size in _SIZES.items()}

_BOTH = (
    "A residual network, SGD with Nesterov's momentum 0.9, weight decay 0.003 within the loss on weight matrices and "
    "filters, no augmentation. Weights of the confidence penalty are 128 times the paper's, which multiply a sum over "
    "the batch."
)


def reading(asked: Asked) -> str:
    """How networks are trained, for the report."""
    narrow = "" if asked.scale == "paper" else " This size has a network of width 8 in place of 48."
    if asked.is_scripts:
        return (
            f"{_BOTH} Learning rate 0.01; training subsets are the first of a shuffle, and SpectReg draws a row for "
            f"each batch.{narrow}"
        )
    return (
        f"{_BOTH} Learning rate 0.1; training subsets have the same number of each class, and SpectReg draws a row for "
        f"each example.{narrow}"
    )


def run(asked: Asked, source: Source, decay: float = WEIGHT_DECAY) -> Run:
    """The residual network on 200 labels a class.

    Args:
        asked: size and reading. "quick" has a network of width 8 and 400 steps; "smoke" also few points.
        source: the data.
        decay: the weight decay.
    """
    size = _SIZES[asked.scale]
    per_class = 2 if asked.scale == "smoke" else PER_CLASS
    return Run(
        data=Data(source.data),
        split=Split(per_class * source.classes, size.validation, balanced=not asked.is_scripts),
        model=Model(size.model),
        optimizer=Optimizer(0.01 if asked.is_scripts else 0.1, "sgd", 0.9, decay),
        schedule=Schedule(steps=size.steps, batch_size=size.batch),
        # The norm takes a backward pass for each output.
        protocol=Protocol(norm_points=max(2, size.norm * 10 // source.classes), test_points=size.test),
    )


def spectreg(asked: Asked, weight: float) -> Penalty:
    """SpectReg with a row for each example, or one for the batch."""
    return Penalty("SpectReg", weight, (("per", "batch"),) if asked.is_scripts else ())


def doubleback(weight: float) -> Penalty:
    """DoubleBack, which both readings agree on."""
    return Penalty("DoubleBack", weight)


def confidence(weight: float) -> Penalty:
    """The confidence penalty of a weight that multiplies a sum over the batch: 0.003 is 0.384 of a mean."""
    return Penalty("ConfidencePenalty", float(f"{weight * BATCH_SIZE:.12g}"))


# By number of classes and weight decay: the baseline, SpectReg's weight (appendix C.1), and what it comes to.
_TABLE1 = {
    (10, 0.0): (Reported(48.27, 0.82), 0.001, Reported(50.41, 0.65)),
    (10, WEIGHT_DECAY): (Reported(55.63, 2.06), 0.03, Reported(59.24, 1.48)),
    (100, 0.0): (Reported(37.81, 0.33), 0.001, Reported(41.80, 0.70)),
    (100, WEIGHT_DECAY): (Reported(49.56, 2.96), 0.0003, Reported(52.49, 0.65)),
}


def table1_arms(asked: Asked, sources: Iterable[Source]) -> tuple[Arm, ...]:
    """The CIFAR rows of table 1: baseline and SpectReg, without and with weight decay 0.003, as a group each.

    Args:
        asked: size and reading.
        sources: the data sets.
    """
    arms = []
    for source in sources:
        for decay in (0.0, WEIGHT_DECAY):
            baseline, weight, penalized = _TABLE1[source.classes, decay]
            given = run(asked, source, decay)
            group = f"{source.title}, " + (f"weight decay {decay:g}" if decay else "no weight decay")
            arms += [
                Arm("Baseline", given, group=group, reported=baseline),
                Arm(
                    "SpectReg",
                    replace(given, penalties=(spectreg(asked, weight),)),
                    group=group,
                    reported=penalized,
                ),
            ]
    return tuple(arms)


def table4_arms(asked: Asked, sources: Iterable[Source]) -> tuple[Arm, ...]:
    """Table 4: baseline, SpectReg, DoubleBack and ConfidencePenalty, a group for each data set.

    Args:
        asked: size and reading.
        sources: the data sets.
    """
    # By number of classes: the baseline, and each penalty with its weight (appendix C.3) and what it comes to.
    rows = {
        10: (
            Reported(55.63, 2.06),
            (spectreg(asked, 0.03), Reported(59.24, 1.48)),
            (doubleback(1.0), Reported(57.45, 1.79)),
            (confidence(0.003), Reported(58.30, 1.79)),
        ),
        100: (
            Reported(49.56, 2.96),
            (spectreg(asked, 0.00003), Reported(52.49, 0.65)),
            (doubleback(0.003), Reported(48.72, 2.84)),
            (confidence(0.00001), Reported(51.04, 1.29)),
        ),
    }
    arms = []
    for source in sources:
        given, (baseline, *methods) = run(asked, source), rows[source.classes]
        arms.append(Arm("Baseline", given, group=source.title, reported=baseline))
        arms += [
            Arm(penalty.preset, replace(given, penalties=(penalty,)), group=source.title, reported=reported)
            for penalty, reported in methods
        ]
    return tuple(arms)
