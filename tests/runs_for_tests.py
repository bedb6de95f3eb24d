"""Small runs on the digits, a trainer that makes accuracies up, and processes that end at a given moment."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradreg.study.config import Data, Model, Optimizer, Penalty, Protocol, Run, Schedule, Split
from gradreg.study.grid import Arm, Search, Study
from gradreg.study.search import Searching
from gradreg.study.store import RunFiles, Store
from gradreg.study.work import Answer, Task

BASELINE = Run(
    Data("digits"), Split(100, 400, 797), Model("small-cnn"), Optimizer(0.003, weight_decay=0.0005), Schedule(60, 20)
)
SPECTREG = replace(BASELINE, penalties=(Penalty("SpectReg", 0.1),))
SIN = Run(
    Data("sin"),
    Split(100, 1000, balanced=False),
    Model("mlp-5x64"),
    Optimizer(0.01),
    Schedule(40, 50),
    protocol=Protocol(norm_points=900),
)
RESULT = {"test_accuracy": 94.123456789012345, "jacobian_norm": 1e-7, "validation_accuracy": 92.5, "seconds": 0.5}

# A network with dropout and with buffers, as a user writes it.
DROPOUT_NET = """
from torch import nn


def build(classes, features):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(features, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.4), nn.Linear(24, classes)
    )
"""


def with_dropout(folder: Path, run: Run = SPECTREG) -> Run:
    """A run of a network with dropout, whose source is put into a folder."""
    from gradreg.study.source import code_hash

    folder.mkdir(exist_ok=True)
    (folder / "nets.py").write_text(DROPOUT_NET)
    name = f"{folder / 'nets.py'}:build"
    return replace(run, model=Model(name, code_hash(name)))


def numbers(result: dict[str, Any] | None) -> dict[str, Any]:
    """All that a run measured but the time it took."""
    assert result is not None
    return {name: value for name, value in result.items() if name != "seconds"}


def lines(files: RunFiles) -> list[dict[str, Any]]:
    """The metrics of a run but for the time."""
    return [numbers(line) for line in files.metrics()]


# --- searches without training ----------------------------------------------------------------------------------------


def arm(search: Search | None, run: Run = SPECTREG, **others: Any) -> Arm:
    """An arm of SpectReg."""
    return Arm("SpectReg", run, search, **others)


def study(*arms: Arm, **others: Any) -> Study:
    """A study of these arms."""
    return Study("a-study", "A study", arms, **others)


class Pretender:
    """Answers a search with accuracies that are made up from the run alone, and keeps what it was asked for.

    Args:
        store: where results and failures are kept, as by `gradreg.study.work.work`.
        score: the accuracy (or mean squared error) of a run; None for a run that fails.
    """

    def __init__(self, store: Store, score: Callable[[Run], float | None]):
        self.store, self.score = store, score
        self.batches: list[list[Task]] = []
        self.trained: list[Run] = []

    def drive(self, searching: Searching, batches: int | None = None) -> bool:
        """Goes on until the search ends, or some batches were answered; whether it ended."""
        answers: dict[Run, Answer] | None = None
        while batches is None or batches > 0:
            try:
                tasks = next(searching) if answers is None else searching.send(answers)
            except StopIteration:
                return True
            self.batches.append(tasks)
            answers = {task.run: self.answer(task) for task in tasks}
            batches = None if batches is None else batches - 1
        searching.close()  # the last answers never arrive
        return False

    def answer(self, task: Task) -> Answer:
        """As a worker would."""
        files = self.store.files(task.run)
        if (known := files.result()) is not None:
            return Answer("done", known)
        self.trained.append(task.run)
        files.folder.mkdir(exist_ok=True)
        score = self.score(task.run)
        if score is None:
            files.save_failure("the loss became nan by step 20")
            return Answer("failed", error="the loss became nan by step 20")
        files.save_result({f"validation_{task.run.metric.key}": score, "steps": task.run.steps})
        return Answer("done", files.result())


# --- processes that end in mid-run ------------------------------------------------------------------------------------


def work_until(task: Task, note: int, number: int, answer: Path) -> None:
    """Does a run in a process that gets a signal right after it noted a step; how the run ended goes to a file."""
    from gradreg.study import work

    work.stop_on_sigterm()
    whole = RunFiles.note

    def noting(self: RunFiles, line: Any) -> None:
        whole(self, line)
        if line["step"] == note:
            os.kill(os.getpid(), number)

    RunFiles.note = noting
    found = work.work(task)
    answer.write_text(json.dumps([found.state, found.error]))


def work_until_write(task: Task, write: int) -> None:
    """Does a run in a process that is killed within a write: the content is in the file beside, the name is not."""
    from gradreg.study import work

    count = 0
    whole = os.fsync

    def syncing(descriptor: int) -> None:
        nonlocal count
        whole(descriptor)
        count += 1
        if count == write:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = syncing
    work.work(task)


def spoil(path: Path, how: str) -> None:
    """Damages a file."""
    content = path.read_bytes()
    match how:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "bit flipped":
            at = len(content) // 2
            path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        case "empty":
            path.write_bytes(b"")
        case "zeros":
            path.write_bytes(bytes(len(content)))
        case "foreign":
            path.write_bytes(b'{"complete": "yes", "step": 3}')
        case "gone":
            with suppress(FileNotFoundError):
                path.unlink()
        case _:
            raise AssertionError(how)


DAMAGES = ("truncated", "bit flipped", "empty", "zeros", "foreign", "gone")
