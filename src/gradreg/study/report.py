"""A study as people read it: a sentence, a table, and the same as Markdown and JSON. No torch here."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradreg.study.config import Run
from gradreg.study.field import MISSING, corrected, field, field_header, measures, score, spread
from gradreg.study.grid import Tpe
from gradreg.study.metric import Metric
from gradreg.study.profile import NONE
from gradreg.study.statistics import Estimate, estimate
from gradreg.study.summary import Group, Pair, Row, Summary
from gradreg.study.verdict import better, corrected_p, counts, first_line, known, number, others, p_text, verdict

PAIRS_HEADER = ("first", "second", "first - second", "p")


def header(summary: Summary) -> tuple[str, ...]:
    """Names of the columns; the paper's only where the study has its numbers."""
    paper = ("paper", "ours - paper") if has_paper(summary) else ()
    return ("method", "weight", summary.metric.header, "difference", corrected(summary), "||J||", "cost", *paper)


SLOPES_HEADER = ("method", "slope at the points", "between them", "between / at")


def slopes(group: Group) -> list[tuple[str, ...]]:
    """The rows of a group whose runs have learned functions of one number, in the order of `SLOPES_HEADER`."""
    found = []
    for row in group.rows:
        at, between = ([getattr(f, f"slope_{name}") for f in row.functions] for name in ("at_points", "between"))
        if row.functions:
            # A constant has none; what is flat at the points alone has an infinite one.
            ratios = [b / a if a else math.inf for a, b in zip(at, between, strict=True) if a or b]
            of = "" if len(ratios) == len(at) else f" n={len(ratios)}"
            ratio = "inf" if math.inf in ratios else f"{_mean_text(ratios)}{of}" if ratios else NONE
            found.append((row.arm.name, _mean_text(at), _mean_text(between), ratio))
    return found


def _mean_text(values: Sequence[float]) -> str:
    """Mean and sample standard deviation of numbers of any size."""
    found = estimate(values)
    return f"{found.mean:.3g}" + ("" if math.isnan(found.sd) else f" ({found.sd:.2g})")


def has_paper(summary: Summary) -> bool:
    """Whether any row has a number of the paper's."""
    return any(row.reported is not None for row in summary.rows)


def cells(summary: Summary, group: Group, row: Row) -> tuple[str, ...]:
    """A row as text, in the order of `header`: "X" for what is missing, "-" for what there is none of."""
    norm = f"{row.norm:.2f}" if row.norm is not None else NONE
    difference = MISSING
    if row is group.rows[0]:
        difference = NONE
    elif row.difference is not None:
        difference = _with_ends(row.difference, summary.metric)
    found = (
        row.arm.name,
        weight(row),
        score(summary, row),
        difference,
        MISSING if difference == MISSING else p_text(row.p),
        MISSING if row.score is None else norm,
        MISSING if row.cost is None else f"{row.cost:.2f}x",
    )
    return (*found, *_paper(row)) if has_paper(summary) else found


def _with_ends(difference: Estimate, metric: Metric) -> str:
    """A difference with its interval, where there is one."""
    low, high = difference.low, difference.high
    ends = "" if math.isnan(low) else f" [{metric.signed(low)}, {metric.signed(high)}]"
    return metric.signed(difference.mean) + ends


def weight(row: Row) -> str:
    """The weights of penalties and techniques, whatever else was selected by its name, and the paper's own weight."""
    paper = [] if row.arm.reported_weight is None else [f"paper {number(row.arm.reported_weight)}"]
    if not row.selected and row.arm.search is not None:
        return ", ".join([MISSING, *paper])
    run = row.runs[0] if row.runs else row.arm.run
    own = ["auto" if run.technique.auto_weight else number(penalty.weight) for penalty in run.penalties]
    weights = "+".join([*own, *map(number, run.technique.shown.values())])
    return ", ".join(filter(None, [weights, *others(row), *paper])) or NONE


