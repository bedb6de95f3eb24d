"""What a study found, as data: every table, figure and sentence is made from this. No torch here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from gradreg.study.config import Run, StudyError
from gradreg.study.grid import Arm, Reported, Study, Values
from gradreg.study.metric import Metric
from gradreg.study.profile import MEASURES, Measure
from gradreg.study.select import rule
from gradreg.study.statistics import Estimate, bonferroni, estimate, holm, paired


@dataclass(frozen=True)
class Tried:
    """A configuration that a search tried.

    Attributes:
        values: of the hyper-parameters, by path.
        scores: the metric on the validation points of each tuning run that succeeded.
        failed: number of its runs that failed, as by a loss that is not finite; one is enough to never be selected.
        steps: that it was trained for; fewer than the study's where successive halving gave it up.
    """

    values: Values
    scores: tuple[float, ...]
    failed: int
    steps: int


@dataclass(frozen=True)
class Curve:
    """How one final run went.

    Attributes:
        seed: of the run.
        steps: at which something was noted; loss: the task's loss of that training batch; validation: the
            metric on (at most 1000) validation points, nan where it was not taken.
    """

    seed: int
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    validation: tuple[float, ...]


@dataclass(frozen=True)
class Function:
    """A function of one number that a final run has learned; see `gradreg.study.function`.

    Attributes:
        seed: of the run.
        outputs: on the test inputs.
        x, y: the training points.
        slope_at_points, slope_between: root mean square of the slope at them, and in the middle between them.
    """

    seed: int
    outputs: tuple[float, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    slope_at_points: float
    slope_between: float


@dataclass(frozen=True)
class Row:
    """One arm of the table.

    Attributes:
        arm: name, group, search and the paper's number.
        values: what the search selected; () where all is given, or nothing could be selected.
        selected: whether the arm has a configuration: False while tuning runs are missing or where all of them failed.
        edges: paths whose selected value is the smallest or largest that was tried.
        tried: what the search tried.
        runs: the final runs, one per seed.
        points: the metric on the test points in its unit (top-k accuracy where `Arm.top` says so), by seed; None where
            the run is missing or failed.
        failures: what went wrong, by seed, for the runs that failed; at seed None, what went wrong in tuning.
        score: the metric over the seeds that are there; None where there is none.
        difference: to the group's baseline, paired by seed, over the seeds that both have; None for the baseline.
        p: of the difference, corrected as the study says over the group; None for the baseline.
        norms: mean ||J_g||_F on test points, by seed; None where not measured.
        cost: time of a training step over that of the group's baseline; None where not measured.
        curves: of the final runs.
        half_squared_norms: half the squared L2 norm of the trained weights, by seed; None where not measured.
        functions: what the final runs have learned, by seed, where that is a function of one number; else ().
        measures: by `gradreg.study.profile.Measure.key`, as results hold them, by seed; empty where none was taken,
            None where the run is missing or failed, or the number is not finite.
    """

    arm: Arm
    values: Values
    selected: bool
    edges: tuple[str, ...]
    tried: tuple[Tried, ...]
    runs: tuple[Run, ...]
    points: tuple[float | None, ...]
    failures: tuple[tuple[int | None, str], ...]
    score: Estimate | None
    difference: Estimate | None
    p: float | None
    norms: tuple[float | None, ...]
    cost: float | None
    curves: tuple[Curve, ...]
    half_squared_norms: tuple[float | None, ...] = ()
    functions: tuple[Function, ...] = ()
    measures: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict, hash=False)

    @property
    def metric(self) -> Metric:
        """What the arm is judged by."""
        return self.arm.run.metric

    @property
    def gain(self) -> float:
        """By how much the mean is better than the baseline's; 0 where there is no difference."""
        return self.metric.gain(self.difference.mean) if self.difference is not None else 0.0

    @property
    def reported(self) -> Reported | None:
        """The paper's number."""
        return self.arm.reported

    @property
    def norm(self) -> float | None:
        """Mean over the seeds of the mean ||J_g||_F."""
        known = [value for value in self.norms if value is not None]
        return sum(known) / len(known) if known else None

    def measured(self, measure: Measure) -> tuple[float | None, ...]:
        """A measure by seed."""
        return self.measures.get(measure.key, (None,) * len(self.points))

    @property
    def missing(self) -> int:
        """How many seeds have no result and did not fail."""
        return sum(point is None for point in self.points) - sum(seed is not None for seed, _ in self.failures)

    @property
    def label(self) -> str:
        """The penalties and techniques with their weights, and what else was selected: "SpectReg(0.03)"."""
        run = self.runs[0] if self.runs else self.arm.run
        others = [
            f"{path.split('.')[-1]}={value:g}" if isinstance(value, float) else f"{path.split('.')[-1]}={value}"
            for path, value in self.values
            if path != "weight" and not path.endswith(".weight") and not path.startswith("technique.")
        ]
        return ", ".join([run.terms or self.arm.name, *others])


@dataclass(frozen=True)
class Pair:
    """Two arms of a group compared: the first minus the second, paired by seed; p as corrected."""

    first: str
    second: str
    difference: Estimate
    p: float


