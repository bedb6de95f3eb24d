"""What a worker does with one run: claims it, goes on from its checkpoint, keeps its result or why it failed.

torch is imported when the first run starts, so that a command that finds all done never waits for it.
"""

import gc
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gradreg.study.config import Run, StudyError
from gradreg.study.environment import environment
from gradreg.study.store import RunFiles, Store, is_full

if TYPE_CHECKING:
    from gradreg.data.dataset import Dataset


@dataclass(frozen=True)
class Task:
    """A run to do.

    Attributes:
        run: what to train.
        store: where it is kept.
        start: key of the run whose last state it goes on from (the same run, stopped earlier).
        since: a failure that was kept after this time stands, since another process has just tried; 0: none stands.
        device: where to train.
        keep_checkpoint: keep the state after the last step, for a run that goes on from this one.
        checkpoint_seconds: time between checkpoints.
    """

    run: Run
    store: Path
    start: str = ""
    since: float = 0.0
    device: str = "cpu"
    keep_checkpoint: bool = False
    checkpoint_seconds: float = 20.0


@dataclass(frozen=True)
class Answer:
    """How a task ended.

    Attributes:
        state: "done"; "failed", which the same run would do again; "elsewhere": another process has the run;
            "storage": nothing can be written; "stopped": as asked, with a checkpoint.
    """

    state: Literal["done", "failed", "elsewhere", "storage", "stopped"]
    result: dict[str, Any] | None = None
    error: str = ""


class LostError(Exception):
    """The store is out of reach of this process, which says nothing about the run."""


class Files(Protocol):
    """What a worker does with the files of a run that it holds: `RunFiles`, or its proxy on another machine."""

    def begin(self, run: Run, environment: Mapping[str, Any]) -> None:
        """Notes what is run, and on what."""

    def trim(self, step: int) -> None:
        """Drops the lines of metrics after a step."""

    def note(self, line: Mapping[str, Any]) -> None:
        """Appends a line of metrics."""

    def beat(self, step: int, steps: int) -> None:
        """A sign of life."""

    def save_checkpoint(self, content: bytes) -> None:
        """Keeps the training state."""

    def save_model(self, content: bytes) -> None:
        """Keeps the trained network."""

    def save_result(self, result: Mapping[str, Any], *, keep_checkpoint: bool = False) -> None:
        """Keeps the result."""

    def save_failure(self, error: str) -> None:
        """Keeps why it failed."""

    def result(self) -> dict[str, Any] | None:
        """The result as it is kept."""


_stopping = False
_frozen = 0  # times
_parent: int | None = None


def stop_on_sigterm(*, with_parent: bool = True) -> None:
    """From now on SIGTERM, or the death of the parent, ends the run in hand at its next step, with a checkpoint.

    Args:
        with_parent: whether the death of the parent counts.
    """
    global _parent  # noqa: PLW0603 - what a signal says, it says to the whole process

    def stop(*_: object) -> None:
        global _stopping  # noqa: PLW0603
        _stopping = True

    signal.signal(signal.SIGTERM, stop)
    _parent = os.getppid() if with_parent else None


def stopping() -> bool:
    """Whether SIGTERM has come, or the parent is gone."""
    return _stopping or (_parent is not None and os.getppid() != _parent)


def work(task: Task) -> Answer:
    """Does one run, unless it is done or in another process's hands."""
    files = Store(task.store).files(task.run)
    try:
        with files.claim() as mine:
            if not mine:
                return Answer("elsewhere")
            if (known := ended(task, files)) is not None:
                return known
            with log_to(files.folder / "log.txt"):
                return train_task(task, files, load=lambda: load_data(task), start=start_of(task, files), stop=stopping)
    except OSError as error:
        if is_full(error):
            return Answer("storage", error=str(error))
        raise


def load_data(task: Task) -> "Dataset":
    """The data set of a run."""
    from gradreg.study.train import dataset

    data = task.run.data
    return dataset(data.name, Store(task.store).pack(data.content) if data.content else None)


