"""A study as data: its configurations ("arms"), how their hyper-parameters are searched, and the runs that follow."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from gradreg.study.config import Run, Scalar, StudyError
from gradreg.study.metric import Metric

# Tuning seeds start here: their training subsets are not those of the final runs.
TUNING_SEED = 1000

# Values of hyper-parameters by their path in a run, such as (("weight", 0.03),).
Values = tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, by default on a logarithmic scale."""

    low: float
    high: float
    log: bool = True

    def __post_init__(self) -> None:
        if not (self.low < self.high and (self.low > 0 or not self.log)):
            raise StudyError(
                f"a range got low={self.low:g}, high={self.high:g}, log={self.log}; expected low < high, and low > 0 "
                "on a logarithmic scale."
            )


@dataclass(frozen=True)
class Grid:
    """Every combination of the values given, on every tuning seed.

    Attributes:
        values: for each path, such as "weight" or "optimizer.learning_rate", the values to try.

    Example:
        >>> Grid((("weight", (0.01, 0.03)),)).points()
        [(('weight', 0.01),), (('weight', 0.03),)]
    """

    values: tuple[tuple[str, tuple[Scalar, ...]], ...]

    def __post_init__(self) -> None:
        if not self.values or not all(values for _, values in self.values):
            raise StudyError(f"a grid got {dict(self.values)}; expected one value or more for each path.")

    def points(self) -> list[Values]:
        """The combinations, the first path slowest."""
        paths = [path for path, _ in self.values]
        return [tuple(zip(paths, point, strict=True)) for point in itertools.product(*(v for _, v in self.values))]


@dataclass(frozen=True)
class Tpe:
    """Optuna's tree-structured Parzen estimator, with successive halving.

    Attributes:
        ranges: for each path, where to look.
        trials: configurations to try.
        batch: how many are suggested before the next look at results; a fixed number, so that what is found does not
            depend on the number of processes.
        halving: the reduction factor of successive halving: a trial is first trained for ``steps / halving ** 2``
            steps, and goes on to ``halving`` times as many only if it is among the best 1/halving there. 0: never.
    """

    ranges: tuple[tuple[str, Range], ...]
    trials: int = 16
    batch: int = 4
    halving: int = 3

    def __post_init__(self) -> None:
        if self.trials < 1 or self.batch < 1 or self.halving < 0 or self.halving == 1:
            raise StudyError(
                f"a search got trials={self.trials}, batch={self.batch}, halving={self.halving}; expected trials >= 1, "
                "batch >= 1, and halving >= 2 or 0 for none."
            )


Search = Grid | Tpe


@dataclass(frozen=True)
class Reported:
    """What the paper reports for an arm: mean and standard deviation, in the unit of the study's metric."""

    mean: float
    sd: float | None = None


@dataclass(frozen=True)
class Arm:
    """A configuration of a study: one row of its table.

    Attributes:
        name: as in the table; one of a kind within its group.
        run: the run of seed 0; what is searched is replaced in it.
        search: how hyper-parameters are chosen on the validation points; None where all are given.
        group: arms of one group are compared with each other, the first being the baseline.
        reported: the paper's number.
        reported_weight: the weight that the paper selected for the first penalty, in the unit of the arm's own.
        top: compare how often the label is among so many of the highest scores; the run's `Protocol.top_k` measures it.
    """

    name: str
    run: Run
    search: Search | None = None
    group: str = ""
    reported: Reported | None = None
    reported_weight: float | None = None
    top: int = 1

    @property
    def id(self) -> str:
        """Name and group."""
        return f"{self.group}/{self.name}" if self.group else self.name