def title(summary: Summary) -> str:
    """The study's title with what holds for all of its arms."""
    s = summary.study
    facts = [
        spread((arm.run.split.train_size for arm in s.arms), f" {s.metric.examples}"),
        ", ".join(dict.fromkeys(arm.run.model.name for arm in s.arms)),
        spread((arm.run.schedule.steps for arm in s.arms), " steps"),
        f"{s.seeds} seed{'s' * (s.seeds > 1)}",
    ]
    return f"{s.title}: {', '.join(facts)}"


# --- notes ------------------------------------------------------------------------------------------------------------


def notes(summary: Summary) -> list[str]:
    """What the numbers of the table are, what is missing, what failed."""
    return [*measured(summary), *measures(summary), *warnings(summary), *failures(summary), *summary.notes]


def measured(summary: Summary) -> list[str]:
    """What each column is."""
    s = summary.study
    sizes = spread(arm.run.split.train_size for arm in s.arms)
    over = f"over {s.seeds} seeds" if s.seeds > 1 else "of one seed"
    found = [
        f"{s.metric.name}: on the test points, mean (sample standard deviation) {over}; each seed has its "
        f"training subset of {sizes} and its initialization, the same for every method",
    ]
    if any(len(group.rows) > 1 for group in summary.groups):
        found.append(
            f"difference: to the baseline, paired by seed, in {_unit(s.metric)}, with its 95 % confidence interval "
            "(Student's t); "
            f"p of the paired t test, corrected by {s.correction.capitalize()}{_comparisons(summary)}"
        )
    points = spread(arm.run.protocol.norm_points for arm in s.arms)
    outputs = "logits" if s.metric.higher else "output"
    coupled = any(row.norm is None and row.score is not None for row in summary.rows)
    none = f" ({NONE}: a network that normalizes by the batch there too has none)" if coupled else ""
    where = "one thread" if summary.timed_on == "cpu" else "a GPU, not compiled"
    found += [
        selection(summary),
        f"||J||: mean of ||d {outputs} / d input||_F on the first {points} test points, mean over the seeds{none}; "
        f"cost: median time of a training step over the baseline's, on {where}, interleaved",
    ]
    if any(row.arm.reported_weight is not None for row in summary.rows):
        found.append("beside a weight: the one that the paper selected, in the same unit")
    if any(row.functions for row in summary.rows):
        found.append(
            "slope: root mean square of dy/dx at the training inputs, and in the middle between neighbours that are "
            "more than 0.002 apart; mean (sample standard deviation) over the seeds; between / at: of each seed, of n "
            "where that stands beside it, since a constant has none"
        )
    if has_paper(summary):
        found.append(
            "paper: mean (standard deviation) as the paper reports it; ours - paper: the difference of the means, in "
            f"{_unit(s.metric)}"
        )
    return found


def _unit(metric: Metric) -> str:
    """What differences are in."""
    return metric.noun if metric.higher else metric.unit


def warnings(summary: Summary) -> list[str]:
    """What to know before the numbers are trusted: missing cells, fewer seeds, values at an edge."""
    found = []
    asked, missing, _ = counts(summary)
    if missing:
        found.append(
            f"{missing} of {asked} final runs are not there yet, and {MISSING} marks what cannot be known without "
            f"them; {summary.command} goes on with them"
        )
    elif any(MISSING in cells(summary, group, row) for group in summary.groups for row in group.rows):
        found.append(f"{MISSING}: could not be measured")
    short = [row.arm.id for row in summary.rows if 0 < len(known(row)) < summary.study.seeds]
    if short:
        found.append(
            f"fewer seeds than the {summary.study.seeds} asked for, so the row says how many (n), and differences are "
            f"over the seeds that both have: {', '.join(short)}"
        )
    at_edge = [row for row in summary.rows if row.edges]
    if at_edge:
        weights = all(row.edges == ("weight",) for row in at_edge)
        named = [row.arm.id if weights else f"{row.arm.id} ({', '.join(row.edges)})" for row in at_edge]
        found.append(
            f"at the edge of the {'weights' if weights else 'values'} tried, so a wider search might serve better: "
            f"{', '.join(named)}"
        )
    return found