@dataclass(frozen=True)
class Group:
    """Arms that are compared with each other: the baseline's row first.

    Attributes:
        pairs: every two of them, where the study asks for it.
    """

    name: str
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Summary:
    """A study with its results.

    Attributes:
        command: what repeats it, such as "gradreg run table6".
        environments: versions, commit and device of the runs, each once.
        notes: sentences about the data, such as images that were skipped.
        rule: how configurations were selected.
        timed_on: the device that costs are of.
    """

    study: Study
    groups: tuple[Group, ...]
    command: str
    environments: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    rule: str = ""
    timed_on: str = "cpu"

    @property
    def metric(self) -> Metric:
        """What all arms are judged by."""
        return self.study.metric

    @property
    def rows(self) -> list[Row]:
        """The rows of all groups."""
        return [row for group in self.groups for row in group.rows]

    @property
    def measures(self) -> list[Measure]:
        """What was measured of any row beside its metric."""
        return [measure for measure in MEASURES if any(measure.key in row.measures for row in self.rows)]


@dataclass(frozen=True)
class Found:
    """What is known of one arm, before it is compared: see `Row`."""

    arm: Arm
    values: Values | None
    tried: tuple[Tried, ...]
    runs: tuple[Run, ...]
    results: tuple[Mapping[str, Any] | None, ...]
    failures: tuple[tuple[int | None, str], ...] = ()
    seconds_per_step: float | None = None
    curves: tuple[Curve, ...] = ()


def summarize(
    study: Study,
    found: Sequence[Found],
    *,
    command: str,
    environments: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Summary:
    """Compares what was found, group by group."""
    by_group: dict[str, list[Found]] = {}
    for item in found:
        by_group.setdefault(item.arm.group, []).append(item)
    groups = tuple(_group(study, name, items) for name, items in by_group.items())
    return Summary(study, groups, command, tuple(environments), tuple(notes), rule(study.metric))


def _group(study: Study, name: str, items: list[Found]) -> Group:
    rows = [_row(item, items[0]) for item in items]
    correct = bonferroni if study.correction == "bonferroni" else holm
    pairs: list[Pair] = []
    if study.pairs:
        for one, two in combinations(rows, 2):
            difference = _difference(one.points, two.points)
            if difference is not None:
                pairs.append(Pair(one.arm.name, two.arm.name, difference, difference.p))
        corrected = correct({str(i): pair.p for i, pair in enumerate(pairs)})
        pairs = [replace(pair, p=corrected[str(i)]) for i, pair in enumerate(pairs)]
        to_baseline = {p.second: p.p for p in pairs if p.first == rows[0].arm.name}
    else:
        to_baseline = correct({row.arm.name: row.difference.p for row in rows[1:] if row.difference is not None})
    rows = [replace(row, p=to_baseline.get(row.arm.name)) for row in rows]
    return Group(name, tuple(rows), tuple(pairs))


def _row(item: Found, baseline: Found) -> Row:
    points, others = _points(item), _points(baseline)
    known = [point for point in points if point is not None]
    cost = None
    if item.seconds_per_step is not None and baseline.seconds_per_step:
        cost = item.seconds_per_step / baseline.seconds_per_step
    return Row(
        arm=item.arm,
        values=item.values or (),
        selected=item.values is not None,
        edges=_edges(item.values or (), item.tried),
        tried=item.tried,
        runs=item.runs,
        points=points,
        failures=item.failures,
        score=estimate(known) if known else None,
        difference=None if item is baseline else _difference(points, others),
        p=None,
        norms=tuple(None if r is None else r.get("jacobian_norm") for r in item.results),
        cost=cost,
        curves=item.curves,
        half_squared_norms=tuple(None if r is None else r.get("half_squared_norm") for r in item.results),
        functions=tuple(_functions(item)),
        measures=_measures(item),
    )


def _points(item: Found) -> tuple[float | None, ...]:
    """What an arm compares, by seed."""
    if item.arm.top == 1:
        metric = item.arm.run.metric
        return tuple(None if result is None else metric.of(result, "test") for result in item.results)
    name = f"test_top{item.arm.top}_accuracy"
    for result in item.results:
        if result is not None and name not in result:
            raise StudyError(
                f"{item.arm.id} compares {name!r}, which its runs did not measure; expected protocol.top_k="
                f"{item.arm.top} in its run."
            )
    return tuple(None if result is None else float(result[name]) for result in item.results)


def _measures(item: Found) -> dict[str, tuple[float | None, ...]]:
    taken = [m.key for m in MEASURES if any(result is not None and m.key in result for result in item.results)]
    return {key: tuple(None if r is None else r.get(key) for r in item.results) for key in taken}


def _functions(item: Found) -> Iterable[Function]:
    for run, result in zip(item.runs, item.results, strict=False):
        if result is not None and "function" in result:
            kept = result["function"]
            yield Function(
                run.seed,
                *(tuple(map(float, kept[name])) for name in ("outputs", "x", "y")),
                slope_at_points=float(kept["slope_at_points"]),
                slope_between=float(kept["slope_between"]),
            )


def _difference(points: Sequence[float | None], others: Sequence[float | None]) -> Estimate | None:
    both = [(a, b) for a, b in zip(points, others, strict=False) if a is not None and b is not None]
    return paired([a for a, _ in both], [b for _, b in both]) if both else None


def _edges(values: Values, tried: Sequence[Tried]) -> tuple[str, ...]:
    """The paths of numbers selected at an end of what was tried."""
    found = []
    for path, value in values:
        numbers = [
            v
            for t in tried
            for p, v in t.values
            if p == path and isinstance(v, (int, float)) and not isinstance(v, bool)
        ]
        if len(set(numbers)) > 1 and value in (min(numbers), max(numbers)):
            found.append(path)
    return tuple(found)


def is_known(value: float | None) -> bool:
    """Neither None nor nan."""
    return value is not None and not math.isnan(value)
