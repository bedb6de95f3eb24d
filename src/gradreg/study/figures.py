"""The figures of a report, as SVG for its page: every seed is drawn, means and intervals on top. No torch here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes

from gradreg.study.axes import finish, log_axis, name_below, padded, round_ticks, ruled, segments, value_axis
from gradreg.study.statistics import Estimate
from gradreg.study.summary import Curve, Group, Row, Summary
from gradreg.study.svg import INK, MUTED, PAPER, SERIES, canvas, color, inline, marker, style
from gradreg.study.verdict import known

# In points: beside a single group's table, on a phone, and as one of several beside each other.
WIDE, NARROW, CARD = 900.0, 340.0, 310.0
# More would not be seen, and would make the page slow.
CURVE_POINTS = 60
DOT = 5.5
# Where the seeds of a row stand, in parts of its height: never under the line of the interval.
ASIDE = (0.12, -0.12, 0.2, -0.2)


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        title: the heading above it; "" for none.
        svg: the figure.
        narrow: the same for a phone, where it is not ``svg`` itself.
    """

    title: str
    svg: str
    narrow: str = ""


@dataclass(frozen=True)
class Entry:
    """A line of the legend: the arm's name, the CSS variable of its colour, and the SVG of its marker."""

    name: str
    variable: str
    marker: str


def positions(summary: Summary) -> dict[str, int]:
    """A number for each arm that fixes its colour and its marker in all figures: 0 for the baselines."""
    found: dict[str, int] = {group.rows[0].arm.name: 0 for group in summary.groups}
    for row in summary.rows:
        if row.arm.name not in found:
            found[row.arm.name] = 1 + sum(position > 0 for position in found.values())
    return found


def legend(summary: Summary) -> list[Entry]:
    """What each colour and marker stands for."""
    return [
        Entry(name, f"--c{SERIES.index(color(position))}", marker(position))
        for name, position in positions(summary).items()
    ]


# --- the metric by method ---------------------------------------------------------------------------------------------


def scores(summary: Summary) -> list[Picture]:
    """The metric on test points by method, for each group that has any."""
    single, found = len(summary.groups) == 1, []
    for number, group in enumerate(summary.groups):
        if any(known(row) for row in group.rows):
            card = _scores(summary, group, f"{summary.metric.key}-{number}", NARROW if single else CARD, True)
            wide = _scores(summary, group, f"{summary.metric.key}-wide-{number}", WIDE, False) if single else ""
            found.append(Picture("" if single else group.name, wide or card, card if single else ""))
    return found


def _scores(summary: Summary, group: Group, name: str, width: float, above: bool) -> str:
    rows, height = group.rows, 48.0 if above else 44.0
    label = 18 + 7 * min(max(len(row.arm.name) for row in rows), 32)
    left, right = (8.0, 8.0) if above else (label, 66.0)
    with style():
        figure, axes = canvas(width, 54 + height * len(rows), (left, right, 10, 44))
        numbers = [x for row in rows for x in _numbers(row)]
        value_axis(axes.xaxis, numbers, 5 if above else 9, log=summary.metric.is_wide(numbers))
        axes.set_ylim(-0.5, len(rows) - 0.5 + (0.1 if above else 0))
        # So that the baseline's line does not run through a name.
        behind, baseline = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}, rows[0].score
        if baseline is not None:
            axes.axvline(baseline.mean, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        arms = positions(summary)
        for index, row in enumerate(rows):
            at = len(rows) - 1 - index
            _scores_row(axes, row, at - (0.2 if above else 0), color(arms[row.arm.name]))
            end = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 12, "zorder": 1.5}
            if above:
                axes.text(0, at + 0.27, short(row.arm.name, 32), ha="left", bbox=behind, **end)
                axes.text(1, at + 0.27, _mean_text(row, summary.study.seeds), ha="right", bbox=behind, **end)
            else:
                axes.text(-12 / (width - left - right), at, short(row.arm.name, 32), ha="right", **end)
                axes.text(1 + 10 / (width - left - right), at, _mean_text(row, summary.study.seeds), ha="left", **end)
        axes.spines["left"].set_visible(False)
        ruled(axes, axes.xaxis)
        name_below(axes, f"test {summary.metric.header}")
        of = f" of {group.name}" if group.name else ""
        return inline(figure, name, f"Test {summary.metric.name} by method{of}: {_in_words(rows)}")