def start_of(task: Task, files: RunFiles) -> bytes | None:
    """The state to go on from: the run's own, else that of the run it continues."""
    found = files.checkpoint()
    if found is None and task.start:
        found = RunFiles(files.folder.parent / task.start).checkpoint()
    return found


def ended(task: Task, files: RunFiles) -> Answer | None:
    """How a run that this process holds has ended before, or None."""
    if (result := files.result()) is not None:
        return Answer("done", result)
    failure = files.failure()
    if failure is not None and task.since and failure.get("time", 0.0) >= task.since:
        return Answer("failed", error=failure["error"])
    return None


def train_task(
    task: Task, files: Files, *, load: "Callable[[], Dataset]", start: bytes | None, stop: Callable[[], bool]
) -> Answer:
    """Trains a run that this process holds, and keeps what comes out.

    Args:
        task: what to do.
        files: of its run, on this machine or another.
        load: gives its data set; where that cannot be read, the run has not failed but not begun.
        start: a checkpoint to go on from.
        stop: asked before each step; True ends the run with a checkpoint.

    Raises:
        OSError: nothing can be written.
        LostError: the store is out of reach.
    """
    from gradreg.data.dataset import DataError
    from gradreg.study.train import StoppedError, Watch, train
    from gradreg.study.trained import pack_model

    forget_run()
    run = task.run
    files.begin(run, environment(task.device))
    try:
        try:
            data = load()
        except (DataError, OSError) as error:  # which says nothing about the run
            return Answer("stopped", error=f"its data cannot be read: {error}")
        known = usable(start)
        files.trim(known[0] if known else 0)
        if known:
            print(f"goes on from step {known[0]} of {run.steps}")
        watch = Watch(keeper=files, checkpoint_seconds=task.checkpoint_seconds, stop=stop)
        result, training = train(run, data, device=task.device, start=known[1] if known else None, watch=watch)
        if run.protocol.measure == "test":
            files.save_model(pack_model(training, data))
        if task.keep_checkpoint:
            files.save_checkpoint(training.state())
        files.save_result(result, keep_checkpoint=task.keep_checkpoint)
        return Answer("done", files.result())
    except StoppedError as stopped:
        return Answer("stopped", error=str(stopped))
    except Exception as error:
        if is_full(error) or isinstance(error, LostError):
            raise
        traceback.print_exc()
        kind = "" if isinstance(error, (StudyError, DataError)) else f"{type(error).__name__}: "
        message = f"{kind}{error}"
        files.save_failure(message)
        return Answer("failed", error=message)


def forget_run() -> None:
    """Frees what is left of the run before, at a moment when no other is in hand.

    Its network, points and objective refer to each other, and stay (60 MB with MNIST) until Python looks through all of
    its objects, which it hardly ever does. With the 350,000 of torch and scikit-learn that takes a quarter of a second,
    as long as 100 steps of a small network. So a worker has it leave out those: what is there before its first run and
    before its second, by when everything is imported. Later there is nothing to gain, and a user's own network may be
    kept for some runs and then dropped.
    """
    global _frozen  # noqa: PLW0603 - of the whole process
    gc.collect()
    if multiprocessing.parent_process() is not None and _frozen < 2:
        gc.freeze()
        _frozen += 1


def usable(content: bytes | None) -> tuple[int, bytes] | None:
    """The step of a checkpoint, with it; None where it cannot be read, as one of another version of torch."""
    if content is None:
        return None
    import io

    import torch

    try:
        return int(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")["step"]), content
    except Exception as error:
        print(f"the checkpoint cannot be read ({error}); the run starts over", file=sys.stderr)
        return None


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """What the process prints while the block runs, C libraries and faults included, goes to a file."""
    import faulthandler

    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    out, err = sys.stdout, sys.stderr
    with path.open("a") as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with os.fdopen(os.dup(1), "w", buffering=1) as stream:
                sys.stdout = sys.stderr = stream
                faulthandler.enable(file)
                with warnings.catch_warnings():
                    yield
        finally:
            faulthandler.disable()
            sys.stdout, sys.stderr = out, err
            os.dup2(before[0], 1)
            os.dup2(before[1], 2)
            for descriptor in before:
                os.close(descriptor)
