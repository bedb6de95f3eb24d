"""How each search went: the metric on validation points against what was tried. No torch here."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from gradreg.study.axes import finish, log_axis, padded, round_ticks, segments
from gradreg.study.config import Scalar
from gradreg.study.figures import CARD, Picture, positions
from gradreg.study.grid import Grid
from gradreg.study.statistics import estimate
from gradreg.study.summary import Row, Summary, Tried
from gradreg.study.svg import INK, MUTED, PAPER, canvas, color, inline, style
from gradreg.study.verdict import number


def searches(summary: Summary) -> list[Picture]:
    """The metric on validation points against each value that a search tried, for each arm that was searched."""
    found, arms = [], positions(summary)
    for index, row in enumerate(summary.rows):
        paths = list(dict.fromkeys(path for tried in row.tried for path, _ in tried.values))
        for place, path in enumerate(paths):
            if any(tried.scores for tried in row.tried):
                picture = _search(row, path, len(paths) == 1, f"search-{index}-{place}", arms)
                title = f"{row.arm.group}: {row.arm.name}" if row.arm.group else row.arm.name
                named = f", {_last(path)}" if len(paths) > 1 else ""
                found.append(Picture(title + named, picture))
    return found


def gave_up(row: Row, tried: Tried) -> bool:
    """Whether successive halving stopped a configuration before the end."""
    return not isinstance(row.arm.search, Grid) and tried.steps < row.arm.run.schedule.steps


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1].replace("_", " ")


def _search(row: Row, path: str, alone: bool, name: str, arms: dict[str, int]) -> str:
    """One arm and one path: a dot for each tuning run; means joined where nothing else was varied."""
    with style():
        figure, axes = canvas(CARD, 230, (42, 14, 28, 42))
        values = {id(tried): dict(tried.values)[path] for tried in row.tried}
        places = _places(axes, list(values.values()))
        axes.set_ylim(*padded([score for tried in row.tried for score in tried.scores], 0.1))
        shade, means, intervals = color(arms[row.arm.name]), [], []
        dots: dict[str, list[tuple[float, float]]] = {"none": [], shade: []}
        for tried in row.tried:
            x, early = places[values[id(tried)]], gave_up(row, tried)
            dots["none" if early else shade] += [(x, score) for score in tried.scores]
            if tried.failed:
                axes.plot(x, 0.05, "x", ms=7, mec=INK, mew=1.5, transform=axes.get_xaxis_transform(), zorder=5)
            if tried.scores and not early and not tried.failed:
                found = estimate(tried.scores)
                means.append((x, found.mean))
                # Of two scores it is far wider than the figure, and leaves it.
                intervals += [] if math.isnan(found.low) else [[(x, found.low), (x, found.high)]]
        for fill, points in dots.items():
            if points:
                at = zip(*points, strict=True)
                axes.plot(
                    *at, "o", ms=5, mfc=fill, mec=shade if fill == "none" else PAPER, mew=0.9, alpha=0.8, zorder=3
                )
        if alone:
            segments(axes, intervals, color=shade, lw=1, alpha=0.6, zorder=1)
        if alone and isinstance(row.arm.search, Grid) and means:
            axes.plot(*zip(*sorted(means), strict=True), color=shade, lw=1.8, zorder=2)
        chosen = _chosen(axes, row, path, places, shade)
        finish(axes, f"validation {row.metric.header}", _last(path), chosen)
        what = f"Validation {row.metric.name} of {row.arm.name} against {path}"
        return inline(figure, name, f"{what}; {chosen or 'none chosen'}")


def _chosen(axes: Axes, row: Row, path: str, places: dict[Scalar, float], shade: str) -> str:
    """Marks the configuration that was selected; returns its value in words."""
    value = dict(row.values).get(path)
    if value is None or value not in places:
        return ""
    axes.axvline(places[value], color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    for tried in row.tried:
        if tried.values == row.values and tried.scores:
            mean = sum(tried.scores) / len(tried.scores)
            axes.plot(places[value], mean, "o", ms=10, mfc=shade, mec=INK, mew=1.6, zorder=4)
            axes.plot(places[value], mean, "o", ms=2.5, mfc=PAPER, mec=PAPER, mew=0, zorder=5)
    return f"chosen: {number(value)}"


def _places(axes: Axes, values: Sequence[Scalar]) -> dict[Scalar, float]:
    """Where each value is on the axis: by size, on a logarithmic scale where that spreads them, words side by side."""
    ordered = sorted(set(values), key=lambda v: (isinstance(v, str), str(v) if isinstance(v, str) else float(v)))
    numbers = [float(v) for v in ordered if not isinstance(v, (str, bool))]
    if len(numbers) == len(ordered):
        if min(numbers) > 0 and max(numbers) / min(numbers) >= 5:
            log_axis(axes.xaxis, numbers)
            return {value: float(value) for value in ordered}
        above = [number for number in numbers if number > 0]
        if min(numbers) != 0 or not above or max(above) / min(above) < 5:
            axes.set_xlim(*padded(numbers))
            round_ticks(axes.xaxis, 5)
            return {value: float(value) for value in ordered}
    axes.set_xlim(-0.5, len(ordered) - 0.5)
    axes.set_xticks(range(len(ordered)), [number(value) for value in ordered])
    return {value: float(place) for place, value in enumerate(ordered)}