@dataclass(frozen=True)
class Study:
    """A question, as arms to be compared.

    Attributes:
        name: short; names files.
        title: a line for people.
        arms: in the order of the table; the first of each group is its baseline.
        seeds: final runs of each arm: seeds 0, 1, ...
        tuning_seeds: runs of each configuration of a grid, on other seeds.
        correction: of the p values, over the comparisons of a group.
        pairs: compare every pair of a group, not only each arm with the baseline.
        about: a paragraph for the report: what is asked, and the source.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    seeds: int = 5
    tuning_seeds: int = 1
    correction: Literal["holm", "bonferroni"] = "holm"
    pairs: bool = False
    about: str = ""

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)}; expected a whole number >= 1"
            for name in ("seeds", "tuning_seeds")
            if getattr(self, name) < 1
        ]
        if not self.arms:
            problems.append("no arms; expected one or more")
        if not self.name or not all(c.isalnum() or c in "-_." for c in self.name) or self.name.startswith("."):
            problems.append(f"name={self.name!r}; expected letters, digits, -, _ and ., since it names files")
        metrics = {arm.run.metric.name: arm.run.data.name for arm in self.arms}
        if len(metrics) > 1:
            named = " and ".join(f"{metric} ({data})" for metric, data in metrics.items())
            problems.append(f"arms judged by {named}; expected data sets of one kind, such as classes")
        ids = [arm.id for arm in self.arms]
        problems += [
            f"{ids.count(i)} arms called {i!r}; expected names of their own"
            for i in dict.fromkeys(ids)
            if ids.count(i) > 1
        ]
        if problems:
            raise StudyError(f"the study {self.name!r} has " + "; ".join(problems) + ".")

    @property
    def metric(self) -> Metric:
        """What all arms are judged by."""
        return self.arms[0].run.metric

    def groups(self) -> dict[str, list[Arm]]:
        """The arms by group, in order."""
        found: dict[str, list[Arm]] = {}
        for arm in self.arms:
            found.setdefault(arm.group, []).append(arm)
        return found


def tuning_run(run: Run, values: Values, seed: int, until: int = 0) -> Run:
    """A run that tries values; it never sees a test point, nor a seed of the final runs."""
    tried = put(run, dict(values))
    return replace(
        tried,
        seed=TUNING_SEED + seed,
        protocol=replace(tried.protocol, measure="validation", profile_points=0),  # of final runs alone
        schedule=replace(tried.schedule, until=0 if until == tried.schedule.steps else until),
    )


def final_runs(arm: Arm, values: Values, seeds: int) -> list[Run]:
    """The runs of an arm's selected configuration: the same training subsets and initializations for every arm."""
    run = put(arm.run, dict(values))
    return [replace(run, seed=seed, protocol=replace(run.protocol, measure="test")) for seed in range(seeds)]


def expand(arms: Iterable[Arm], grid: Mapping[str, Iterable[Scalar]]) -> tuple[Arm, ...]:
    """Each arm for every combination of a grid, as groups named by the combination.

    Args:
        arms: of one group.
        grid: paths in a run and their values, such as ``{"split.train_size": (500, 1000)}``.
    """
    points = Grid(tuple((path, tuple(values)) for path, values in grid.items())).points()
    return tuple(
        replace(arm, run=put(arm.run, dict(point)), group=", ".join(f"{path.split('.')[-1]} {v}" for path, v in point))
        for point in points
        for arm in arms
    )


# --- values by their path in a run ------------------------------------------------------------------------------------


def put(run: Run, values: Mapping[str, Any]) -> Run:
    """A run with values put in by path: "split.train_size", "penalties.0.weight", or "weight" for the first penalty's.

    Raises:
        StudyError: names every path that a run does not have, with the nearest that it has.
    """
    from gradreg.study.suggest import unknown

    known = paths(run)
    # "weight" of a run without penalties is not to be taken for that of a technique.
    others = [path for path in known if path != "technique.auto_weight"]
    wrong = [unknown(path, others if path == "weight" else known) for path in values if path not in known]
    if wrong:
        raise StudyError("; ".join(wrong) + ("" if wrong[-1].endswith("?") else "."))
    for path, value in values.items():
        run = _put(run, known[path].split("."), value)
    return run


def get(run: Run, path: str) -> Any:
    """The value at a path."""
    value: Any = run
    for part in paths(run)[path].split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


def kind(run: Run, path: str) -> Any:
    """The type that a value at a path is declared with, such as int or float."""
    *owner, name = paths(run)[path].split(".")
    value: Any = run
    for part in owner:
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return next(field.type for field in dataclasses.fields(value) if field.name == name)


def paths(run: Run) -> dict[str, str]:
    """The paths that can be set, with what they stand for: "weight" stands for "penalties.0.weight"."""
    # Which paths there are depends on the number of penalties alone.
    if len(run.penalties) not in _known:
        short = {"weight": "penalties.0.weight"} if run.penalties else {}
        _known[len(run.penalties)] = short | {path: path for path in _paths(run, "")}
    return dict(_known[len(run.penalties)])


_known: dict[int, dict[str, str]] = {}


def _paths(value: Any, prefix: str) -> Iterable[str]:
    if dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            yield from _paths(getattr(value, item.name), f"{prefix}.{item.name}" if prefix else item.name)
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        for index, item in enumerate(value):
            yield from _paths(item, f"{prefix}.{index}")
    else:
        yield prefix


def _put(owner: Any, parts: list[str], value: Any) -> Any:
    first, *rest = parts
    if isinstance(owner, tuple):
        index = int(first)
        return (*owner[:index], _put(owner[index], rest, value), *owner[index + 1 :])
    return replace(owner, **{first: _put(getattr(owner, first), rest, value) if rest else value})
