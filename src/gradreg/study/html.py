"""A study as one page that needs nothing else: no other file, no request, no script. No torch here."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gradreg.study import figures, report
from gradreg.study.config import Run
from gradreg.study.function_figures import close_ups, functions
from gradreg.study.grid import Grid, Search, Tpe
from gradreg.study.metric import ACCURACY, MSE
from gradreg.study.search_figures import gave_up, searches
from gradreg.study.summary import Group, Row, Summary, is_known
from gradreg.study.verdict import SIGNIFICANT, better, call, counts, first_line, known, number, verdicts
from gradreg.study.weight_figures import by_weight

# Outlines of the figures' markers, in a box of 12 by 12.
OUTLINES = {
    "o": "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z",
    "s": "M2 2h8v8H2z",
    "D": "M6 .8 11.2 6 6 11.2 .8 6z",
    "^": "M6 1.5 11 10.5H1z",
    "v": "M6 10.5 1 1.5h10z",
    "P": "M4.2 1h3.6v3.2H11v3.6H7.8V11H4.2V7.8H1V4.2h3.2z",
    "X": "M3.3 1 6 3.7 8.7 1 11 3.3 8.3 6 11 8.7 8.7 11 6 8.3 3.3 11 1 8.7 3.7 6 1 3.3z",
    "h": "M6 1 10.4 3.5v5L6 11 1.6 8.5v-5z",
}
# Columns of which the first number is the one to read, and what ends it.
SPLIT = {"weight": ", ", ACCURACY.header: " ", MSE.header: " ", "difference": " ", "paper": " "}


@dataclass(frozen=True)
class Cell:
    """A cell of the table: its number, what stands smaller beside it, and a mark with its meaning."""

    text: str
    rest: str = ""
    mark: str = ""
    meaning: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether it waits for a run."""
        return self.text == report.MISSING


