"""Where results are kept: a directory per run is the truth, written so that a crash leaves a whole file or none.

STORE/runs/KEY/config.json       what the run is
               environment.json  versions, commit, device
               metrics.jsonl     a line per noted step, while it runs
               heartbeat.json    step and time of the last sign of life
               checkpoint        training state, with its checksum
               result.json       there once the run is done
               failure.json      why it failed, with the end of its log
               model.pt          the trained network of a final run
               log.txt, lock
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gradreg.study.config import Run, StudyError

State = Literal["done", "failed", "running", "missing"]
STATES: tuple[State, ...] = ("done", "failed", "running", "missing")

# A run on another machine that has not been heard of for so long is taken to be dead.
SILENCE_SECONDS = 90
LOG_TAIL = 20

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True)
class Status:
    """A run's state.

    Attributes:
        step: of the last sign of life; 0 where there is none.
        steps: that the run takes.
    """

    state: State
    step: int = 0
    steps: int = 0


class Store:
    """Results below one directory.

    Args:
        directory: made where it is missing.

    Raises:
        StudyError: the directory cannot be made.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        try:
            for name in ("runs", "data", "studies"):
                (self.directory / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"the store got {directory}, where no directory can be made: {error}.") from error

    def files(self, run: Run) -> "RunFiles":
        """The files of a run."""
        return RunFiles(self.directory / "runs" / run.key)

    def result(self, run: Run) -> dict[str, Any] | None:
        """The result of a run, or None where there is none or it is not whole."""
        return self.files(run).result()

    def pack(self, content: str) -> Path:
        """Where the user's own data of this hash is kept."""
        return self.directory / "data" / f"{content}.npz"

    def study(self, name: str) -> Path:
        """Where reports of a study go; made where it is missing."""
        folder = self.directory / "studies" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def keys(self) -> list[str]:
        """The keys of all runs that have a directory."""
        runs = self.directory / "runs"
        return sorted(entry.name for entry in os.scandir(runs) if re.fullmatch("[0-9a-f]{16}", entry.name))

    def has(self, key: str) -> bool:
        """Whether the run of this key has been described."""
        return (self.directory / "runs" / key / "config.json").exists()

    def find(self, key: str) -> "RunFiles":
        """The files of the run whose key begins so.

        Raises:
            StudyError: there is none, or more than one.
        """
        found = [known for known in self.keys() if known.startswith(key)] if key else []
        if len(found) != 1:
            known = f"; they are {', '.join(found[:5])}" if found else ""
            raise StudyError(
                f"{len(found) or 'no'} runs in {self.directory} have a key that begins with {key!r}{known}. "
                "`gradreg status` lists them."
            )
        return RunFiles(self.directory / "runs" / found[0])


class Snapshot(Store):
    """A store of which each result is read once: for a command that reads all of them more than once."""

    def __init__(self, directory: Path):
        super().__init__(directory)
        self._results: dict[str, dict[str, Any] | None] = {}

    def result(self, run: Run) -> dict[str, Any] | None:
        """The result of a run as it was when it was first asked for."""
        if run.key not in self._results:
            self._results[run.key] = super().result(run)
        return self._results[run.key]


