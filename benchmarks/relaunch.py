"""How long the command line takes on a finished study of 1000 runs, whose results are made up: the table of docs."""

import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from gradreg.study.config import Data, Model, Optimizer, Penalty, Run, Schedule, Split
from gradreg.study.cost import Timing, save_seconds, step_id
from gradreg.study.files import Loaded, save_study
from gradreg.study.grid import Arm, Grid, Study, final_runs
from gradreg.study.search import progress, tuning_runs
from gradreg.study.store import Store
from gradreg.study.sweep import plan

REPEATS = 3
SIZES = (100, 200, 500, 1000)
PRESETS = ("SpectReg", "FrobReg", "DoubleBack", "JacReg")


def study() -> Study:
    """Four groups of a baseline and four searches: 4 (4 * 10 * 3 + 5 * 26) = 1000 runs."""
    weights = tuple(0.001 * 2**number for number in range(10))
    arms = []
    for size in SIZES:
        run = Run(Data("digits"), Split(size, 400, 397), Model("small-cnn"), Optimizer(0.003), Schedule(200, 20))
        arms.append(Arm("Baseline", run, group=f"{size} labels"))
        for preset in PRESETS:
            one = Run(run.data, run.split, run.model, run.optimizer, run.schedule, (Penalty(preset, 0.1),))
            arms.append(Arm(preset, one, Grid((("weight", weights),)), f"{size} labels"))
    return Study("relaunch", "A finished study", tuple(arms), seeds=26, tuning_seeds=3)


def pretend(run: Run, store: Store) -> None:
    """Keeps a result that nothing was trained for."""
    files = store.files(run)
    with files.claim():
        files.begin(run, {"python": platform.python_version(), "pid": os.getpid(), "host": "made-up"})
        accuracy = 80 + int(run.key[:4], 16) % 1500 / 100
        result = {"validation_accuracy": accuracy, "steps": run.steps, "seconds": 1.0}
        if run.protocol.measure == "test":
            result |= {"test_accuracy": accuracy + 0.5, "jacobian_norm": 1 + accuracy / 100}
            for step in range(10, 201, 10):
                files.note({"step": step, "task": 3 / step, "validation_accuracy": accuracy - 50 / step, "seconds": 1})
        files.save_result(result)


def fill(store: Store) -> Study:
    """A store with all of the study's results."""
    made = study()
    for arm in made.arms:
        for run in tuning_runs(arm, made, store):
            pretend(run, store)
        values = progress(arm, made, store).values
        assert values is not None
        for run in final_runs(arm, values, made.seeds):
            pretend(run, store)
    runs = tuple(arm.run for arm in made.arms)
    save_seconds(Timing(runs, store.directory), {step_id(run): 0.001 for run in runs}, store)
    save_study(Loaded(made), store, "gradreg run relaunch")
    return made


def seconds(store: Store, *words: str) -> float:
    """The wall-clock time of a command, as the median of a few."""
    command = [sys.executable, "-m", "gradreg", *words, "--store", str(store.directory)]
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def main() -> None:
    with TemporaryDirectory() as folder:
        store = Store(Path(folder))
        done = plan(fill(store), store).done
        print(f"{done} finished runs; {os.cpu_count()} cores, {date.today()}; medians of {REPEATS}")
        print("| command | seconds |\n|---|---:|")
        for words in (("report", "relaunch"), ("run", "relaunch"), ("status",), ("status", "relaunch")):
            print(f"| gradreg {' '.join(words)} | {seconds(store, *words):.2f} |", flush=True)


if __name__ == "__main__":
    main()