def html(summary: Summary, *, created: str, saliency: bytes | None = None) -> str:
    """The report as one page.

    Args:
        summary: of the study.
        created: when, as it is to be printed.
        saliency: the PNG of `gradreg.study.saliency`; None for none.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "svg": Markup,
        "number": number,
        "first_line": first_line,
        "capitalize_first": _capital,
        "together": _together,
    }
    asked, missing, failed = counts(summary)
    first, *others = verdicts(summary)
    return environment.get_template("report.html.j2").render(
        summary=summary,
        study=summary.study,
        title=report.title(summary),
        verdict=first,
        verdicts=others,
        facts=_facts(summary),
        counts={"asked": asked, "missing": missing, "failed": failed, "there": asked - missing - failed},
        header=report.header(summary),
        groups=[_group(summary, group) for group in summary.groups],
        has_marks=any(_mark(group, row)[0] for group in summary.groups for row in group.rows),
        significant=SIGNIFICANT,
        pairs_header=report.PAIRS_HEADER,
        has_pairs=any(group.pairs for group in summary.groups),
        has_paper=report.has_paper(summary),
        metric=summary.metric,
        scores=figures.scores(summary),
        functions=functions(summary),
        close_ups=close_ups(summary),
        field_header=report.field_header(summary),
        fields=[(group.name, [_field(row) for row in report.field(summary, group)]) for group in summary.groups],
        measures=report.measures(summary),
        slopes_header=report.SLOPES_HEADER,
        slopes=[(group.name, rows) for group in summary.groups if (rows := report.slopes(group))],
        saliency=None if saliency is None else base64.b64encode(saliency).decode(),
        trend=figures.trend(summary),
        by_weight=by_weight(summary),
        searches=searches(summary),
        searched=_searched(summary),
        norms=figures.norms(summary),
        curves=figures.curves(summary),
        legend=figures.legend(summary),
        outlines=OUTLINES,
        # The selection stands under the table already.
        measured=[note for note in report.measured(summary) if note != report.selection(summary)],
        selection=report.selection(summary),
        # Each is ended by the page.
        warnings=[note.rstrip(".") for note in (*report.warnings(summary), *summary.notes)],
        lacking=_lacking(summary),
        failures=[
            (row, seed, next((run.key for run in row.runs if run.seed == seed), ""), reason)
            for row in summary.rows
            for seed, reason in row.failures
        ],
        arms=[_arm(row) for row in summary.rows],
        environments=_environments(summary.environments),
        version=", ".join(dict.fromkeys(str(e["gradreg"]) for e in summary.environments if e.get("gradreg"))),
        created=created,
    )


def _facts(summary: Summary) -> list[tuple[str, str]]:
    """What holds for the final runs, in a few words each: what was selected, where that is known."""
    runs = [row.runs[0] if row.runs else row.arm.run for row in summary.rows]
    spread = report.spread
    rates = sorted({run.optimizer.learning_rate for run in runs})
    rate = " to ".join(dict.fromkeys((number(rates[0]), number(rates[-1]))))
    optimizers = _words(run.optimizer.name for run in runs)
    return [
        ("data", _words(run.data.name for run in runs)),
        (summary.metric.examples, spread(run.split.train_size for run in runs)),
        ("seeds", str(summary.study.seeds)),
        ("network", _words(run.model.name for run in runs)),
        ("steps", spread(run.schedule.steps for run in runs)),
        ("batch", spread(run.schedule.batch_size for run in runs)),
        ("optimizer", f"{optimizers}, learning rate {rate}"),
        ("validation points", spread(run.split.validation_size for run in runs)),
    ]


def _words(values: Iterable[str]) -> str:
    found = list(dict.fromkeys(values))
    return "; ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _group(summary: Summary, group: Group) -> dict[str, Any]:
    rows = []
    for row in group.rows:
        mark, meaning = _mark(group, row)
        cells = []
        for name, text in zip(report.header(summary), report.cells(summary, group, row), strict=True):
            lead, _, rest = text.partition(SPLIT[name]) if name in SPLIT else (text, "", "")
            is_number = name != "method"
            shown = (mark, meaning) if name == "difference" else ("", "")
            cells.append(Cell(_minus(lead) if is_number else lead, _minus(rest), *shown))
        rows.append({"cells": cells, "class": {"▲": "better", "▼": "worse"}.get(mark, "")})
    pairs = [
        [*pair[:2], *map(_minus, pair[2:])] for pair in (report.pair_cells(p, summary.metric) for p in group.pairs)
    ]
    return {"name": group.name, "rows": rows, "pairs": pairs}


def _field(row: Sequence[str]) -> list[Cell]:
    """A row of the table of measures."""
    name, *numbers = row
    found = [Cell(name)]
    for text in numbers:
        lead, _, rest = text.partition(" (")
        found.append(Cell(_minus(lead), f"({_minus(rest)}" if rest else ""))
    return found


def _mark(group: Group, row: Row) -> tuple[str, str]:
    """What is beyond chance, by a sign as well as by a colour."""
    if row in better(group):
        return "▲", "better than the baseline beyond chance"
    if is_known(row.p) and (row.p or 0.0) < SIGNIFICANT and row.gain < 0:
        return "▼", "worse than the baseline beyond chance"
    return "", ""


def _together(text: str) -> Markup:
    """Text as it is set: a number keeps its sign or unit beside it, words with a hyphen and options stay whole."""
    together = r"(?<=\d) (?=%|points)|(?<=%) (?=interval)|(?<= p) (?=<)|(?<=<) (?=\d)|(?<= p) (?=\d)|(?<=most) (?=\d)"
    safe = str(escape(re.sub(together, "\u00a0", _minus(text.replace("||", "‖")))))
    safe = re.sub("‖_([F2])", r"‖<sub>\1</sub>", safe)
    return Markup(re.sub(r"--[a-z-]+|(?:Holm|Bonferroni)-corrected", r'<span class="together">\g<0></span>', safe))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _minus(text: str) -> str:
    """Numbers with a minus sign in place of a hyphen."""
    if text == report.NONE:
        return "–"
    return "".join(
        "−" if c == "-" and text[i + 1 : i + 2].isdigit() and not text[i - 1 : i].isalnum() else c
        for i, c in enumerate(text)
    )


def _lacking(summary: Summary) -> list[tuple[Row, list[tuple[int, str]]]]:
    """The rows with runs that are not there and did not fail, with the seeds and keys of these; none are known of an
    arm of which nothing is selected yet."""
    found = []
    for row in summary.rows:
        failed = {seed for seed, _ in row.failures}
        runs = [(run, point) for run, point in zip(row.runs, row.points, strict=True) if run.seed not in failed]
        lacking = [(run.seed, run.key) for run, point in runs if point is None] if row.selected else []
        if lacking or (not row.failures and not (row.selected and row.runs)):
            found.append((row, lacking))
    return found


def _arm(row: Row) -> dict[str, Any]:
    """A configuration with all that was tried and run."""
    errors = dict(row.failures)
    runs = []
    for run, point, norm in zip(row.runs, row.points, row.norms, strict=True):
        state = row.metric.text(point) if point is not None else "failed" if run.seed in errors else report.MISSING
        runs.append((run.seed, state, "–" if norm is None else f"{norm:.2f}", run.key))
    tried = [
        (
            dict(item.values),
            ", ".join(map(row.metric.text, item.scores)) or "–",
            row.metric.text(sum(item.scores) / len(item.scores)) if item.scores else "–",
            _state(row, item.values == row.values, gave_up(row, item), item.failed, item.steps),
            item.values == row.values,
        )
        for item in row.tried
    ]
    return {
        "name": f"{row.arm.group}: {call(row)}" if row.arm.group else call(row),
        "brief": _brief(row),
        "search": _search(row.arm.search),
        "paths": list(dict.fromkeys(path for item in row.tried for path, _ in item.values)),
        "tried": tried,
        "runs": runs,
        "chosen": [(path, str(value)) for path, value in row.values],
        "setting": _setting(row.runs[0] if row.runs else row.arm.run),
    }


def _brief(row: Row) -> str:
    """What an arm came to, with its spread by name."""
    if not row.selected:
        return f"{report.MISSING}, nothing selected"
    if row.score is None:
        return f"{report.MISSING}, no result"
    count = len(known(row))
    spread = f", standard deviation {row.metric.text(row.score.sd)} over {count} seeds" if count > 1 else ", one seed"
    return f"{row.metric.whole(row.score.mean)}{spread}"


def _searched(summary: Summary) -> dict[str, bool]:
    """What the figures of the searches show, so that their key names nothing else."""
    tried = [(row, item) for row in summary.rows for item in row.tried]
    return {
        "joined": any(isinstance(row.arm.search, Grid) for row, _ in tried),
        "repeated": any(len(item.scores) > 1 for _, item in tried),
        "halved": any(gave_up(row, item) for row, item in tried),
        "failed": any(item.failed for _, item in tried),
    }


def _state(row: Row, chosen: bool, early: bool, failed: int, steps: int) -> str:
    found = ["chosen"] if chosen and row.selected else []
    found += [f"given up after {steps} steps"] if early else []
    found += [f"{failed} failed"] if failed else []
    return ", ".join(found)


def _search(search: Search | None) -> str:
    if isinstance(search, Grid):
        return f"grid of {len(search.points())}"
    if isinstance(search, Tpe):
        halving = f", successive halving by {search.halving}" if search.halving else ""
        ranges = ", ".join(f"{path} from {r.low:g} to {r.high:g}" for path, r in search.ranges)
        return f"Optuna's TPE, {search.trials} trials{halving}: {ranges}"
    return "all values given"


def _setting(run: Run) -> str:
    """What the runs of an arm have in common, in a line."""
    o, s = run.optimizer, run.schedule
    decay = f", weight decay {o.weight_decay:g}" if o.weight_decay else ""
    return (
        f"{run.terms or 'no penalty'}; {run.split.train_size} "
        f"{run.metric.examples} of {run.data.name}{run.unlabelled}; "
        f"{run.model.name}; {o.name}, learning rate {number(o.learning_rate)}{decay}; {s.steps} steps of {s.batch_size}"
    )


def _environments(environments: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """One line for each fact, with a column for each environment."""
    names = dict.fromkeys(name for environment in environments for name in environment)
    return [
        (name, ["–" if environment.get(name) is None else str(environment[name]) for environment in environments])
        for name in names
    ]
