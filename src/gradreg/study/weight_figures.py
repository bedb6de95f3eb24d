"""The metric and the size of the trained weights against the weight of a penalty, as in figure 5. No torch here."""

import math
from collections.abc import Sequence

from gradreg.study.axes import finish, log_axis, padded, segments, value_axis
from gradreg.study.figures import CARD, Picture
from gradreg.study.statistics import estimate
from gradreg.study.summary import Group, Row, Summary
from gradreg.study.svg import INK, MUTED, PAPER, SERIES, canvas, inline, style

# Fewer points are no curve: the table says all of it.
FEWEST = 3


def by_weight(summary: Summary) -> list[Picture]:
    """Two figures for each group of one penalty in several given weights: the metric, and the norm of the weights."""
    found = []
    for number, group in enumerate(summary.groups):
        preset = swept(group)
        if not preset:
            continue
        measures = (
            (summary.metric.key, f"test {summary.metric.header}", [row.points for row in group.rows], SERIES[1]),
            ("norm", "half the squared norm of the weights", [row.half_squared_norms for row in group.rows], INK),
        )
        for name, label, values, shade in measures:
            known = [[value for value in of_row if value is not None] for of_row in values]
            if any(known[1:]):
                is_log = name != "norm" and summary.metric.is_wide(value for of_row in known for value in of_row)
                svg = _against(group, preset, label, known, shade, f"by-weight-{name}-{number}", is_log=is_log)
                found.append(Picture(group.name, svg))
    return found


def swept(group: Group) -> str:
    """The preset that all rows but the baseline have by itself, each with another weight; "" where that is not so."""
    baseline, *others = group.rows
    penalties = [row.arm.run.penalties for row in others]
    if len(others) < FEWEST or baseline.arm.run.penalties or any(len(terms) != 1 for terms in penalties):
        return ""
    if any(row.arm.search is not None or row.arm.run.technique.used for row in others):
        return ""
    kinds = {(terms[0].preset, terms[0].options) for terms in penalties}
    weights = [terms[0].weight for terms in penalties]
    is_swept = len(kinds) == 1 and len(set(weights)) == len(weights) and min(weights) > 0
    return penalties[0][0].preset if is_swept else ""


def _against(
    group: Group, preset: str, label: str, values: Sequence[Sequence[float]], shade: str, name: str, *, is_log: bool
) -> str:
    """One measure: a dot for each seed, means joined, with their intervals; the baseline's mean is a dashed line."""
    weights = [_weight(row) for row in group.rows[1:]]
    with style():
        figure, axes = canvas(CARD, 240, (46, 14, 30, 44))
        log_axis(axes.xaxis, weights)
        every = [value for of_row in values for value in of_row]
        if is_log:
            value_axis(axes.yaxis, every, 5, log=True)
        else:
            axes.set_ylim(*padded(every))
        if values[0]:
            axes.axhline(sum(values[0]) / len(values[0]), color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        means, intervals = [], []
        for weight, seeds in zip(weights, values[1:], strict=True):
            axes.plot([weight] * len(seeds), seeds, "o", ms=3, mfc=shade, mec=shade, mew=0, alpha=0.45, zorder=2)
            if seeds:
                of_seeds = estimate(seeds)
                means.append((weight, of_seeds.mean))
                intervals += [] if math.isnan(of_seeds.low) else [[(weight, of_seeds.low), (weight, of_seeds.high)]]
        segments(axes, intervals, color=shade, lw=1.4, zorder=2)
        line = zip(*sorted(means), strict=True)
        axes.plot(*line, "o-", ms=5.5, mfc=shade, mec=PAPER, mew=0.8, color=shade, lw=1.6, zorder=3)
        finish(axes, label, f"weight of {preset}")
        of = f", {group.name}" if group.name else ""
        return inline(figure, name, f"{label[:1].upper()}{label[1:]} against the weight of {preset}{of}")


def _weight(row: Row) -> float:
    return row.arm.run.penalties[0].weight