class RunFiles:
    """The directory of one run.

    Args:
        folder: named by the run's key.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    # --- what a worker does

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """Holds the run for this process while the block runs; False where another process has it.

        The lock goes with the process, however that ends.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as file:
            yield _lock(file)

    def begin(self, run: Run, environment: Mapping[str, Any]) -> None:
        """Notes what is run, and on what; half-written files of a process that was killed are removed."""
        for left in self.folder.glob(".*.[0-9]*"):
            left.unlink(missing_ok=True)
        write_atomically(self.folder / "config.json", json.dumps(run.as_dict(), indent=1))
        write_atomically(self.folder / "environment.json", json.dumps(environment, indent=1))

    def beat(self, step: int, steps: int) -> None:
        """A sign of life."""
        beat = {"step": step, "steps": steps, "time": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
        write_atomically(self.folder / "heartbeat.json", json.dumps(beat), safe=False)

    def note(self, line: Mapping[str, Any]) -> None:
        """Appends a line of metrics."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save_checkpoint(self, content: bytes) -> None:
        """Keeps the training state in place of the last one."""
        write_atomically(self.folder / "checkpoint", hashlib.sha256(content).digest() + content)

    def save_model(self, content: bytes) -> None:
        """Keeps the trained network."""
        write_atomically(self.folder / "model.pt", content)

    def save_result(self, result: Mapping[str, Any], *, keep_checkpoint: bool = False) -> None:
        """Keeps the result of a run; it is there whole, or not at all, whenever the power goes."""
        write_atomically(self.folder / "result.json", json.dumps({**result, "complete": True}, indent=1))
        for name in ("failure.json", "heartbeat.json", *(() if keep_checkpoint else ("checkpoint",))):
            (self.folder / name).unlink(missing_ok=True)

    def save_failure(self, error: str) -> None:
        """Keeps why a run failed, with the end of its log."""
        failure = {"error": error, "log": self.log_tail(), "time": time.time()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "failure.json", json.dumps(failure, indent=1))

    # --- what is read

    def config(self) -> dict[str, Any] | None:
        """What the run is, as plain data."""
        return _read(self.folder / "config.json")

    def environment(self) -> dict[str, Any] | None:
        """What the run ran on."""
        return _read(self.folder / "environment.json")

    def result(self) -> dict[str, Any] | None:
        """The result, or None where there is none or it is not whole."""
        found = _read(self.folder / "result.json")
        return found if found is not None and found.get("complete") is True else None

    def failure(self) -> dict[str, Any] | None:
        """Why the run failed, or None."""
        found = _read(self.folder / "failure.json")
        return found if found is not None and "error" in found else None

    def checkpoint(self) -> bytes | None:
        """The training state, or None where there is none or it is damaged."""
        try:
            content = (self.folder / "checkpoint").read_bytes()
        except OSError:
            return None
        return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics that are whole."""
        try:
            text = (self.folder / "metrics.jsonl").read_text(errors="replace")
        except OSError:
            return []
        found = []
        for line in text.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue  # torn by a crash
            if isinstance(value, dict) and "step" in value:
                found.append(value)
        return found

    def trim(self, step: int) -> None:
        """Drops the lines of metrics after a step: a run that goes on from a checkpoint writes them again."""
        kept = [line for line in self.metrics() if line["step"] <= step]
        if kept or (self.folder / "metrics.jsonl").exists():
            write_atomically(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    def log_tail(self, lines: int = LOG_TAIL) -> str:
        """The end of the log."""
        try:
            return "\n".join((self.folder / "log.txt").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def status(self) -> Status:
        """Done, failed, running or missing; a run that was broken off is missing, with the step it had reached."""
        if (result := self.result()) is not None:
            steps = int(result.get("steps", 0))
            return Status("done", steps, steps)
        beat = _read(self.folder / "heartbeat.json") or {}
        step, steps = int(beat.get("step", 0)), int(beat.get("steps", 0))
        if beat and self._alive(beat):
            return Status("running", step, steps)
        return Status("failed" if self.failure() is not None else "missing", step, steps)

    def _alive(self, beat: Mapping[str, Any]) -> bool:
        if beat.get("host") == socket.gethostname():
            return self.locked()
        return time.time() - float(beat.get("time", 0)) < SILENCE_SECONDS

    def locked(self) -> bool:
        """Whether a process of this machine holds the run."""
        try:
            with (self.folder / "lock").open("r+") as file:
                return not _lock(file)
        except OSError:
            return False

    def forget(self) -> None:
        """Removes all but the lock, as before the first try."""
        for entry in self.folder.iterdir():
            if entry.name != "lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def is_full(error: BaseException) -> bool:
    """Whether an error says that nothing can be written: the store's trouble, not the run's."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


@contextmanager
def locked_file(path: Path) -> Iterator[bool]:
    """Holds a file for this process while the block runs; False where another has it."""
    with path.open("a") as file:
        yield _lock(file)


def _lock(file: Any) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: without a guard against a second process
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_results(store: Store, runs: Sequence[Run]) -> dict[Run, dict[str, Any]]:
    """The results of those runs that are done."""
    return {run: found for run in runs if (found := store.result(run)) is not None}


def write_atomically(path: Path, content: str | bytes, *, safe: bool = True) -> None:
    """Writes beside the file, then renames.

    Args:
        path: the file.
        content: its new content.
        safe: wait until the disk has it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with beside.open("wb") as file:
            file.write(data)
            if safe:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
