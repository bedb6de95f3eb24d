"""The picture of a study for a README: every seed, the mean and its interval for each method. No torch here."""

import math
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradreg.study.figures import ASIDE, short
from gradreg.study.summary import Row, Summary
from gradreg.study.verdict import call, known

# The most letters of a method's name.
LABEL = 40
BASELINE, METHOD, POINT = "#8a8f98", "#2b6cb0", "#1a202c"


def save_plot(summary: Summary, path: Path) -> None:
    """Draws the metric on test points by method as a PNG; of several groups the first.

    A large dot is the mean over the seeds, its line spans the 95 % confidence interval of that mean, a small dot is a
    seed. No bars: they would have to begin at 0, where no difference could be seen.
    """
    group = summary.groups[0]
    points = [point for row in group.rows for point in known(row)] or [0.0]
    found = [row.score for row in group.rows if row.score is not None and not math.isnan(row.score.low)]
    low, right = min([*points, *(e.low for e in found)]), max([*points, *(e.high for e in found)])
    log = summary.metric.is_wide(points)
    if log:
        left, right = 0.8 * min(points), 1.1 * right
        aside, end = 1.1 * right, right * (right / left) ** 0.28
    else:
        left = low - 0.05 * max(right - low, 0.1)
        right = max(right, left + 0.1)
        aside, end = right + 0.05 * (right - left), right + 0.28 * (right - left)
    # Names are the user's: a "$" in them is a dollar.
    with rc_context({"font.size": 10.5, "font.family": "DejaVu Sans", "text.parse_math": False}):
        figure = Figure(figsize=(8, 0.62 * len(group.rows) + 1.7), dpi=150)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for position, row in enumerate(reversed(group.rows)):
            _draw(axes, row, position, is_baseline=row is group.rows[0])
            text = "missing" if row.score is None else row.metric.whole(row.score.mean)
            axes.text(aside, position, text, va="center", color=POINT)
        if group.rows[0].score is not None:
            axes.axvline(group.rows[0].score.mean, color=BASELINE, lw=1, ls="--", zorder=1)
        axes.set_yticks(range(len(group.rows)), [short(call(row), LABEL) for row in reversed(group.rows)])
        axes.set_xscale("log" if log else "linear")
        axes.set_xlim(left, end)
        axes.set_ylim(-0.5, len(group.rows) - 0.5)
        seeds = summary.study.seeds
        means = (
            f"large dot: mean of {seeds} seeds, line: its 95 % interval, small: one seed" if seeds > 1 else "one seed"
        )
        axes.set_xlabel(f"test {summary.metric.header}\n{means}")
        run = group.rows[0].arm.run
        size = f"{run.split.train_size} {run.metric.examples}"
        title = f"{run.data.name}, {size}: {run.metric.name} with gradient regularization"
        axes.set_title(title, loc="left", pad=10)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.tight_layout()
        figure.savefig(path, facecolor="white")


def _draw(axes: Axes, row: Row, position: int, *, is_baseline: bool) -> None:
    """A row's mean, interval and seeds."""
    if row.score is None:
        return
    mean, points = row.score.mean, known(row)
    color = BASELINE if is_baseline else METHOD
    if not math.isnan(row.score.low):
        low = max(row.score.low, 1e-9) if axes.get_xscale() == "log" else row.score.low
        ends = [[mean - low], [row.score.high - mean]]
        axes.errorbar(mean, position, xerr=ends, color=POINT, capsize=4, lw=1.6, zorder=3)
    if len(points) > 1:
        axes.plot(mean, position, "o", color=color, ms=9, mec=POINT, mew=1.4, zorder=4)
    spread = [position + ASIDE[i % len(ASIDE)] if len(points) > 1 else position for i in range(len(points))]
    axes.plot(points, spread, "o", color=color, ms=5, mec="white", mew=0.5, alpha=0.8, zorder=2)
