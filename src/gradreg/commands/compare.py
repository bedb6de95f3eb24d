"""`gradreg compare`: from options to a table, a plot and one sentence."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gradreg.study import compare, report
from gradreg.study.config import SETTINGS, Method, Run, Setting, StudyError
from gradreg.study.cost import step_costs
from gradreg.study.execute import execute
from gradreg.study.plot import save_plot
from gradreg.study.store import Store, write_atomically
from gradreg.study.train import train


@dataclass(frozen=True)
class Compare:
    """Compare gradient regularizers on a data set with few labels.

    Trains the baseline and each method: weights are chosen on a validation split, then every method is trained on the
    same new training subsets and initializations, one per seed, and tested once. Ends with a table, a plot and one
    sentence that says what to use. Finished runs are kept and not repeated.
    """

    data: tyro.conf.Positional[Literal["digits", "mnist"]]
    """digits: scikit-learn's handwritten digits, no download. mnist: from $GRADREG_DATA, else downloaded."""
    train_size: int | None = None
    """Number of labelled training points, the same for each class. Default: 100 (digits), 2000 (mnist)."""
    seeds: int | None = None
    """Number of final runs of each method. Default: 10 (digits), 5 (mnist)."""
    tuning_seeds: int | None = None
    """Number of runs for each weight on the validation split. Default: 2 (digits), 1 (mnist)."""
    steps: int | None = None
    """Optimizer steps of a run. Default: 200 (digits), 2000 (mnist; the paper's protocol is 10000)."""
    batch_size: int | None = None
    """Examples in a step. Default: 20 (digits), 50 (mnist)."""
    methods: tuple[str, ...] = ()
    """Methods beside the baseline, by name: doubleback spectreg frobreg jacreg confidencepenalty; spectreg=0.03 fixes
    the weight and skips its search. Default: all."""
    jobs: int | None = None
    """Processes, of one thread each. Default: one per core."""
    out: Path | None = None
    """Directory for runs, table and plot. Default: runs/DATA."""


def run_compare(options: Compare) -> None:
    """Runs the comparison, and shows and keeps what it found."""
    setting = _setting(options)
    jobs = _positive(options.jobs if options.jobs is not None else os.cpu_count() or 1, "--jobs")
    out = options.out or Path("runs") / options.data
    console = Console()
    store = _store(out)
    middle = {m.name: m.grid[len(m.grid) // 2] for m in setting.methods if m.grid}
    timed = {method.name: setting.run(compare.penalties(method, middle), 0, "validation") for method in setting.methods}
    with console.status("timing one training step of each method"):
        costs = step_costs(timed)
    tuning = compare.tuning_runs(setting)
    seconds = {run: setting.steps * costs[method.name] for run, (method, _) in tuning.items()}
    later = setting.seeds * setting.steps * sum(costs.values())
    console.print(
        f"[bold]{setting.data}[/bold]: {setting.train_size} labels, {setting.model}, {setting.steps} steps; "
        f"{len(tuning)} runs choose the weights, then {setting.seeds * len(setting.methods)} final runs. "
        f"About {_minutes((sum(seconds.values()) + later) / jobs)} on {jobs} process(es) if nothing is done yet."
    )
    results = _run_all(console, store, seconds, jobs, "choosing weights", later) if tuning else {}
    weights = compare.chosen_weights(setting, results)
    final = compare.final_runs(setting, weights)
    seconds = {run: setting.steps * costs[method.name] for run, method in final.items()}
    results = _run_all(console, store, seconds, jobs, "final runs", 0)
    comparison = compare.summarize(setting, weights, results, costs)
    console.print()
    console.print(report.table(comparison), crop=False)
    console.print()
    for note in report.notes(comparison):
        console.print(f"  {note}", style="dim", highlight=False)
    save_plot(comparison, out / "comparison.png")
    write_atomically(out / "comparison.md", report.markdown(comparison))
    write_atomically(out / "comparison.json", json.dumps(report.plain(comparison), indent=1))
    console.print(f"\nplot {out / 'comparison.png'}, table {out / 'comparison.md'}, data {out / 'comparison.json'}\n")
    console.print(report.verdict(comparison), style="bold green", highlight=False)


def _setting(options: Compare) -> Setting:
    """The data set's setting with the options put in."""
    setting = SETTINGS[options.data]
    fields = ("train_size", "seeds", "tuning_seeds", "steps", "batch_size")
    given = {name: getattr(options, name) for name in fields if getattr(options, name) is not None}
    for name, value in given.items():
        _positive(value, "--" + name.replace("_", "-"))
    methods = tuple(_method(word, setting) for word in options.methods) or setting.methods[1:]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise StudyError(f"--methods names {name} {names.count(name)} times; expected each method once.")
    return replace(setting, methods=(setting.methods[0], *methods), **given)


def _store(out: Path) -> Store:
    try:
        return Store(out / "runs")
    except OSError as error:
        raise StudyError(f"--out got {out}, where no directory can be made: {error}.") from error


def _method(word: str, setting: Setting) -> Method:
    """A method by its name, or by name=weight."""
    known = {method.name: method for method in setting.methods[1:]}
    name, equals, weight = word.partition("=")
    if name not in known:
        raise StudyError(f"--methods got {word!r}; expected one or more of {', '.join(known)}, or spectreg=0.03.")
    if not equals:
        return known[name]
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise StudyError(f"--methods got {word!r}; expected a weight > 0, as in {name}=0.03.")
    return replace(known[name], grid=(number,))


def _positive(value: int, option: str) -> int:
    if value < 1:
        raise StudyError(f"{option} got {value}; expected a whole number >= 1.")
    return value


def _run_all(
    console: Console, store: Store, seconds: Mapping[Run, float], jobs: int, title: str, later: float
) -> dict[Run, dict[str, Any]]:
    """Runs what the store lacks, the longest first, with a live display; returns all results."""
    results = {run: found for run in seconds if (found := store.result(run)) is not None}
    missing = sorted((run for run in seconds if run not in results), key=lambda run: -seconds[run])
    if results:
        console.print(f"{title}: {len(results)} of {len(seconds)} done before")
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=console) as progress:
        task = progress.add_task(title, total=len(seconds), completed=len(results), left="")
        remaining, spent, expected = sum(seconds[run] for run in missing), 0.0, 0.0
        for outcome in execute(train, missing, jobs=jobs):
            remaining -= seconds[outcome.item]
            if outcome.error is None:
                store.save(outcome.item, outcome.result)
                results[outcome.item] = outcome.result
                spent, expected = spent + outcome.result["seconds"], expected + seconds[outcome.item]
            else:
                failed.append(f"{outcome.item.penalties} seed {outcome.item.seed}: {outcome.error}")
            pace = spent / expected if expected else 1.0
            progress.update(task, advance=1, left=f"about {_minutes((remaining + later) * pace / jobs)} left")
    if failed:
        raise StudyError(
            f"{len(failed)} of {len(seconds)} runs failed; the others are kept, and the same command tries these "
            "again:\n" + "\n".join(failed[:3])
        )
    return results


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
