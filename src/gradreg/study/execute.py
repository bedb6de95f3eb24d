"""Runs on all cores: one spawned process per core, one run at a time in each; a process that dies takes only its run.

`concurrent.futures` and joblib give up the whole batch when one process dies.
"""

import multiprocessing as mp
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """How one item ended: a result, or the text of what went wrong."""

    item: Item
    result: Any = None
    error: str | None = None


@dataclass(eq=False)
class _Worker(Generic[Item]):
    process: Any
    pipe: Connection
    item: Item | None = None
    attempt: int = 0


def execute(
    function: Callable[[Item], Any], items: Sequence[Item], *, jobs: int, tries: int = 2
) -> Iterator[Outcome[Item]]:
    """Yields the outcome of ``function(item)`` for every item, as they come.

    Args:
        function: a module-level function, which the processes import.
        items: what to call it on; pickled.
        jobs: number of processes, each with one thread.
        tries: how often an item is started whose process dies; an item that raises is not tried again.
    """
    waiting = deque((item, 1) for item in items)
    context = mp.get_context("spawn")
    workers: list[_Worker[Item]] = []
    try:
        workers.extend(_start(context, function) for _ in range(min(jobs, len(items))))
        while waiting or any(worker.item is not None for worker in workers):
            for index, worker in enumerate(workers):
                if worker.item is None and waiting:
                    workers[index] = _assign(context, function, worker, *waiting.popleft())
            busy = [worker for worker in workers if worker.item is not None]
            ready = wait([worker.pipe for worker in busy])
            for worker in [w for w in busy if w.pipe in ready]:
                item = worker.item
                assert item is not None
                try:
                    result, error = worker.pipe.recv()
                except (EOFError, OSError):
                    workers[workers.index(worker)] = _start(context, function)
                    if worker.attempt < tries:
                        waiting.append((item, worker.attempt + 1))
                    else:
                        end = _exit(worker.process)
                        yield Outcome(item, error=f"its process died {worker.attempt} times ({end})")
                    continue
                worker.item = None
                yield Outcome(item, result, error)
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()


def _assign(
    context: Any, function: Callable[[Item], Any], worker: _Worker[Item], item: Item, attempt: int
) -> _Worker[Item]:
    """Hands an item to a worker, or to a new one where that died while it was idle."""
    try:
        worker.pipe.send(item)
    except OSError:
        worker = _start(context, function)
        worker.pipe.send(item)
    worker.item, worker.attempt = item, attempt
    return worker


def _start(context: Any, function: Callable[[Item], Any]) -> _Worker[Item]:
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(function, there), daemon=True)
    with _single_thread(), _interrupts_held_back():
        process.start()
    there.close()
    return _Worker(process, here)


@contextmanager
def _single_thread() -> Iterator[None]:
    """Numerical libraries read these when they are imported, so a child must find them from its start."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A child inherits what is blocked: Ctrl-C, which reaches it too, must not end it with a traceback as it starts."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # whose start, else within the child's, would end the blocking
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """The life of a worker: an item in, a result or an error out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            answer = (function(item), None)
        except Exception as error:
            last = traceback.format_exc(limit=-3)
            answer = (None, f"{type(error).__name__}: {error}\n{last}")
        pipe.send(answer)


def _exit(process: Any) -> str:
    process.join(timeout=5)
    code = process.exitcode
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
