"""Small studies as TOML files, an executor in this process, and `gradreg` in processes of its own."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gradreg import _random
from gradreg.study.config import Run
from gradreg.study.cost import Timing, save_seconds, step_id
from gradreg.study.execute import Outcome
from gradreg.study.files import load_study
from gradreg.study.store import Store
from gradreg.study.sweep import Sweep
from gradreg.study.work import Task, work

# A network that says in its run's log that it was built, and does something when it is built for one seed.
NET = '''
import os
import time
import torch
from torch import nn


class Slow(nn.Flatten):
    """Waits while a file is there."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def forward(self, x):
        time.sleep(0.1 * os.path.exists(self.file))
        return super().forward(x)


def build(classes, features):
    print("built", flush=True)
    first = nn.Flatten()
    if torch.initial_seed() == {seed}:
        {then}
    return nn.Sequential(first, nn.Linear(features, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, classes))
'''

TOML = """
name = "{name}"
seeds = {seeds}

[run]
data = "digits"
model = "{model}"
split = {{ train_size = 100, validation_size = 400, test_size = 797 }}
optimizer = {{ learning_rate = 0.003 }}
schedule = {{ steps = {steps}, batch_size = 20 }}

[[arms]]
name = "Baseline"

[[arms]]
name = "{preset}"
penalties = [{{ preset = "{preset}", weight = 0.1 }}]
search = {search}
"""
TPE = "{ weight = { low = 0.01, high = 1.0 }, trials = 4, batch = 2, halving = 2 }"


def toml(
    folder: Path,
    *,
    name: str = "mine",
    seeds: int = 2,
    steps: int = 40,
    preset: str = "SpectReg",
    search: str = "{ weight = [0.01, 0.1] }",
    at_seed: int = -1,
    then: str = "pass",
) -> Path:
    """Writes a study, with its network beside it.

    Args:
        folder: made where it is missing.
        name, seeds, steps, preset, search: of the study.
        at_seed, then: a statement that the network runs when it is built for this seed.
    """
    folder.mkdir(exist_ok=True)
    seed = _random.generator_for(at_seed, "initialization").initial_seed() if at_seed >= 0 else -1
    (folder / "nets.py").write_text(NET.format(seed=seed, then=then))
    path = folder / f"{name}.toml"
    model = f"{folder / 'nets.py'}:build"
    path.write_text(TOML.format(name=name, seeds=seeds, steps=steps, preset=preset, search=search, model=model))
    return path


class Here:
    """An executor in this process, which keeps the runs that it was given."""

    def __init__(self) -> None:
        self.given: list[Run] = []

    def __call__(self, queue: deque[Task], tick: Callable[[Sequence[Task]], None]) -> Iterator[Outcome[Task]]:
        """Does one after the other."""
        while queue:
            task = queue.popleft()
            self.given.append(task.run)
            tick([task])
            yield Outcome(task, work(task))


def nowhere(queue: deque[Task], tick: Callable[[Sequence[Task]], None]) -> Iterator[Outcome[Task]]:
    """An executor that must not be called."""
    raise AssertionError("the executor was called")


def sweep(path: Path, store: Store, executor: Any, *, only: Sequence[str] = (), **others: Any) -> Sweep:
    """The study of a file, done."""
    found = Sweep(load_study(str(path), store, only=only).study, store, seconds={}, **others)
    found.go(executor)
    return found


def timed(path: Path, store: Store, **others: Any) -> None:
    """As if the steps of a study had been timed, which takes a process."""
    runs = tuple(arm.run for arm in load_study(str(path), store, **others).study.arms)
    save_seconds(Timing(runs, store.directory), {step_id(run): 0.001 for run in runs}, store)


def start(*words: object) -> subprocess.Popen[str]:
    """Starts `gradreg` in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "gradreg", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def session(number: int) -> list[int]:
    """The processes that belong to a session, those that have ended but were not waited for left out."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, _, its = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its) == number and state != "Z":
            found.append(int(entry))
    return found


def results(store: Path) -> dict[str, dict[str, Any]]:
    """What runs measured, without the time it took, by key."""
    found = {file.parent.name: json.loads(file.read_text()) for file in (store / "runs").glob("*/result.json")}
    return {key: {name: v for name, v in result.items() if name != "seconds"} for key, result in found.items()}


def times(store: Path) -> dict[str, int]:
    """When results were written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in (store / "runs").glob("*/result.json")}


def built(store: Path) -> dict[str, int]:
    """How often each run's network was built, by the run's log."""
    logs = (store / "runs").glob("*/log.txt")
    return {log.parent.name: log.read_text().splitlines().count("built") for log in logs}
