"""The functions of one number that runs have learned, as figures: whole, and a part of the domain close up. No torch.

The target and the grid are those of SIN, the only data set of the kind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gradreg.data.sin import grid, target
from gradreg.study.axes import finish, padded, round_ticks, segments
from gradreg.study.figures import CARD, NARROW, WIDE, Picture, positions
from gradreg.study.summary import Function, Group, Row, Summary
from gradreg.study.svg import MUTED, canvas, color, inline, style

# The part of the domain that is shown close up: a crest of sin(5 x), from one zero to the next.
CLOSE_UP = (0.05, 0.6)
# Of the grid's points, every so many is drawn where the whole domain is seen.
EVERY = 3
# Colours of a PNG: for the points and the target, and one for each arm, the baseline's first.
PNG_MUTED = "#8a8f98"
PNG_SERIES = ("#68727f", "#0072b2", "#d0570a", "#008a64", "#b5589a", "#a87400", "#3d98d3", "#6b5bb5")


@dataclass(frozen=True)
class _Look:
    """The colours of a learned function, and of what stands around it."""

    muted: str
    shade: str


def functions(summary: Summary) -> list[Picture]:
    """The learned functions of each arm over the training points and the target; nothing where there are none."""
    found, arms, ends = [], positions(summary), _ends(summary.rows)
    for index, row in enumerate(row for row in summary.rows if row.functions):
        look = _Look(MUTED, color(arms[row.arm.name]))
        with style():
            figure, axes = canvas(CARD, 230, (36, 10, 14, 42))
            _whole(axes, row, look, ends)
            round_ticks(axes.xaxis, 4)
            round_ticks(axes.yaxis, 5)
            finish(axes, "", "x")
            drawn = inline(figure, f"function-{index}", f"The functions that {row.arm.id} has learned, and sin(5x)")
        found.append(Picture(_called(row), drawn))
    return found


def close_ups(summary: Summary) -> list[Picture]:
    """A small part of the domain for each group: the baseline, the best arm and the target, of the first seed."""
    single, arms, found = len(summary.groups) == 1, positions(summary), []
    groups = [group for group in summary.groups if any(row.functions for row in group.rows)]
    for number, group in enumerate(groups):

        def drawn(name: str, width: float, height: float, group: Group = group) -> str:
            with style():
                figure, axes = canvas(width, height, (36, 10, 14, 42))
                for row in shown(group):
                    _close_up(axes, row, _Look(MUTED, color(arms[row.arm.name])))
                _set_close_up(axes, shown(group), MUTED)
                round_ticks(axes.xaxis, 6)
                round_ticks(axes.yaxis, 5)
                finish(axes, "", "x")
                named = " and ".join(row.arm.name for row in shown(group))
                return inline(figure, name, f"{named} against sin(5x) in a small part of the domain")

        card = drawn(f"close-up-{number}", NARROW if single else CARD, 270)
        wide = drawn(f"close-up-wide-{number}", WIDE, 390) if single else ""
        found.append(Picture("" if single else group.name, wide or card, card if single else ""))
    return found


def shown(group: Group) -> list[Row]:
    """The baseline, and the arm with the best mean where that is another; of those that have functions."""
    rows = [row for row in group.rows if row.functions and row.score is not None]
    best = max(rows, key=lambda row: row.metric.gain(row.score.mean if row.score else math.nan))
    return list(dict.fromkeys([rows[0], best]))


def save_functions(summary: Summary, path: Path) -> None:
    """Draws the learned functions of each arm, and the close-up of each group, as a PNG.

    Args:
        summary: with at least one function.
        path: of the PNG.
    """
    rows = [row for row in summary.rows if row.functions]
    groups = [group for group in summary.groups if any(row.functions for row in group.rows)]
    arms, ends = positions(summary), _ends(rows)
    columns = min(len(rows), 4)
    lines = math.ceil(len(rows) / columns)
    with rc_context({"font.size": 9, "font.family": "DejaVu Sans", "text.parse_math": False}):
        figure = Figure(figsize=(2.6 * columns, 2.1 * lines + 3.2), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        parts: Any = figure.subfigures(2, 1, height_ratios=(2.1 * lines, 3.2))
        above, below = parts

        def look(row: Row) -> _Look:
            place = arms[row.arm.name]
            shade = PNG_SERIES[0] if place == 0 else PNG_SERIES[1 + (place - 1) % (len(PNG_SERIES) - 1)]
            return _Look(PNG_MUTED, shade)

        panels = above.subplots(lines, columns, squeeze=False).flatten()
        for axes, row in zip(panels, rows, strict=False):
            _whole(axes, row, look(row), ends)
            axes.set_title(_called(row), fontsize=9, loc="left")
        for axes in panels[len(rows) :]:
            axes.set_visible(False)
        for axes, group in zip(below.subplots(1, len(groups), squeeze=False).flatten(), groups, strict=True):
            for row in shown(group):
                _close_up(axes, row, look(row))
                axes.plot([], [], color=look(row).shade, lw=1.6, label=row.arm.name)
            _set_close_up(axes, shown(group), PNG_MUTED)
            axes.plot([], [], color=PNG_MUTED, ls="--", label="sin(5x)")
            axes.legend(frameon=False, loc="lower center", fontsize=8)
            axes.set_title(f"{group.name}: close up" if group.name else "close up", fontsize=9, loc="left")
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, facecolor="white")


def _called(row: Row) -> str:
    return f"{row.arm.group}: {row.label}" if row.arm.group else row.label


def _ends(rows: Sequence[Row]) -> tuple[float, float]:
    """The ends of the upright axis of all panels: those of the training points, so that a wild function is cut."""
    values = [y for row in rows for function in row.functions for y in function.y]
    return padded([*values, -1.0, 1.0])


def _whole(axes: Axes, row: Row, look: _Look, ends: tuple[float, float]) -> None:
    first, *others = row.functions
    x = grid()[::EVERY]
    axes.plot(first.x, first.y, "o", ms=2.5, mfc="none", mec=look.muted, mew=0.6, zorder=1)
    axes.plot(x, list(map(target, x)), color=look.muted, lw=1, ls=(0, (4, 3)), zorder=2)
    lines = [list(zip(x, function.outputs[::EVERY], strict=True)) for function in others]
    segments(axes, lines, color=look.shade, lw=0.6, alpha=0.35, zorder=3)
    axes.plot(x, first.outputs[::EVERY], color=look.shade, lw=1.8, zorder=4)
    axes.set_xlim(-1, 1)
    axes.set_ylim(*ends)


def _close_up(axes: Axes, row: Row, look: _Look) -> None:
    inside = [(x, y) for x, y in zip(grid(), row.functions[0].outputs, strict=True) if _is_close(x)]
    axes.plot(*zip(*inside, strict=True), color=look.shade, lw=1.8, zorder=3)


def _set_close_up(axes: Axes, rows: Sequence[Row], muted: str) -> None:
    """The training points, the target, and ends that show both whole."""
    function: Function = rows[0].functions[0]
    points = [(x, y) for x, y in zip(function.x, function.y, strict=True) if _is_close(x)]
    if points:
        axes.plot(*zip(*points, strict=True), "o", ms=4.5, mfc="none", mec=muted, mew=1, zorder=2)
    x = [x for x in grid() if _is_close(x)]
    axes.plot(x, list(map(target, x)), color=muted, lw=1.2, ls=(0, (4, 3)), zorder=2)
    axes.set_xlim(*CLOSE_UP)
    axes.set_ylim(*padded([y for _, y in points] + list(map(target, x))))


def _is_close(x: float) -> bool:
    return CLOSE_UP[0] <= x <= CLOSE_UP[1]
