"""A study's numbers for other programs: CSV by arm and by run, and a table for LaTeX. No torch here."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from gradreg.study.metric import Metric
from gradreg.study.profile import Measure
from gradreg.study.report import NONE, cells, header, measured, title
from gradreg.study.summary import Group, Row, Summary
from gradreg.study.verdict import known

# What LaTeX takes for commands.
ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def arm_columns(metric: Metric, measures: Sequence[Measure] = ()) -> tuple[str, ...]:
    """What `csv_text` says of an arm, numbers in the metric's unit; of accuracies, how many highest scores count.

    Measures are as results hold them: see `gradreg.study.profile`.
    """
    own = ("mean", "sd", "low", "high")
    return (
        *("group", "arm", "top", "values", "seeds"),
        *(f"{metric.key}_{part}" for part in own),
        *(f"difference_{part}" for part in own),
        *("p", "p_corrected", "correction", "jacobian_norm", "cost", "paper_mean", "paper_sd"),
        *(f"{measure.key}_{part}" for measure in measures for part in own[:2]),
    )


def run_columns(metric: Metric, measures: Sequence[Measure] = ()) -> tuple[str, ...]:
    """What `csv_runs` says of a run, numbers in the metric's unit; of accuracies, how many highest scores count."""
    own = ("group", "arm", "top", "seed", "key", f"test_{metric.key}", "jacobian_norm", "half_squared_norm")
    return (*own, *(measure.key for measure in measures))


def csv_text(summary: Summary) -> str:
    """One line for each arm; a cell is empty where there is no number."""

    def line(group: Group, row: Row) -> list[str | float | None]:
        a, d, paper = row.score, row.difference, row.reported
        over = [measure.over(row.measured(measure)) for measure in summary.measures]
        return [
            group.name,
            row.arm.name,
            row.arm.top,
            "; ".join(f"{path}={value}" for path, value in row.values),
            len(known(row)),
            *((a.mean, a.sd, a.low, a.high) if a else (None,) * 4),
            *((d.mean, d.sd, d.low, d.high, d.p) if d else (None,) * 5),
            row.p,
            summary.study.correction,
            row.norm,
            row.cost,
            *((paper.mean, paper.sd) if paper else (None,) * 2),
            *(number for e in over for number in ((e.mean, e.sd) if e else (None, None))),
        ]

    columns = arm_columns(summary.metric, summary.measures)
    return _csv(columns, (line(group, row) for group in summary.groups for row in group.rows))


def csv_runs(summary: Summary) -> str:
    """One line for each final run; the numbers are empty where it is missing or failed."""

    def numbers(row: Row) -> Iterable[tuple[float | None, ...]]:
        measures = map(row.measured, summary.measures)
        return zip(row.points, row.norms, row.half_squared_norms, *measures, strict=True)

    return _csv(
        run_columns(summary.metric, summary.measures),
        (
            [group.name, row.arm.name, row.arm.top, run.seed, run.key, *found]
            for group in summary.groups
            for row in group.rows
            for run, found in zip(row.runs, numbers(row), strict=True)
        ),
    )


def latex(summary: Summary) -> str:
    """A table for LaTeX (booktabs): the best mean of each group in bold."""
    names, metric = header(summary), summary.metric
    bold = f"the {metric.best} mean" + (" of each group" if len(summary.groups) > 1 else "")
    lines = [
        rf"% Needs \usepackage{{booktabs}}. In bold: {bold}, whether or not the difference is beyond chance (see p).",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_caption(summary, bold)}}}",
        rf"  \label{{tab:{''.join(c for c in summary.study.name if c.isalnum() or c in '-.')}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
        r"    \toprule",
        "    " + _line(r"$\|J\|$" if name == "||J||" else escape(name) for name in names),
    ]
    for group in summary.groups:
        lines.append(r"    \midrule")
        if len(summary.groups) > 1:
            lines.append(rf"    \multicolumn{{{len(names)}}}{{l}}{{\emph{{{escape(group.name)}}}}} \\")
        gains = [metric.gain(row.score.mean) for row in group.rows if row.score is not None]
        for row in group.rows:
            is_best = row.score is not None and metric.gain(row.score.mean) == max(gains)
            lines.append(f"    {_line(_latex_cells(summary, group, row, is_best))}")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(ESCAPES.get(character, character) for character in text)


def _caption(summary: Summary, bold: str) -> str:
    sentences = [note[0].upper() + note[1:] + "." for note in measured(summary)]
    text = escape(f"{title(summary)}. {' '.join(sentences)} Bold: {bold}.")
    return text.replace(ESCAPES["|"] * 2, r"$\|$")


def _latex_cells(summary: Summary, group: Group, row: Row, is_best: bool) -> Iterable[str]:
    for name, cell in zip(header(summary), cells(summary, group, row), strict=True):
        if name == summary.metric.header and is_best:
            mean, space, rest = cell.partition(" ")
            yield rf"\textbf{{{mean}}}{space}{escape(rest)}"
        elif cell == NONE:
            yield "--"
        elif cell[0] in "+-<" and name not in {"method", "weight"}:
            # In mathematics, so that a minus is a minus.
            yield f"${cell}$"
        else:
            yield escape(cell)


def _line(items: Iterable[str]) -> str:
    return " & ".join(items) + r" \\"


def _csv(columns: Iterable[str], lines: Iterable[Iterable[str | float | None]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        writer.writerow(["" if isinstance(x, float) and math.isnan(x) else "" if x is None else x for x in line])
    return file.getvalue()
