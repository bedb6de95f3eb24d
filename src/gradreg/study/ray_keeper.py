"""The store as workers on other machines see it: an actor beside it that writes, and a proxy that asks it to.

No machine but the driver's needs the store's directory. Every try of a run has a name, by which the actor knows whose
words still count: what a worker says that was given up is refused, so that two never write to one run.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradreg.study.config import Run
from gradreg.study.store import RunFiles, Store
from gradreg.study.work import Answer, LostError, Task, ended

# Of what a run prints, so much is kept.
LOG_BYTES = 64_000

_METHODS = {
    "begin",
    "trim",
    "note",
    "beat",
    "save_checkpoint",
    "save_model",
    "save_result",
    "save_failure",
    "result",
}


@dataclass(frozen=True)
class Reply:
    """What the keeper answers.

    Attributes:
        value: what the method returned.
        stop: whether runs are to stop.
        errno, error: of an OSError; an exception of its type that Ray carries over has lost its number.
        refused: why the keeper does not listen to this try any more.
    """

    value: Any = None
    stop: bool = False
    errno: int | None = None
    error: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Opened:
    """What a worker is told that asks for a run.

    Attributes:
        answer: what it has to say where there is nothing to do; None where the run is now its own.
        start: the checkpoint to go on from.
    """

    answer: Answer | None
    start: bytes | None = None


class Keeper:
    """Holds the runs of all tries that are under way, in one process beside the store; the life of the Ray actor.

    Its methods are called one at a time, so that none needs a lock.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[ExitStack, RunFiles]] = {}
        self._over: set[str] = set()
        self._stop = False

    def open(self, name: str, task: Task) -> Reply:
        """Claims the run for the try of this name."""
        if name in self._over:
            return Reply(refused="this try has been given up")
        if self._stop:
            return Reply(Opened(Answer("stopped", error="stopped before it began")), stop=True)
        files = Store(task.store).files(task.run)
        stack = ExitStack()
        try:
            mine = stack.enter_context(files.claim())
            known = ended(task, files) if mine else Answer("elsewhere")
            if known is not None:
                stack.close()
                return Reply(Opened(known))
            start = files.checkpoint()
            if start is None and task.start:
                start = RunFiles(files.folder.parent / task.start).checkpoint()
        except OSError as error:
            stack.close()
            return Reply(errno=error.errno, error=str(error))
        self._held[name] = stack, files
        return Reply(Opened(None, start))

    def do(self, name: str, method: str, *args: Any, **options: Any) -> Reply:
        """Calls a method of the run's files."""
        if name not in self._held or method not in {*_METHODS, "log"}:
            return Reply(refused="this try has been given up")
        files = self._held[name][1]
        try:
            value = self._log(files, *args) if method == "log" else getattr(files, method)(*args, **options)
        except OSError as error:
            return Reply(errno=error.errno, error=str(error))
        return Reply(value, stop=self._stop)

    def held(self) -> list[str]:
        """The tries that are under way."""
        return list(self._held)

    def release(self, name: str, died: str = "") -> None:
        """Ends a try, whose run is free again.

        Args:
            name: of the try.
            died: what its process died of, for the log.
        """
        self._over.add(name)
        stack, files = self._held.pop(name, (None, None))
        if stack is None or files is None:
            return
        with stack:
            if died:
                with suppress(OSError):  # a full disk is found by whoever has more to write
                    self._log(files, f"the process of this run died: {died}\n")

    def stop(self) -> None:
        """From now on every reply asks its worker to stop."""
        self._stop = True

    def close(self) -> None:
        """Ends all tries: whoever is still at work is not listened to any more."""
        for name in self.held():
            self.release(name)

    def _log(self, files: RunFiles, text: str) -> None:
        with (files.folder / "log.txt").open("a") as file:
            file.write(text)


class RemoteFiles:
    """The files of a run, kept by a `Keeper` on another machine.

    Args:
        keeper: the actor's handle.
        name: of this try.
        log: the file on this machine to which the run's process prints.

    Attributes:
        stop: whether the last reply asked to stop; it comes with every sign of life.
    """

    def __init__(self, keeper: Any, name: str, log: Path):
        self.stop = False
        self._keeper, self._name, self._log = keeper, name, log
        self._sent = 0

    def open(self, task: Task) -> Opened:
        """Asks for the run."""
        return self._value(self._keeper.open.remote(self._name, task))

    def begin(self, run: Run, environment: Mapping[str, Any]) -> None:
        """Notes what is run, and on what: this machine and process, which the keeper's are not."""
        import ray

        here = {"host": socket.gethostname(), "pid": os.getpid(), "ray": ray.__version__}
        self._do("begin", run, {**environment, **here})

    def trim(self, step: int) -> None:
        """Drops the lines of metrics after a step."""
        self._do("trim", step)

    def note(self, line: Mapping[str, Any]) -> None:
        """Appends a line of metrics."""
        self._do("note", dict(line))

    def beat(self, step: int, steps: int) -> None:
        """A sign of life."""
        self._do("beat", step, steps)

    def save_checkpoint(self, content: bytes) -> None:
        """Keeps the training state."""
        self._do("save_checkpoint", content)

    def save_model(self, content: bytes) -> None:
        """Keeps the trained network."""
        self._do("save_model", content)

    def save_result(self, result: Mapping[str, Any], *, keep_checkpoint: bool = False) -> None:
        """Keeps the result."""
        self.send_log()
        self._do("save_result", dict(result), keep_checkpoint=keep_checkpoint)

    def save_failure(self, error: str) -> None:
        """Keeps why it failed, with the end of the log."""
        self.send_log()
        self._do("save_failure", error)

    def result(self) -> dict[str, Any] | None:
        """The result as it is kept."""
        return self._do("result")

    def send_log(self) -> None:
        """Sends the end of what has been printed since the last time."""
        try:
            content = self._log.read_bytes()
        except FileNotFoundError:
            return
        new, self._sent = content[self._sent :], len(content)
        if new:
            self._do("log", new[-LOG_BYTES:].decode(errors="replace"))

    def _do(self, method: str, *args: Any, **options: Any) -> Any:
        return self._value(self._keeper.do.remote(self._name, method, *args, **options))

    def _value(self, reference: Any) -> Any:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            reply: Reply = ray.get(reference)
        except RayTaskError as error:  # raised in the keeper, which lives
            raise error.cause or error from error
        except RayError as error:
            raise LostError(f"the store is out of reach: {type(error).__name__}: {error}") from error
        self.stop = self.stop or reply.stop
        if reply.refused:
            raise LostError(reply.refused)
        if reply.errno is not None or reply.error:
            raise OSError(reply.errno, reply.error)
        return reply.value