def failures(summary: Summary) -> list[str]:
    """Each run that failed, with the first line of the reason."""
    return [
        f"failed: {row.arm.id}, {'tuning' if seed is None else f'seed {seed}'}: {first_line(reason)}"
        for row in summary.rows
        for seed, reason in row.failures
    ]


def _comparisons(summary: Summary) -> str:
    """Over how many p values the correction is; "" while there are none."""
    pairs, of_a_group = summary.study.pairs, " of a group" if len(summary.groups) > 1 else ""
    sizes = {
        len(group.pairs) if pairs else sum(row.difference is not None for row in group.rows) for group in summary.groups
    }
    if sizes == {0}:
        return ""
    unit = (
        (" pair of methods" if pairs else " method") if sizes == {1} else " pairs of methods" if pairs else " methods"
    )
    return f" over {spread(sizes, unit)}{of_a_group}"


def selection(summary: Summary) -> str:
    """How weights were chosen: validation points, tuning seeds and the rule."""
    searched = [row for row in summary.rows if row.arm.search is not None]
    if not searched:
        return "weight: as given; nothing was searched"
    points = spread(row.arm.run.split.validation_size for row in searched)
    # Counted, since a search other than a grid need not take as many as the study says.
    seeds = {max(len(t.scores) + t.failed for t in row.tried) for row in searched if row.tried}
    seeds = seeds or {summary.study.tuning_seeds}
    how = " by Optuna's TPE" if any(isinstance(row.arm.search, Tpe) for row in searched) else ""
    return (
        f"weight: as given, or searched{how} and chosen on {points} validation points with {spread(seeds)} other "
        f"seed{'s' * (seeds != {1})}: {summary.rule}"
    )


# --- terminal ---------------------------------------------------------------------------------------------------------


def table(summary: Summary) -> Table:
    """The table: within 80 columns for usual numbers; wider rather than cut for others (print it with crop=False)."""
    drawn = _empty(title(summary), header(summary), left=1)
    for group in summary.groups:
        marked = better(group)
        if len(summary.groups) > 1:
            drawn.add_section()
            drawn.add_row(Text(group.name), style="italic")
        for row in group.rows:
            drawn.add_row(*map(Text, cells(summary, group, row)), style="bold" if row in marked else "")
    return _as_wide_as_needed(drawn)


def pairs_table(summary: Summary) -> Table | None:
    """Every two arms compared, where the study asks for it."""
    if not any(group.pairs for group in summary.groups):
        return None
    drawn = _empty(f"Every pair ({corrected_p(summary)})", PAIRS_HEADER, left=2)
    for group in summary.groups:
        if len(summary.groups) > 1:
            drawn.add_section()
            drawn.add_row(Text(group.name), style="italic")
        for pair in group.pairs:
            drawn.add_row(*map(Text, pair_cells(pair, summary.metric)))
    return _as_wide_as_needed(drawn)


def slopes_table(summary: Summary) -> Table | None:
    """Slopes at the training points and between them, where functions of one number were learned."""
    if not any(row.functions for row in summary.rows):
        return None
    drawn = _empty("Slopes of the learned functions", SLOPES_HEADER, left=1)
    for group in summary.groups:
        if len(summary.groups) > 1:
            drawn.add_section()
            drawn.add_row(Text(group.name), style="italic")
        for cells in slopes(group):
            drawn.add_row(*map(Text, cells))
    return _as_wide_as_needed(drawn)


