"""`gradreg status`, `gradreg show`, `gradreg export`: what is in a store."""

import csv
import io
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradreg.commands.common import existing
from gradreg.study.files import load_study
from gradreg.study.index import FIELDS, Index
from gradreg.study.store import STATES, RunFiles, Snapshot, write_atomically
from gradreg.study.sweep import plan


@dataclass(frozen=True, kw_only=True)
class Status:
    """List what is done, running, failed and missing, in a study or in the whole store."""

    study: tyro.conf.Positional[str | None] = None
    """A study, as for `gradreg run`. Default: all runs of the store."""
    store: Path = Path("runs")
    """Directory of all results."""
    set: tuple[str, ...] = ()
    """Values put into the study."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show one run: what it is, what it ran on, how it went, and why it failed if it did."""

    run: tyro.conf.Positional[str]
    """The run's key, or the beginning of it."""
    store: Path = Path("runs")
    """Directory of all results."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a line for each run of the store, for other programs."""

    store: Path = Path("runs")
    """Directory of all results."""
    format: Literal["csv", "json"] = "csv"
    """csv: the main numbers. json: also configurations, environments and results in full."""
    out: Path | None = None
    """File. Default: printed."""


def run_status(options: Status) -> None:
    """Prints states."""
    console = Console()
    store = existing(options.store)
    if options.study is not None:
        study = load_study(options.study, store, overrides=options.set, kept=True).study
        at = plan(study, Snapshot(options.store))
        console.print(
            f"[bold]{study.name}[/bold]: {at.done} runs done, {at.running} running, {at.failed} failed, {at.missing} "
            "missing (tuning runs included)",
            highlight=False,
        )
        return
    rows = Index(store).rows()
    count = Counter(row["state"] for row in rows)
    console.print(", ".join(f"{count[state]} {state}" for state in STATES) + f" in {store.directory}", highlight=False)
    active = [row for row in rows if row["state"] != "done"]
    if not active:
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for name in ("run", "state", "step", "what"):
        table.add_column(name, no_wrap=name != "what")
    for row in active[:50]:
        step = f"{row['step']}/{row['steps']}" if row["steps"] else ""
        what = _what(row) + (f": {row['error']}" if row["error"] else "")
        table.add_row(*map(Text, (row["key"], row["state"], step, what)))
    console.print(table)
    if len(active) > 50:
        console.print(f"and {len(active) - 50} more; `gradreg export` lists all", highlight=False)


def _what(row: dict[str, Any]) -> str:
    return f"{row['penalties'] or 'no penalty'}, {row['train_size']} labels of {row['data']}, seed {row['seed']}"


def run_show(options: Show) -> None:
    """Prints one run."""
    console = Console()
    files = existing(options.store).find(options.run)
    at = files.status()
    console.print(f"[bold]{files.folder.name}[/bold] {at.state}, step {at.step} of {at.steps}", highlight=False)
    for title, value in (("is", files.config()), ("ran on", files.environment()), ("result", files.result())):
        if value is not None:
            console.print(f"\n{title}", style="bold")
            console.print_json(json.dumps(value))
    if (lines := files.metrics()) != []:
        console.print("\nmetrics", style="bold")
        measured = [line for line in lines if any(name.startswith("validation_") for name in line)] or lines
        for line in measured[-10:]:
            numbers = ", ".join(f"{k} {v:.4g}" for k, v in line.items() if k not in ("step", "seconds"))
            console.print(f"  step {line['step']}: {numbers}", highlight=False)
    if (failure := files.failure()) is not None and at.state == "failed":
        console.print("\nfailed", style="bold red")
        console.print(Text(str(failure["error"])))
        console.print("\nend of its log", style="bold")
        console.print(Text(str(failure.get("log", ""))))
    again = f" --store {options.store}" if options.store != Path("runs") else ""
    console.print(f"\nrepeat it: gradreg train {files.folder.name} --again{again}", highlight=False)


def run_export(options: Export) -> None:
    """Writes all runs."""
    store = existing(options.store)
    rows = Index(store).rows()
    if options.format == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue()
    else:
        whole = []
        for row in rows:
            files = RunFiles(store.directory / "runs" / row["key"])
            kept = {"config": files.config(), "environment": files.environment(), "result": files.result()}
            whole.append({**row, **kept})
        content = json.dumps(whole, indent=1) + "\n"
    if options.out is None:
        sys.stdout.write(content)
    else:
        write_atomically(options.out, content)