def _scores_row(axes: Axes, row: Row, at: float, shade: str) -> None:
    points = known(row)
    # One seed is no mean: it is drawn as what it is.
    heights = [at + ASIDE[i % len(ASIDE)] if len(points) > 1 else at for i in range(len(points))]
    size = DOT if len(points) > 1 else 8
    axes.plot(points, heights, "o", ms=size, mfc=shade, mec=PAPER, mew=0.5, alpha=0.75, zorder=2)
    if row.score is not None and len(points) > 1:
        _whisker(axes, row.score, at, INK)
        axes.plot(row.score.mean, at, "o", ms=8, mfc=INK, mec=PAPER, mew=1.2, zorder=4)
    if row.reported is not None:
        axes.plot(row.reported.mean, at - 0.06, "D", ms=8, mfc="none", mec=INK, mew=1.5, zorder=5)


def _whisker(axes: Axes, estimate: Estimate, at: float, shade: str) -> None:
    if not math.isnan(estimate.low):
        # On a logarithmic axis an interval may begin below all that it shows.
        ends = (max(estimate.low, axes.get_xlim()[0]), estimate.high)
        caps = [[(end, at - 0.1), (end, at + 0.1)] for end in ends]
        segments(axes, [[(end, at) for end in ends], *caps], color=shade, lw=1.8, zorder=3)


def _mean_text(row: Row, seeds: int) -> str:
    if row.score is None:
        return "X missing" if not row.failures else "X failed"
    count = len(known(row))
    return row.metric.text(row.score.mean) + ("" if count == seeds else f" n={count}")


def _numbers(row: Row) -> list[float]:
    ends = [] if row.score is None or math.isnan(row.score.low) else [row.score.low, row.score.high]
    return [*known(row), *ends, *([] if row.reported is None else [row.reported.mean])]


def _in_words(rows: Iterable[Row]) -> str:
    return "; ".join(
        f"{row.arm.name} {'missing' if row.score is None else row.metric.whole(row.score.mean)}" for row in rows
    )


# --- the metric against the norm of the Jacobian ----------------------------------------------------------------------


def norms(summary: Summary) -> list[Picture]:
    """The metric on test points against the mean norm of the Jacobian, for each group that has any."""
    single, found = len(summary.groups) == 1, []
    for number, group in enumerate(summary.groups):
        if any(_norm_points(row) for row in group.rows):
            card = _norms(summary, group, f"norm-{number}", NARROW if single else CARD, 270)
            wide = _norms(summary, group, f"norm-wide-{number}", WIDE, 390) if single else ""
            found.append(Picture("" if single else group.name, wide or card, card if single else ""))
    return found


def _norms(summary: Summary, group: Group, name: str, width: float, height: float) -> str:
    with style():
        figure, axes = canvas(width, height, (46, 12, 30, 44))
        points, arms = {row.arm.name: _norm_points(row) for row in group.rows}, positions(summary)
        every = [point for found in points.values() for point in found]
        log_axis(axes.xaxis, [x for x, _ in every])
        ys = [y for _, y in every]
        value_axis(axes.yaxis, ys, 5, log=summary.metric.is_wide(ys))
        for row in group.rows:
            position, found = arms[row.arm.name], points[row.arm.name]
            if found:
                shade, form = color(position), marker(position)
                xs, ys = zip(*found, strict=True)
                axes.plot(xs, ys, form, ms=DOT, mfc=shade, mec=PAPER, mew=0.4, alpha=0.6, zorder=2)
                mean = (sum(xs) / len(xs), sum(ys) / len(ys))
                axes.plot(*mean, form, ms=11, mfc=shade, mec=INK, mew=1.4, zorder=3)
        finish(axes, f"test {summary.metric.header}", "mean norm of the Jacobian on test points")
        of = f" of {group.name}" if group.name else ""
        return inline(figure, name, f"Test {summary.metric.name} against the mean norm of the Jacobian{of}")


