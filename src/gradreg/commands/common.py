"""What commands share: the store, how runs are done with a live display, and how the result is shown and kept."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gradreg.study import report
from gradreg.study.collect import collect
from gradreg.study.config import StudyError
from gradreg.study.cost import known_seconds, missing_timing, save_seconds, time_steps
from gradreg.study.curves import require_tensorboard, write_curves
from gradreg.study.execute import execute
from gradreg.study.files import Loaded, save_study
from gradreg.study.stacks import StackExecutor, stack_size
from gradreg.study.store import Snapshot, Store, write_atomically
from gradreg.study.summary import Summary
from gradreg.study.sweep import Executor, LocalExecutor, Sweep, plan
from gradreg.study.verdict import counts, verdict

SALIENCY = "saliency.png"


@dataclass(frozen=True, kw_only=True)
class Doing:
    """How runs are done."""

    store: Path = Path("runs")
    """Directory of all results."""
    jobs: int | None = None
    """Processes, of one thread each. Default: one per core."""
    executor: Literal["local", "ray"] = "local"
    """Where runs are done: processes of this machine, or a Ray cluster."""
    address: str | None = None
    """Of the Ray cluster: auto, or host:port. Default: the one on this machine, or a new one."""
    device: str = "cpu"
    """Where each run trains: cpu, cuda."""
    stack: int = 0
    """Runs that differ in seeds, weights and training points alone to train at once. Default: 32 on a GPU, else 1."""
    retry_failed: bool = False
    """Do runs again that failed before."""
    tensorboard: bool = False
    """Write the curves of finished runs for TensorBoard, below STORE/tensorboard."""

    def chosen_executor(self) -> Executor:
        """The executor that the options say.

        Raises:
            StudyError: options that do not go together.
        """
        if self.stack < 0:
            raise StudyError(f"--stack got {self.stack}; expected a number of runs >= 1, or 0 for one that suits.")
        if self.executor == "ray":
            if self.stack > 1:
                raise StudyError(
                    f"--stack got {self.stack}, but on a Ray cluster each run trains by itself; leave --stack out, or "
                    "write --executor local."
                )
            from gradreg.study.ray_executor import RayExecutor

            if self.jobs is not None:
                raise StudyError(
                    "--jobs is for --executor local; a Ray cluster takes as many runs as it has processors."
                )
            return RayExecutor(self.address)
        if self.address is not None:
            raise StudyError(f"--address got {self.address}, but runs are local; add --executor ray.")
        size = stack_size(self.stack, self.device)
        usual = 1 if size > 1 and self.device != "cpu" else os.cpu_count() or 1  # one process keeps a GPU busy
        jobs = positive(self.jobs if self.jobs is not None else usual, "--jobs")
        return StackExecutor(jobs, size) if size > 1 else LocalExecutor(jobs)


def positive(value: int, option: str) -> int:
    """A number of an option, if it is at least 1."""
    if value < 1:
        raise StudyError(f"{option} got {value}; expected a whole number >= 1.")
    return value


def check_device(device: str) -> None:
    """Refuses a device that is not there, before any run fails for it."""
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except Exception as error:
        raise StudyError(f"--device got {device}, which cannot be used here: {error}") from error


def existing(directory: Path) -> Store:
    """The store of a command that only reads, which must be there."""
    if not (directory / "runs").is_dir():
        raise StudyError(f"--store got {directory}, where there are no runs; expected a directory of `gradreg run`'s.")
    return Store(directory)


def do(loaded: Loaded, doing: Doing, command: str, console: Console) -> Summary:
    """Runs what a study lacks, shows what it found, and keeps the report.

    Raises:
        StudyError: the study cannot run, or nothing can be written.
    """
    executor = doing.chosen_executor()
    check_device(doing.device)
    if doing.tensorboard:
        require_tensorboard()
    store = Store(doing.store)
    study = loaded.study
    for note in loaded.notes:
        console.print(f"  {note}", highlight=False)
    at_start = Snapshot(doing.store)
    before = plan(study, at_start)
    console.print(
        f"[bold]{study.name}[/bold]: {before.done} runs done, {before.missing} missing, {before.failed} failed"
        + (f", {before.running} in another process's hands" if before.running else ""),
        highlight=False,
    )
    changed = before.missing + before.running > 0 or (doing.retry_failed and before.failed > 0)
    if changed:
        save_study(loaded, store, command)
        seconds = _timed(loaded, store, console, doing.device)
        sweep = Sweep(study, store, seconds=seconds, retry_failed=doing.retry_failed, device=doing.device)
        with _sigterm_as_interrupt(), _display(console, sweep) as tick:
            sweep.go(executor, tick)
    summary = collect(study, store if changed else at_start, command=command, notes=loaded.notes)
    folder = store.study(study.name)
    if not _is_kept(summary, folder):  # such as another choice of arms, or of the correction, of the same runs
        save_study(loaded, store, command)
        keep_report(summary, folder, store)
    if doing.tensorboard:
        where = write_curves(summary, store)
        console.print(f"curves for TensorBoard: {where}", highlight=False)
    return summary


def show(summary: Summary, folder: Path, console: Console) -> None:
    """Prints the table, what its numbers are, where the report is, and the verdict last.

    Raises:
        StudyError: final runs failed.
    """
    console.print()
    console.print(report.table(summary), crop=False)
    if (pairs := report.pairs_table(summary)) is not None:
        console.print(pairs, crop=False)
    if (measures := report.field_table(summary, console.width)) is not None:
        console.print(measures, crop=False)
    if (slopes := report.slopes_table(summary)) is not None:
        console.print(slopes, crop=False)
    console.print()
    for note in report.notes(summary):
        console.print(f"  {note}", style="dim", highlight=False)
    console.print(f"\nreport {folder / 'report.html'} (also .md .csv .tex .json .png)\n", highlight=False)
    console.print(verdict(summary), style="bold green", highlight=False)
    _, _, failed = counts(summary)
    if failed:
        raise StudyError(
            f"{failed} final runs failed, as the notes say; the others are kept and in the report. After a change, "
            "--retry-failed does them again."
        )


def _is_kept(summary: Summary, folder: Path) -> bool:
    """Whether the report there is of this summary."""
    try:
        # Read rather than written for the comparison: json is faster so by far.
        kept = json.loads((folder / "report.json").read_text())
        return kept == report.plain(summary) and (folder / "report.html").exists()
    except (OSError, ValueError):
        return False


def keep_report(summary: Summary, folder: Path, store: Store) -> None:
    """Writes the report in all its forms; report.json last, by which one sees that the others are there."""
    from gradreg.study.function_figures import save_functions
    from gradreg.study.html import html
    from gradreg.study.plot import save_plot
    from gradreg.study.saliency import saliency
    from gradreg.study.tables import csv_runs, csv_text, latex

    seen = saliency(summary, store)
    if seen is None:
        (folder / SALIENCY).unlink(missing_ok=True)
    else:
        write_atomically(folder / SALIENCY, seen)
    write_atomically(folder / "report.html", html(summary, created=date.today().isoformat(), saliency=seen))
    write_atomically(folder / "report.md", report.markdown(summary, SALIENCY if seen is not None else ""))
    write_atomically(folder / "report.csv", csv_text(summary))
    write_atomically(folder / "runs.csv", csv_runs(summary))
    write_atomically(folder / "report.tex", latex(summary))
    save_plot(summary, folder / "report.png")
    if any(row.functions for row in summary.rows):
        save_functions(summary, folder / "functions.png")
    write_atomically(folder / "report.json", json.dumps(report.plain(summary), indent=1))


def minutes(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _timed(loaded: Loaded, store: Store, console: Console, device: str) -> dict[str, float]:
    """Tries each configuration in a process of its own, and times its step."""
    runs = [arm.run for arm in loaded.study.arms]
    timing = missing_timing(runs, store, device)
    if timing is None:
        return known_seconds(runs, store)
    with console.status("trying each configuration, and timing a training step of it"):
        (outcome,) = execute(time_steps, [timing], jobs=1)
    if outcome.error is not None:
        raise StudyError(f"a configuration cannot be trained: {outcome.error}")
    if isinstance(outcome.result, str):
        raise StudyError(outcome.result)
    save_seconds(timing, outcome.result, store)
    return outcome.result


@contextmanager
def _display(console: Console, sweep: Sweep) -> Iterator[Callable[[Sweep], None]]:
    """A bar with the runs that ended and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=console) as progress:
        bar = progress.add_task(sweep.study.name, total=None, left="")
        last = 0.0

        def tick(sweep: Sweep) -> None:
            nonlocal last
            if time.monotonic() - last < 0.5:
                return
            last = time.monotonic()
            ended = len(sweep.done) + len(sweep.failed)
            failed = f", {len(sweep.failed)} failed" if sweep.failed else ""
            left = f"about {minutes(sweep.left / max(1, len(sweep.running)))} left{failed}"
            progress.update(bar, completed=ended, total=sweep.known + sweep.pending, left=left)

        yield tick
        ended = len(sweep.done) + len(sweep.failed)
        progress.update(bar, completed=ended, total=ended, left=f"{len(sweep.failed)} failed" if sweep.failed else "")


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM, by which batch systems end a command, is taken like Ctrl-C: runs stop with a checkpoint."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
