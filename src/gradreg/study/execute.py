"""Runs on all cores: one spawned process per core, one run at a time in each; a process that dies takes only its run.

`concurrent.futures` and joblib give up the whole batch when one process dies.
"""

import multiprocessing as mp
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")
Given_co = TypeVar("Given_co", covariant=True)

# What a process gets to stop by itself.
GRACE_SECONDS = 10.0

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@runtime_checkable
class Queue(Protocol[Given_co]):
    """What items are taken from: a deque, or what makes items as they are asked for."""

    def __len__(self) -> int: ...

    def popleft(self) -> Given_co:
        """The next item."""
        ...


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
    function: Callable[[Item], Any],
    items: Iterable[Item] | Queue[Item],
    *,
    jobs: int,
    tries: int = 2,
    setup: Callable[[], None] | None = None,
    tick: Callable[[Sequence[Item]], None] | None = None,
) -> Iterator[Outcome[Item]]:
    """Yields the outcome of ``function(item)`` for every item, as they come.

    Args:
        function: a module-level function, which the processes import.
        items: what to call it on; pickled. A deque or another `Queue` is emptied from its left as processes get free,
            and the caller may append to it between outcomes.
        jobs: number of processes, each with one thread.
        tries: how often an item is started whose process dies; an item that raises is not tried again.
        setup: a module-level function that each process calls first, such as one that handles SIGTERM: where the caller
            stops early, busy processes get that signal, and a few seconds to end.
        tick: called about once a second while items run, with these.
    """
    waiting: Queue[Item] = items if isinstance(items, Queue) else deque(items)
    again: deque[tuple[Item, int]] = deque()
    context = mp.get_context("spawn")
    workers: list[_Worker[Item]] = []
    try:
        while True:
            _hand_out(context, function, setup, workers, waiting, again, jobs)
            busy = [worker for worker in workers if worker.item is not None]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy], timeout=None if tick is None else 1.0)
            if tick is not None:
                tick([worker.item for worker in busy if worker.item is not None])
            for worker in [w for w in busy if w.pipe in ready]:
                item = worker.item
                assert item is not None
                try:
                    result, error = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    end = _exit(worker.process)
                    if worker.attempt < tries:
                        again.append((item, worker.attempt + 1))
                    else:
                        yield Outcome(item, error=f"its process died {worker.attempt} times ({end})")
                    continue
                worker.item = None
                yield Outcome(item, result, error)
    finally:
        _end(workers)


def _hand_out(
    context: Any,
    function: Callable[[Item], Any],
    setup: Callable[[], None] | None,
    workers: list[_Worker[Item]],
    waiting: Queue[Item],
    again: deque[tuple[Item, int]],
    jobs: int,
) -> None:
    """Gives each free process an item, and starts processes while there are items and fewer than ``jobs`` of them."""
    while (again or len(waiting)) and any(w.item is None for w in workers) + (len(workers) < jobs):
        idle = next((worker for worker in workers if worker.item is None), None)
        if idle is None:
            idle = _start(context, function, setup)
            workers.append(idle)
        item, attempt = again.popleft() if again else (waiting.popleft(), 1)
        # Known from here on as this process's, so that nothing is lost if it dies before it has read it.
        idle.item, idle.attempt = item, attempt
        try:
            idle.pipe.send(item)
        except OSError:  # it died while it was idle, which says nothing about the item
            workers.remove(idle)
            idle.item = None
            again.appendleft((item, attempt))


def _end(workers: Sequence[_Worker[Item]]) -> None:
    """Asks busy workers to stop, and ends them where they do not."""
    try:
        for worker in workers:
            if worker.item is not None:
                worker.process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for worker in workers:
            if worker.item is not None:
                # A worker that has stopped its run says so and waits for the next one.
                wait([worker.pipe, worker.process.sentinel], timeout=max(0.0, until - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()


def _start(context: Any, function: Callable[[Item], Any], setup: Callable[[], None] | None) -> _Worker[Item]:
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(function, setup, there), daemon=True)
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


def _serve(function: Callable[[Any], Any], setup: Callable[[], None] | None, pipe: Connection) -> None:
    """The life of a worker: an item in, a result or an error out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    if setup is not None:
        setup()
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
        try:
            pipe.send(answer)
        except OSError:
            return  # the parent is gone; what the item kept is kept


def _exit(process: Any) -> str:
    process.join(timeout=5)
    code = process.exitcode
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
