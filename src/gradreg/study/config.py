"""A run as data: everything that decides its result, and nothing else; its key is a hash of that."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeGuard

from gradreg.study.metric import ACCURACY, Metric, metric_of

# Raised when the meaning of a field or the training code changes, so that old results are not taken for new ones.
MEANING = 3
# The same for runs with `Technique.auto_weight` alone.
AUTO_MEANING = 2

# The value of an option of a network or of a penalty.
Scalar = bool | int | float | str
Options = tuple[tuple[str, Scalar], ...]
Measure = Literal["validation", "test"]


class StudyError(ValueError):
    """A study that cannot run as asked, with what to write instead."""


@dataclass(frozen=True)
class Data:
    """Which data set.

    Attributes:
        name: of a built-in data set (`gradreg.data.known.KNOWN`), or of the user's own.
        content: hash of the user's own data, by which workers find it; where it lies is no part of a run's meaning.
    """

    name: str
    content: str = ""


@dataclass(frozen=True)
class Split:
    """How its points are divided; see `gradreg.data.splits.split`.

    Attributes:
        train_size, validation_size: numbers of points.
        test_size: 0 where the data set has a test set of its own.
        balanced: the same number of each class; else the first of a shuffle.
        unlabelled: number of further training points of which the inputs alone are used, by the penalties that need no
            labels.
    """

    train_size: int
    validation_size: int
    test_size: int = 0
    balanced: bool = True
    unlabelled: int = 0


@dataclass(frozen=True)
class Model:
    """Which network.

    Attributes:
        name: of a built-in network, or ``module:factory``.
        code: hash of the source of the user's own.
    """

    name: str
    code: str = ""


@dataclass(frozen=True)
class Optimizer:
    """How the parameters move.

    Attributes:
        name: "adam", "adamw", or "sgd" (with momentum, Nesterov's form).
        learning_rate: at the start.
        momentum: of SGD.
        weight_decay: times half the squared norm of weight matrices and filters, inside the loss; of "adamw" apart from
            it: each step takes learning rate * weight_decay of them away.
    """

    learning_rate: float
    name: Literal["adam", "sgd", "adamw"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """How long, and how the learning rate falls.

    Attributes:
        steps: optimizer steps.
        batch_size: examples in each.
        milestones: parts of the steps after which the learning rate is multiplied by ``factor``.
        until: the step to stop at and measure, in a search that gives up early on what looks bad; the learning rate
            is still that of ``steps``. 0: to the end.
        unlabelled_batch: unlabelled inputs in each step, of `Split.unlabelled`; 0: as many as labelled examples.
    """

    steps: int
    batch_size: int
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1
    until: int = 0
    unlabelled_batch: int = 0


@dataclass(frozen=True)
class Penalty:
    """A term of the objective.

    Attributes:
        preset: a preset of gradreg, such as "SpectReg".
        weight: what it is multiplied by.
        options: its other plain arguments, such as ``(("every", 8), ("samples", 2))``; ``engine``, ``projection``,
            ``magnitude`` and ``target`` name what is in that slot, whose own arguments stand beside it:
            ``(("engine", "FiniteDifference"), ("step", 0.1))``; ``site`` names submodules of the network, with commas
            between several, at whose activations derivatives are taken: ``(("site", "features.2"),)``.
    """

    preset: str
    weight: float
    options: Options = ()

    def __str__(self) -> str:
        return f"{self.preset}({', '.join([f'{self.weight:g}', *(f'{k}={v}' for k, v in self.options)])})"


@dataclass(frozen=True)
class Technique:
    """What is done beside penalties, to the batch and to the step.

    Attributes:
        mixup: alpha of `gradreg.Mixup`; 0: none.
        sam: rho of `gradreg.SAM`; 0: none.
        auto_weight: ratio of `gradreg.AutoWeight`, which moves the penalties' weights while the network trains, by the
            losses at some training and validation points; 0: weights stay as they are.
    """

    mixup: float = 0.0
    sam: float = 0.0
    auto_weight: float = 0.0

    @property
    def used(self) -> dict[str, float]:
        """Those that are in use, as they are called, with their numbers."""
        known = (("Mixup", self.mixup), ("SAM", self.sam), ("AutoWeight", self.auto_weight))
        return {name: value for name, value in known if value > 0}

    @property
    def shown(self) -> dict[str, float]:
        """Those in use but for AutoWeight, which the penalties' weights are called by."""
        return {name: value for name, value in self.used.items() if name != "AutoWeight"}

    def __str__(self) -> str:
        return " + ".join(f"{name}({value:g})" for name, value in self.used.items())


@dataclass(frozen=True)
class Protocol:
    """What is measured.

    Attributes:
        measure: "validation", or "test" for the test points as well; only runs of a selected configuration say "test".
        norm_points: how many test points the mean norm of the Jacobian is taken over: one backward pass per output.
        test_points: measure on so many of the test points, the first; 0: on all.
        top_k: measure also how often the label is among the k highest scores, as ``test_top5_accuracy`` for 5; 0: not.
        profile_points: take the measures of `gradreg.study.profile` too, of a classifier, on so many of these points,
            the first; 0: not.
    """

    measure: Measure = "test"
    norm_points: int = 500
    test_points: int = 0
    top_k: int = 0
    profile_points: int = 0


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        seed: draws the training subset, the initialization, the batches, dropout and the random projections.
        loss_factor: multiplies the task's loss, a mean over the batch, as the penalties' weights multiply theirs: half
            of the batch size makes of the mean squared error half the squared error summed over the batch.
    """

    data: Data
    split: Split
    model: Model
    optimizer: Optimizer
    schedule: Schedule
    penalties: tuple[Penalty, ...] = ()
    seed: int = 0
    protocol: Protocol = Protocol()
    loss_factor: float = 1.0
    technique: Technique = Technique()

    @property
    def metric(self) -> Metric:
        """What the run is judged by; the user's own data has classes, whatever its name."""
        return ACCURACY if self.data.content else metric_of(self.data.name)

    @property
    def period(self) -> int:
        """After how many steps the penalties that are not taken at every step come again in the same pattern."""
        return math.lcm(*(k for p in self.penalties for name, k in p.options if name == "every" and _counts(k)), 1)

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name the run by its meaning."""
        auto = {"auto_weight": AUTO_MEANING} if self.technique.auto_weight else {}
        return digest({"meaning": MEANING, **auto, **meaning(self)})

    @property
    def steps(self) -> int:
        """The steps that are taken."""
        return self.schedule.until or self.schedule.steps

    @property
    def terms(self) -> str:
        """Penalties and techniques in words, empty without: "SpectReg(0.03) + Mixup(0.2)"."""
        return " + ".join([*map(str, self.penalties), *filter(None, [str(self.technique)])])

    @property
    def unlabelled(self) -> str:
        """The unlabelled inputs in words, to go behind the data's name; empty without."""
        return f" and {self.split.unlabelled} unlabelled inputs" if self.split.unlabelled else ""

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        data = f"{self.split.train_size} {self.metric.examples} of {self.data.name}{self.unlabelled}"
        return f"{self.terms or 'no penalty'}, {data}, seed {self.seed}"


def _counts(value: Scalar) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def meaning(value: Any) -> Any:
    """A dataclass as plain data without the fields that have their default, so that a new field changes no key."""
    if isinstance(value, tuple):
        return [meaning(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    found = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if item != field.default:
            # 3 and 3.0 are the same weight.
            found[field.name] = float(item) if field.type is float else meaning(item)
    return found


def stack_kind(run: Run) -> Run:
    """What runs of one stack have in common: all but seed, training points, and by how much a weight is above 0."""
    terms = tuple(dataclasses.replace(penalty, weight=float(penalty.weight > 0)) for penalty in run.penalties)
    return dataclasses.replace(run, penalties=terms, seed=0, split=dataclasses.replace(run.split, train_size=1))


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def out_of_range(run: Run) -> list[str]:
    """What is wrong with the numbers of a run whose values have the right types, in words."""
    split, optimizer, schedule, profiled = run.split, run.optimizer, run.schedule, run.protocol.profile_points
    auto = run.technique.auto_weight
    rules = (
        ("split.train_size", split.train_size, split.train_size >= 1, ">= 1"),
        ("split.validation_size", split.validation_size, split.validation_size >= 0, ">= 0"),
        ("split.test_size", split.test_size, split.test_size >= 0, ">= 0"),
        ("split.unlabelled", split.unlabelled, split.unlabelled >= 0, ">= 0"),
        ("optimizer.learning_rate", optimizer.learning_rate, optimizer.learning_rate > 0, "> 0"),
        ("optimizer.momentum", optimizer.momentum, 0 <= optimizer.momentum < 1, ">= 0 and < 1"),
        ("optimizer.weight_decay", optimizer.weight_decay, optimizer.weight_decay >= 0, ">= 0"),
        ("schedule.steps", schedule.steps, schedule.steps >= 1, ">= 1"),
        ("schedule.batch_size", schedule.batch_size, schedule.batch_size >= 1, ">= 1"),
        (
            "schedule.milestones",
            schedule.milestones,
            all(0 <= m <= 1 for m in schedule.milestones),
            "parts from 0 to 1",
        ),
        ("schedule.until", schedule.until, 0 <= schedule.until <= schedule.steps, f"0 to {schedule.steps}"),
        (
            "schedule.unlabelled_batch",
            schedule.unlabelled_batch,
            0 <= schedule.unlabelled_batch <= max(0, split.unlabelled),
            "0 to split.unlabelled",
        ),
        ("loss_factor", run.loss_factor, run.loss_factor > 0, "> 0"),
        ("technique.mixup", run.technique.mixup, run.technique.mixup >= 0, ">= 0"),
        ("technique.sam", run.technique.sam, run.technique.sam >= 0, ">= 0"),
        ("technique.auto_weight", auto, 0 <= auto < 1, "a ratio >= 0 and < 1"),
        ("technique.auto_weight", auto, not auto or any(p.weight > 0 for p in run.penalties), "0 without a penalty"),
        ("technique.auto_weight", auto, not (auto and run.technique.sam), "0 beside technique.sam"),
        ("protocol.norm_points", run.protocol.norm_points, run.protocol.norm_points >= 1, ">= 1"),
        ("protocol.test_points", run.protocol.test_points, run.protocol.test_points >= 0, ">= 0"),
        ("protocol.top_k", run.protocol.top_k, run.protocol.top_k == 0 or run.protocol.top_k >= 2, ">= 2, or 0"),
        ("protocol.profile_points", profiled, profiled >= 0, ">= 0"),
        (
            "protocol.profile_points",
            profiled,
            profiled <= 0 or run.metric is ACCURACY,
            f"0, since {run.data.name} is a regression and the measures are those of classes",
        ),
    )
    return [f"{path}={value}; expected {expected}" for path, value, right, expected in rules if not right]
