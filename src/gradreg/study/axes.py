"""Axes of the figures: their names, their ends, and logarithmic ones with numbers written out. No torch here."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from gradreg.study.svg import GRID, INK, MUTED

# The width of a digit in points.
LETTER = 7.0


def finish(axes: Axes, above: str, below: str, aside: str = "") -> None:
    """Names of the axes: the upright one above, where it reads without a turn of the head."""
    ruled(axes, axes.xaxis, axes.yaxis)
    width, height = axes.figure.bbox.size
    whole = axes.figure.transFigure
    axes.text(6 / width, 1 - 8 / height, above, color=MUTED, va="top", transform=whole)
    axes.text(1 - 12 / width, 1 - 8 / height, aside, color=INK, va="top", ha="right", transform=whole)
    name_below(axes, below)


def name_below(axes: Axes, text: str) -> None:
    """The name of the lower axis, under the numbers."""
    axes.annotate(text, (0.5, 0), (0, -22), "axes fraction", "offset points", color=MUTED, ha="center", va="top")


def ruled(axes: Axes, *shown: Axis) -> None:
    """The grid and the numbers of some axes, in place of matplotlib's own ticks.

    Those are six objects for every number, and a third of the time that a page takes.
    """
    for axis in shown:
        low, high = sorted(axis.get_view_interval())
        places = [float(place) for place in axis.get_majorticklocs() if low <= place <= high]
        upright = axis is axes.xaxis
        across = axis.axes.get_xaxis_transform() if upright else axis.axes.get_yaxis_transform()
        for place, text in _apart(axes, upright, places, axis.get_major_formatter().format_ticks(places)):
            start = (place, 0) if upright else (0, place)
            offset, (across_at, up_at) = (
                ((0, -6), ("center", "top")) if upright else ((-4, 0), ("right", "center_baseline"))
            )
            axes.annotate(text, start, offset, across, "offset points", color=MUTED, ha=across_at, va=up_at)
        ends = [[(place, 0), (place, 1)] if upright else [(0, place), (1, place)] for place in places]
        axes.add_collection(LineCollection(ends, color=GRID, lw=0.8, zorder=0.5, transform=across), autolim=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_visible(False)


def _apart(axes: Axes, upright: bool, places: Sequence[float], texts: Sequence[str]) -> Iterator[tuple[float, str]]:
    """The numbers that have room; beside each other, those that would touch the one before are left out."""
    end = -math.inf
    for place, text in zip(places, texts, strict=True):
        middle, half = axes.transData.transform((place, place))[0], LETTER * len(text) / 2
        if not upright or middle - half > end:
            end = middle + half + LETTER / 2
            yield place, text


def segments(axes: Axes, lines: Sequence[Sequence[tuple[float, float]]], **style: Any) -> None:
    """Many lines at once, each a path of its own."""
    axes.add_collection(LineCollection([list(line) for line in lines], **style), autolim=False)


def round_ticks(axis: Axis, most: int) -> None:
    """Ticks at round numbers, at most so many and one."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))


def padded(values: Sequence[float], part: float = 0.06) -> tuple[float, float]:
    """The ends of an axis that shows values with some room."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = part * (high - low) or 0.5
    return low - room, high + room


def value_axis(axis: Axis, values: Sequence[float], most: int, *, log: bool) -> None:
    """An axis that shows values, with ticks at round numbers; those that are not positive leave a logarithmic one."""
    if log:
        log_axis(axis, [value for value in values if value > 0])
        return
    axis.axes.set(**{"xlim" if axis is axis.axes.xaxis else "ylim": padded(values)})
    round_ticks(axis, most)


def log_axis(axis: Axis, values: Sequence[float]) -> None:
    """A logarithmic axis with a few round numbers, written out."""
    axes, low, high = axis.axes, math.log10(min(values)), math.log10(max(values))
    start, end = padded([low, high]) if high - low > 0.02 else (low - 0.1, high + 0.1)
    ends = (10**start, 10**end)
    if axis is axes.xaxis:
        axes.set_xscale("log")
        axes.set_xlim(*ends)
    else:
        axes.set_yscale("log")
        axes.set_ylim(*ends)
    axis.set_major_locator(FixedLocator(log_ticks(*ends)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """Up to six round numbers between two positive ones."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [float(f"{step}e{decade}") for decade in decades for step in steps]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) < 3:
            break
        if len(found) <= 6:
            return found
    if len(found) > 6:
        return found[:: math.ceil(len(found) / 6)]
    return [tick for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