def field_table(summary: Summary, width: int | None = None) -> Table | None:
    """All that was measured of each method in one table; without standard deviations where these are too wide.

    Args:
        summary: of the study.
        width: columns that there are; None for any number.
    """
    if not (columns := field_header(summary)):
        return None

    def drawn(*, spread: bool) -> Table:
        heading = "Measures" if spread else "Measures (standard deviations: report.md)"
        found = _empty(heading, [f"{name}\n{which}".replace(" ", "\n", 1) for name, which in columns], left=1)
        for group in summary.groups:
            if len(summary.groups) > 1:
                found.add_section()
                found.add_row(Text(group.name), style="italic")
            for row in field(summary, group, spread=spread):
                found.add_row(*map(Text, row))
        return _as_wide_as_needed(found)

    whole = drawn(spread=True)
    fits = width is None or summary.study.seeds == 1 or (whole.width or 0) <= width
    return whole if fits else drawn(spread=False)


def pair_cells(pair: Pair, metric: Metric) -> tuple[str, ...]:
    """A pair as text, in the order of `PAIRS_HEADER`."""
    return pair.first, pair.second, _with_ends(pair.difference, metric), p_text(pair.p)


def _empty(heading: str, names: Iterable[str], left: int) -> Table:
    drawn = Table(title=Text(heading), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for position, name in enumerate(names):
        drawn.add_column(name, justify="left" if position < left else "right", no_wrap=True, vertical="bottom")
    return drawn


def _as_wide_as_needed(drawn: Table) -> Table:
    drawn.width = Console(width=1000).measure(drawn).maximum
    return drawn


# --- Markdown and JSON ------------------------------------------------------------------------------------------------


def markdown(summary: Summary, saliency: str = "") -> str:
    """The verdict, the tables and the notes as Markdown, with the name of the file of `gradreg.study.saliency`."""
    lines = [f"# {title(summary)}", "", verdict(summary), ""]
    lines += [summary.study.about, ""] if summary.study.about else []
    for group in summary.groups:
        lines += [f"## {group.name}", ""] if len(summary.groups) > 1 else []
        lines += [*_grid(header(summary), [cells(summary, group, row) for row in group.rows], left=1), ""]
        if group.pairs:
            lines += [*_grid(PAIRS_HEADER, [pair_cells(pair, summary.metric) for pair in group.pairs], left=2), ""]
        if names := field_header(summary):
            better = [f"{name} ({which})" if which else name for name, which in names]
            lines += [*_grid(better, field(summary, group), left=1), ""]
        if rows := slopes(group):
            lines += [*_grid(SLOPES_HEADER, rows, left=1), ""]
    lines += [f"![Gradients of the label's score with respect to test images]({saliency})", ""] if saliency else []
    return "\n".join([*lines, *(f"- {note}" for note in notes(summary)), ""])


def _grid(names: Iterable[str], rows: Iterable[Iterable[str]], left: int) -> list[str]:
    names = list(names)

    def line(items: Iterable[str]) -> str:
        return "| " + " | ".join(item.replace("|", r"\|") for item in items) + " |"

    return [line(names), "|" + "---|" * left + "---:|" * (len(names) - left), *map(line, rows)]


def plain(summary: Summary) -> dict[str, Any]:
    """Everything as plain data for JSON, which knows no nan."""
    return _known(
        {"verdict": verdict(summary), "notes": notes(summary), "metric": _plain(summary.metric), **_plain(summary)}
    )


def _plain(value: Any) -> Any:
    """Like `dataclasses.asdict`, with the key beside each run."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # A learned function is drawn; its numbers are in the run's result.
        known = [field.name for field in dataclasses.fields(value) if field.name not in ("outputs", "x", "y")]
        found = {name: _plain(getattr(value, name)) for name in known}
        return {"key": value.key, **found} if isinstance(value, Run) else found
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_known(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _paper(row: Row) -> tuple[str, str]:
    if row.reported is None:
        return NONE, NONE
    metric = row.metric
    sd = "" if row.reported.sd is None else f" ({metric.text(row.reported.sd)})"
    ours = MISSING if row.score is None else metric.signed(row.score.mean - row.reported.mean)
    return metric.text(row.reported.mean) + sd, ours
