"""The comparison as data: which runs, in which order, and what comes out of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradreg.study.config import Method, Run, Setting
from gradreg.study.select import RULE, Candidate, choose
from gradreg.study.statistics import Estimate, estimate, holm, paired

# Tuning seeds start here: their training subsets are not those of the final runs.
TUNING_SEED = 1000


@dataclass(frozen=True)
class Row:
    """One method of the table.

    Attributes:
        accuracy: test accuracy in percent, over the final seeds.
        difference: to the baseline, paired by seed, in points; None for the baseline.
        holm_p: p of the difference after Holm's correction over the methods; None for the baseline.
        jacobian_norm: mean over seeds of the mean ||J_g||_F on test points.
        cost: time of a training step over the baseline's.
        points: test accuracy of each seed, in the order of the seeds.
    """

    method: Method
    weight: float | None
    accuracy: Estimate
    difference: Estimate | None
    holm_p: float | None
    jacobian_norm: float
    cost: float
    points: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found: the baseline's row first."""

    setting: Setting
    rows: tuple[Row, ...]
    rule: str = RULE


def tuning_runs(setting: Setting) -> dict[Run, tuple[Method, float]]:
    """The runs that choose the weights; none of them sees a test point. A single weight needs no choice."""
    return {
        setting.run(((method.label, weight),), TUNING_SEED + seed, "validation"): (method, weight)
        for seed in range(setting.tuning_seeds)
        for method in setting.methods
        if len(method.grid) > 1
        for weight in method.grid
    }


def chosen_weights(setting: Setting, results: Mapping[Run, Mapping[str, Any]]) -> dict[str, float]:
    """Each method's weight: the only one given, or the best of the tuning runs."""
    given = {method.name: method.grid[0] for method in setting.methods if len(method.grid) == 1}
    return given | choose(
        Candidate(method.name, weight, run.seed, results[run]["validation_accuracy"])
        for run, (method, weight) in tuning_runs(setting).items()
        if run in results
    )


def final_runs(setting: Setting, weights: Mapping[str, float]) -> dict[Run, Method]:
    """Every method at its weight on every seed: the same training subset and initialization for all methods."""
    return {
        setting.run(penalties(method, weights), seed, "test"): method
        for seed in range(setting.seeds)
        for method in setting.methods
    }


def penalties(method: Method, weights: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """The penalties of a method at its chosen weight."""
    return ((method.label, weights[method.name]),) if method.grid else ()


def summarize(
    setting: Setting,
    weights: Mapping[str, float],
    results: Mapping[Run, Mapping[str, Any]],
    costs: Mapping[str, float],
) -> Comparison:
    """The table, from the final runs' results and the methods' step times in seconds."""
    by_method: dict[str, list[Mapping[str, Any]]] = {method.name: [] for method in setting.methods}
    for run, method in final_runs(setting, weights).items():
        by_method[method.name].append(results[run])
    points = {name: [found["test_accuracy"] for found in runs] for name, runs in by_method.items()}
    baseline = setting.methods[0].name
    differences = {name: paired(values, points[baseline]) for name, values in points.items() if name != baseline}
    corrected = holm({name: difference.p for name, difference in differences.items()})
    rows = [
        Row(
            method=method,
            weight=weights.get(method.name),
            accuracy=estimate(points[method.name]),
            difference=differences.get(method.name),
            holm_p=corrected.get(method.name),
            jacobian_norm=_mean([found["jacobian_norm"] for found in by_method[method.name]]),
            cost=costs[method.name] / costs[baseline],
            points=tuple(points[method.name]),
        )
        for method in setting.methods
    ]
    return Comparison(setting, tuple(rows))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