def _norm_points(row: Row) -> list[tuple[float, float]]:
    both = zip(row.norms, row.points, strict=True)
    return [(x, y) for x, y in both if x is not None and y is not None and x > 0 and math.isfinite(x)]


# --- learning curves --------------------------------------------------------------------------------------------------


def curves(summary: Summary) -> list[Picture]:
    """The loss and the metric on validation points of the final runs against the step, for each group that has any."""
    single, found = len(summary.groups) == 1, []
    for number, group in enumerate(summary.groups):
        for kind, label in (("loss", "training loss"), ("validation", f"validation {summary.metric.header}")):
            lines = {row.arm.name: _lines(row.curves, kind) for row in group.rows}
            if any(lines.values()):
                every = [y for found in lines.values() for line in found for _, y in line]
                log = kind == "loss" or summary.metric.is_wide(every)
                card = _curves(summary, lines, f"{kind}-{number}", label, CARD, log=log)
                wide = _curves(summary, lines, f"{kind}-wide-{number}", label, 460, log=log) if single else ""
                found.append(Picture(group.name, wide or card, card if single else ""))
    return found


def _curves(
    summary: Summary,
    lines: Mapping[str, Sequence[Sequence[tuple[int, float]]]],
    name: str,
    label: str,
    width: float,
    *,
    log: bool,
) -> str:
    with style():
        figure, axes = canvas(width, 0.25 * width + 165, (46, 14, 30, 44))
        ys, arms = [y for found in lines.values() for line in found for _, y in line], positions(summary)
        if log:
            log_axis(axes.yaxis, ys)
        else:
            axes.set_ylim(*padded(_settled(lines) or ys))
        for arm, found in lines.items():
            shade = color(arms[arm])
            segments(axes, found, color=shade, lw=0.7, alpha=0.35, zorder=2)
            single = [line[0] for line in found if len(line) == 1]
            if single:
                axes.plot(*zip(*single, strict=True), "o", ms=3, color=shade)
            if found and len({tuple(step for step, _ in line) for line in found}) == 1:
                _mean_curve(axes, found, arms[arm])
        axes.set_xlim(*padded([step for found in lines.values() for line in found for step, _ in line], 0.03))
        round_ticks(axes.xaxis, 5)
        finish(axes, label, "step")
        return inline(figure, name, f"{label.capitalize()} of the final runs against the step")


def _settled(lines: Mapping[str, Sequence[Sequence[tuple[int, float]]]]) -> list[float]:
    """The values after the first fifth of the steps: the rise before it would leave no room for differences."""
    every = [point for found in lines.values() for line in found for point in line]
    last = max(step for step, _ in every)
    return [y for step, y in every if step >= 0.2 * last]


