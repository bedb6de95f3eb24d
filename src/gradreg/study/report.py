"""A comparison as people read it: one sentence, a table, and the same as Markdown and JSON. No torch here."""

import dataclasses
import math
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from gradreg.study.compare import Comparison, Row
from gradreg.study.config import NORM_POINTS
from gradreg.study.statistics import paired

SIGNIFICANT = 0.05
HEADER = ("method", "weight", "accuracy, %", "difference", "Holm p", "||J||", "cost")


def verdict(comparison: Comparison) -> str:
    """One sentence: what to use, and how sure that is."""
    baseline, *others = comparison.rows
    better = [row for row in others if row.holm_p is not None and row.holm_p < SIGNIFICANT and _gain(row) > 0]
    seeds = comparison.setting.seeds
    where = f"{comparison.setting.train_size} labels of {comparison.setting.data}"
    if not others:
        return (
            f"The baseline reaches {baseline.accuracy.mean:.2f} % with {where}; there was nothing to compare it with."
        )
    if seeds < 2:
        return "One seed says nothing about which is better; ask for more with --seeds."
    if not better:
        top = max(others, key=_gain)
        return (
            f"With {where}, no method beats the baseline beyond chance over {seeds} seeds (the best, {_call(top)}, by "
            f"{_interval(top)}): keep the baseline, or run more seeds."
        )
    best = max(better, key=_gain)
    return (
        f"With {where}, use {_call(best)}: {_interval(best)} over the baseline's {baseline.accuracy.mean:.2f} %, "
        f"Holm-corrected p {_p(best.holm_p)}, at {best.cost:.1f}x the time per step{_cheaper(best, better)}."
    )


def _cheaper(best: Row, better: list[Row]) -> str:
    """Names the cheapest method that cannot be told from the best one, where it saves a tenth of the time or more."""
    alike = [row for row in better if row is best or paired(best.points, row.points).p > SIGNIFICANT]
    cheapest = min(alike, key=lambda row: row.cost)
    if cheapest.cost > 0.9 * best.cost:
        return ""
    loss = _gain(best) - _gain(cheapest)
    return f"; {_call(cheapest)}, at {cheapest.cost:.1f}x, cannot be told from it ({loss:.2f} points less)"


def notes(comparison: Comparison) -> list[str]:
    """What the numbers of the table are."""
    s = comparison.setting
    edges = [row.method.label for row in comparison.rows if row.weight is not None and _at_edge(row)]
    warning = (
        [f"at the edge of the weights tried, so a wider grid might serve better: {', '.join(edges)}"] if edges else []
    )
    return [
        f"accuracy: on the test points, mean (sample standard deviation) over {s.seeds} seeds; each seed draws a "
        f"training subset of {s.train_size} and an initialization, the same for every method",
        "difference: to the baseline, paired by seed, in points, with its 95 % confidence interval (Student's t); p of "
        f"the paired t test, corrected by Holm over {len(comparison.rows) - 1} methods",
        f"weight: as given, or chosen on {s.validation_size} validation points with {s.tuning_seeds} other seed(s): "
        f"{comparison.rule}",
        f"||J||: mean of ||d logits / d input||_F on the first {NORM_POINTS} test points, mean over the seeds; cost: "
        "median time of a training step over the baseline's, on one thread, interleaved",
        *warning,
    ]


def table(comparison: Comparison) -> Table:
    """The table: within 80 columns for usual numbers; wider rather than cut for others (print it with crop=False)."""
    drawn = Table(title=_title(comparison), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for position, name in enumerate(HEADER):
        drawn.add_column(name, justify="left" if position == 0 else "right", no_wrap=True)
    for row in comparison.rows:
        style = "bold" if row.holm_p is not None and row.holm_p < SIGNIFICANT and _gain(row) > 0 else ""
        drawn.add_row(*cells(row), style=style)
    drawn.width = Console(width=1000).measure(drawn).maximum
    return drawn


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of `HEADER`."""
    spread = "" if math.isnan(row.accuracy.sd) else f" ({row.accuracy.sd:.2f})"
    difference = "-"
    if row.difference is not None:
        low, high = row.difference.low, row.difference.high
        difference = f"{row.difference.mean:+.2f}" + ("" if math.isnan(low) else f" [{low:+.2f}, {high:+.2f}]")
    return (
        row.method.label,
        "-" if row.weight is None else f"{row.weight:g}",
        f"{row.accuracy.mean:.2f}{spread}",
        difference,
        "-" if row.holm_p is None else _p(row.holm_p),
        f"{row.jacobian_norm:.2f}",
        f"{row.cost:.2f}x",
    )


def markdown(comparison: Comparison) -> str:
    """The verdict, the table and the notes as Markdown."""
    header = [name.replace("|", r"\|") for name in HEADER]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in comparison.rows]
    explained = [f"- {note}" for note in notes(comparison)]
    return "\n".join([f"# {_title(comparison)}", "", verdict(comparison), "", *lines, "", *explained, ""])


def plain(comparison: Comparison) -> dict[str, Any]:
    """Everything as plain data for JSON, which knows no nan."""
    return _known({"verdict": verdict(comparison), "notes": notes(comparison), **dataclasses.asdict(comparison)})


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _title(comparison: Comparison) -> str:
    s = comparison.setting
    return f"{s.data}: {s.train_size} labels, {s.model}, {s.steps} steps, {s.seeds} seeds"


def _at_edge(row: Row) -> bool:
    return len(row.method.grid) > 1 and row.weight in (row.method.grid[0], row.method.grid[-1])


def _gain(row: Row) -> float:
    return row.difference.mean if row.difference is not None else 0.0


def _call(row: Row) -> str:
    return f"{row.method.label}({row.weight:g})"


def _interval(row: Row) -> str:
    assert row.difference is not None
    d = row.difference
    return f"{d.mean:+.2f} points (95 % interval {d.low:+.2f} to {d.high:+.2f})"


def _p(p: float | None) -> str:
    if p is None or math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
