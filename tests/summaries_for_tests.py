"""Summaries made by hand from the accuracies of each seed: what reports, tables and figures are tested on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from runs_for_tests import SIN

from gradreg.data.sin import grid, target
from gradreg.study.config import Data, Model, Optimizer, Penalty, Protocol, Run, Schedule, Split
from gradreg.study.grid import Arm, Grid, Reported, Study, Values, final_runs
from gradreg.study.profile import MEASURES
from gradreg.study.summary import Curve, Found, Summary, Tried, summarize

WEIGHTS = (0.01, 0.03, 0.1, 0.3)
BASE = Run(Data("digits"), Split(100, 300, test_size=797), Model("small-cnn"), Optimizer(0.001), Schedule(200, 50), ())
ENVIRONMENT = {"python": "3.11.2", "gradreg": "0.1.0", "torch": "2.6.0", "commit": "0123456789ab", "device": "cpu"}
Points = Sequence[float | None]


def arm(name: str, *, group: str = "", reported: Reported | None = None, run: Run = BASE, given: bool = False) -> Arm:
    """An arm that searches the weight of the penalty of its name; the baseline, or a given one, searches nothing."""
    if name == "Baseline":
        return Arm(name, run, group=group, reported=reported)
    run = replace(run, penalties=(Penalty(name, 0.1),))
    search = None if given else Grid((("weight", WEIGHTS),))
    return Arm(name, run, search, group, reported)


def found(
    one: Arm,
    points: Points,
    *,
    weight: float = 0.1,
    cost: float | None = 1.0,
    failures: Mapping[int | None, str] | None = None,
    tried: Sequence[Tried] | None = None,
    values: Values | None = None,
    curves: bool = False,
) -> Found:
    """An arm with the metric on test points for each seed, in its unit; None where the run is missing or failed."""
    values = values or ((("weight", weight),) if one.search is not None else ())
    if tried is None:
        tried = [Tried((("weight", w),), (80 + 10 * w, 81 + 10 * w), 0, 200) for w in WEIGHTS] if one.search else []
    runs = tuple(final_runs(one, values, len(points)))
    metric = one.run.metric
    results: list[dict[str, Any] | None] = [
        None
        if point is None
        else {f"test_{metric.key}": point * metric.size, "jacobian_norm": 2.5, "half_squared_norm": 7.5}
        for point in points
    ]
    drawn = tuple(curve(seed) for seed, point in enumerate(points) if point is not None) if curves else ()
    return Found(one, values, tuple(tried), runs, tuple(results), tuple((failures or {}).items()), cost, drawn)


def curve(seed: int) -> Curve:
    """A loss that falls from 2, with validation accuracy at every second step."""
    steps = tuple(range(0, 201, 20))
    return Curve(
        seed,
        steps,
        tuple(2.0 * math.exp(-s / 60) + 0.01 * (seed + 1) for s in steps),
        tuple(math.nan if i % 2 else 60.0 + 0.15 * s + seed for i, s in enumerate(steps)),
    )


def study(
    arms: Sequence[Arm],
    seeds: int,
    *,
    pairs: bool = False,
    correction: Literal["holm", "bonferroni"] = "holm",
    title: str = "digits",
    about: str = "",
) -> Study:
    """A study of arms with two tuning seeds."""
    return Study("a-study", title, tuple(arms), seeds, 2, correction, pairs, about)


def summary(
    accuracies: Mapping[str, Points],
    *,
    costs: Mapping[str, float | None] | None = None,
    weight: float = 0.1,
    reported: Mapping[str, Reported] | None = None,
    failures: Mapping[str, Mapping[int | None, str]] | None = None,
    notes: Sequence[str] = (),
    curves: bool = False,
    pairs: bool = False,
    correction: Literal["holm", "bonferroni"] = "holm",
) -> Summary:
    """A study of one group with these accuracies, one for each seed; the baseline first."""
    arms = [arm(name, reported=(reported or {}).get(name)) for name in accuracies]
    asked = study(arms, max(map(len, accuracies.values())), pairs=pairs, correction=correction)
    items = [
        found(
            one,
            accuracies[one.name],
            weight=weight,
            cost=(costs or {}).get(one.name, 1.0 + (one.name != "Baseline")),
            failures=(failures or {}).get(one.name),
            curves=curves,
        )
        for one in arms
    ]
    return summarize(asked, items, command="gradreg run a-study", environments=[ENVIRONMENT], notes=notes)


def measured(accuracies: Mapping[str, Points], *, lost: str = "") -> Summary:
    """A study whose runs took the measures: 0.1 and 0.01 for each seed; the first seed of an arm has no margin."""
    arms = [arm(name, run=replace(BASE, protocol=Protocol(profile_points=250))) for name in accuracies]
    items = []
    for one in arms:
        item = found(one, accuracies[one.name], cost=1.0 + (one.name != "Baseline"))
        results = []
        for seed, result in enumerate(item.results):
            taken: dict[str, Any] = {measure.key: 0.1 + 0.01 * seed for measure in MEASURES}
            if one.name == lost and seed == 0:
                taken["input_margin"] = None
            results.append(None if result is None else {**result, **taken})
        items.append(replace(item, results=tuple(results)))
    asked = study(arms, max(map(len, accuracies.values())))
    return summarize(asked, items, command="gradreg run a-study", environments=[ENVIRONMENT])


def errors(values: Mapping[str, Points], *, groups: Sequence[str] = ("",)) -> Summary:
    """A study of SIN with these errors in 1e-3, one for each seed, and learned functions; the paper's number is 1.5."""
    items: list[Found] = []
    for group in groups:
        for name, points in values.items():
            one = arm(name, group=group, run=SIN, reported=Reported(1.5), given=True)
            item = found(one, points, cost=1.0 + (name != "Baseline"), curves=True)
            kept = [None if r is None else {**r, "function": learned(seed)} for seed, r in enumerate(item.results)]
            items.append(replace(item, results=tuple(kept)))
    asked = study([item.arm for item in items], max(map(len, values.values())), title="sin")
    return summarize(asked, items, command="gradreg run a-study", environments=[ENVIRONMENT])


def learned(seed: int) -> dict[str, Any]:
    """A function of a run of SIN, close to the target: slopes are twice as large between the points as at them."""
    x = [-0.9 + 0.07 * (seed + 1) * i for i in range(10)]
    return {
        "outputs": [target(x) + 0.01 * (seed + 1) for x in grid()],
        "x": x,
        "y": [target(value) + 0.1 for value in x],
        "slope_at_points": 1.0 + seed,
        "slope_between": 2.0 + 2 * seed,
    }


def grouped(
    groups: Mapping[str, Mapping[str, Points]],
    *,
    reported: Mapping[str, Mapping[str, Reported]] | None = None,
    curves: bool = False,
) -> Summary:
    """A study of several groups; where a name ends in a number, that is the number of labels."""
    items: list[Found] = []
    for group, accuracies in groups.items():
        last = group.split()[-1]
        run = replace(BASE, split=replace(BASE.split, train_size=int(last))) if last.isdigit() else BASE
        for name, points in accuracies.items():
            paper = (reported or {}).get(group, {}).get(name)
            one = arm(name, group=group, run=run, reported=paper)
            items.append(found(one, points, cost=1.0 + (name != "Baseline"), curves=curves))
    seeds = max(len(points) for accuracies in groups.values() for points in accuracies.values())
    asked = study([item.arm for item in items], seeds)
    return summarize(asked, items, command="gradreg run a-study", environments=[ENVIRONMENT])
