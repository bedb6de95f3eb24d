"""A run as data: everything that decides its result, and nothing else; its key is a hash of that."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

# Raised when the meaning of a field or the training code changes, so that old results are not taken for new ones.
MEANING = 1

# How many test points the mean norm of the Jacobian is taken over: it takes one backward pass per output.
NORM_POINTS = 500


class StudyError(ValueError):
    """A study that cannot run as asked, with what to write instead."""


@dataclass(frozen=True)
class Method:
    """A way to train: a name, and the penalties with their weights.

    Attributes:
        name: the name on the command line and in results, such as "spectreg".
        label: the preset of gradreg that it is, such as "SpectReg"; "Baseline" has none.
        grid: weights to choose from, in rising order; empty for the baseline.
    """

    name: str
    label: str
    grid: tuple[float, ...] = ()


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        data: name of the data set.
        train_size, validation_size: numbers of points; test_size: as in `gradreg.data.splits.split`.
        model: name of the network.
        penalties: pairs of preset and weight, such as ``(("SpectReg", 0.03),)``.
        seed: draws the training subset, the initialization, the batches, dropout and the random projections.
        steps, batch_size: optimizer steps, and examples in each.
        learning_rate: of Adam; divided by 10 at 50 % and 75 % of the steps.
        weight_decay: times half the squared norm of weight matrices and filters, inside the loss.
        report: what is measured at the end; only "test" looks at the test points.
    """

    data: str
    train_size: int
    validation_size: int
    test_size: int
    model: str
    penalties: tuple[tuple[str, float], ...]
    seed: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    report: Literal["validation", "test"]

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name the run by its meaning."""
        penalties = [(preset, float(weight)) for preset, weight in self.penalties]  # 3 and 3.0 mean the same
        text = json.dumps({"meaning": MEANING, **self.as_dict(), "penalties": penalties}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Setting:
    """What all runs of a comparison on one data set share.

    Attributes:
        methods: the baseline first.
    """

    data: str
    model: str
    train_size: int
    validation_size: int
    test_size: int
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seeds: int
    tuning_seeds: int
    methods: tuple[Method, ...]

    def run(self, penalties: tuple[tuple[str, float], ...], seed: int, report: Literal["validation", "test"]) -> Run:
        """A run of this setting."""
        return Run(
            data=self.data,
            train_size=self.train_size,
            validation_size=self.validation_size,
            test_size=self.test_size,
            model=self.model,
            penalties=penalties,
            seed=seed,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            report=report,
        )


def _methods(**grids: tuple[float, ...]) -> tuple[Method, ...]:
    presets = ("DoubleBack", "SpectReg", "FrobReg", "JacReg", "ConfidencePenalty")
    return (Method("baseline", "Baseline"), *(Method(p.lower(), p, grids[p.lower()]) for p in presets))


SETTINGS = {
    # Small enough for three minutes on two cores, tuning included.
    "digits": Setting(
        data="digits",
        model="small-cnn",
        train_size=100,
        validation_size=400,
        test_size=797,
        steps=200,
        batch_size=20,
        learning_rate=0.003,
        weight_decay=0.0005,
        seeds=10,
        tuning_seeds=2,
        methods=_methods(
            doubleback=(3, 10, 30, 100),
            spectreg=(0.01, 0.03, 0.1, 0.3),
            frobreg=(0.01, 0.03, 0.1, 0.3),
            jacreg=(3, 10, 30, 100),
            confidencepenalty=(0.15, 0.5, 1.5, 5),
        ),
    ),
    # The published scripts' reading of the paper's appendix B.1, but for the number of steps (10000 there).
    "mnist": Setting(
        data="mnist",
        model="lenet5",
        train_size=2000,
        validation_size=10000,
        test_size=0,
        steps=2000,
        batch_size=50,
        learning_rate=0.001,
        weight_decay=0.0005,
        seeds=5,
        tuning_seeds=1,
        methods=_methods(
            doubleback=(5, 20, 50, 100),
            spectreg=(0.003, 0.01, 0.03, 0.1),
            frobreg=(0.003, 0.01, 0.03, 0.1),
            jacreg=(0.1, 0.3, 1, 3),
            confidencepenalty=(0.05, 0.15, 0.5, 1.5),
        ),
    ),
}