def _mean_curve(axes: Axes, lines: Sequence[Sequence[tuple[int, float]]], position: int) -> None:
    xs = [step for step, _ in lines[0]]
    ys = [sum(values) / len(values) for values in zip(*([y for _, y in line] for line in lines), strict=True)]
    shade, every = color(position), max(1, len(xs) // 5)
    form = {"marker": marker(position), "ms": 5, "mfc": shade, "mec": PAPER, "mew": 0.6}
    axes.plot(xs, ys, color=shade, lw=2.2, markevery=(position % every, every), zorder=3, **form)


def _lines(curves: Iterable[Curve], kind: str) -> list[list[tuple[int, float]]]:
    """The points of each curve that can be drawn, thinned evenly to `CURVE_POINTS`."""
    found = []
    for curve in curves:
        values = zip(curve.steps, getattr(curve, kind), strict=True)
        line = [(s, y) for s, y in values if math.isfinite(y) and (y > 0 or kind != "loss")]
        if line:
            count = min(len(line), CURVE_POINTS)
            found.append([line[round(i * (len(line) - 1) / max(count - 1, 1))] for i in range(count)])
    return found


# --- the metric against the number that tells groups apart ------------------------------------------------------------


def trend(summary: Summary) -> list[Picture]:
    """The metric against the number in the groups' names, where they differ by that alone; else nothing."""
    found = numbered(summary.groups)
    if not found or not any(known(row) for row in summary.rows):
        return []
    return [
        Picture(
            "", _trend(summary, *found, "trend-wide", WIDE, 460), _trend(summary, *found, "trend-narrow", NARROW, 320)
        )
    ]


def numbered(groups: Sequence[Group]) -> tuple[str, list[float]] | None:
    """What the names of groups have in common before a number of their own, and those numbers."""
    parts = [group.name.rpartition(" ") for group in groups]
    try:
        numbers = [float(last) for _, _, last in parts]
    except ValueError:
        return None
    starts = {start for start, _, _ in parts}
    if len(groups) < 2 or len(starts) > 1 or len(set(numbers)) < len(groups) or not all(map(math.isfinite, numbers)):
        return None
    return starts.pop().replace("_", " ") or "group", numbers


def _trend(summary: Summary, label: str, numbers: Sequence[float], name: str, width: float, height: float) -> str:
    with style():
        figure, axes = canvas(width, height, (46, 14, 30, 44))
        log = min(numbers) > 0 and max(numbers) / min(numbers) >= 5
        place = math.log10 if log else float
        ordered = sorted(place(number) for number in numbers)
        arms = positions(summary)
        # Beside each other, so that the intervals of one group can be told apart.
        step = 0.3 * min(b - a for a, b in pairwise(ordered)) / max(len(arms), 2)
        axes.set_ylim(*padded([x for row in summary.rows for x in _numbers(row)]))
        for arm, position in arms.items():
            shift = (position - (len(arms) - 1) / 2) * step
            _trend_line(axes, summary, arm, position, [place(number) + shift for number in numbers])
        margin = 0.05 * (ordered[-1] - ordered[0]) + len(arms) * step / 2
        axes.set_xlim(ordered[0] - margin, ordered[-1] + margin)
        fewest = max(1, math.ceil(len(numbers) * 44 / width))
        shown = sorted(numbers)[::fewest]
        axes.set_xticks([place(number) for number in shown], [f"{number:g}" for number in shown])
        finish(axes, f"test {summary.metric.header}", label)
        return inline(figure, name, f"Test {summary.metric.name} against {label}, one line for each method")


def _trend_line(axes: Axes, summary: Summary, arm: str, position: int, xs: Sequence[float]) -> None:
    shade, means, intervals = color(position), [], []
    for x, group in zip(xs, summary.groups, strict=True):
        for row in (row for row in group.rows if row.arm.name == arm):
            points = known(row)
            if len(points) < 10:
                axes.plot([x] * len(points), points, "o", ms=3, mfc=shade, mec=shade, mew=0, alpha=0.5, zorder=2)
            if row.score is not None:
                means.append((x, row.score.mean))
                if not math.isnan(row.score.low):
                    intervals.append([(x, row.score.low), (x, row.score.high)])
            if row.reported is not None:
                axes.plot(x, row.reported.mean, "D", ms=7, mfc="none", mec=shade, mew=1.5, zorder=4)
    segments(axes, intervals, color=shade, lw=1.6, zorder=2)
    if means:
        x, y = zip(*sorted(means), strict=True)
        axes.plot(x, y, marker(position), ls="-", ms=7, mfc=shade, mec=PAPER, mew=1, color=shade, lw=1.6, zorder=3)


def short(text: str, length: int) -> str:
    """A text cut to a length, with the sign that it was."""
    return text if len(text) <= length else text[: length - 1] + "…"
