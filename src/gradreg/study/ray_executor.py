"""Runs on a Ray cluster: one Ray task each; what they keep goes to the store of the machine that gives the command.

Ray's own retries are off: a run whose process or machine dies is given out again here, and goes on from the checkpoint
that the store has by then. It needs ``pip install 'gradreg[ray]'`` on every machine.
"""

import importlib
import logging
import os
import pickle
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from gradreg.study.config import StudyError
from gradreg.study.execute import Outcome
from gradreg.study.ray_keeper import Keeper
from gradreg.study.ray_worker import identity
from gradreg.study.work import LostError, Task

# To find a cluster; ray.init itself waits for more than a minute, in C++, where no signal is heard.
CONNECT_SECONDS = 15.0
# For the keeper to answer; it is never busy for longer than a checkpoint takes to write.
KEEPER_SECONDS = 120.0
# A cluster may be without a machine for runs for so long, as when one starts again.
PATIENCE_SECONDS = 60.0

_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

_PROBE = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level=40)
ray.shutdown()
"""


class RayExecutor:
    """Does tasks on a Ray cluster, as many at once as it has processors.

    Args:
        address: of a cluster that this machine is part of: "auto", or "host:port"; None uses the one that runs on this
            machine, or starts one for the time of the call.
        tries: how often a run is started whose process or machine dies.
        gpus_per_run: GPUs that a run on "cuda" takes; 0.5 puts two on each.
        grace_seconds: what runs get to stop with a checkpoint, where the caller stops early.
        working_dir: a folder that Ray copies to every machine, for a network of the user's own that is in it; the
            process must not have called ``ray.init`` before.

    Raises:
        StudyError: on the first step of a call: Ray is not installed, the cluster does not answer, or has no machine
            for runs; later, that a machine has another gradreg or torch, or lacks a data set or a network.

    Example:
        >>> from collections import deque
        >>> list(RayExecutor()(deque(), lambda running: None))  # nothing to do starts nothing
        []
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tries: int = 2,
        gpus_per_run: float = 1.0,
        grace_seconds: float = 15.0,
        working_dir: Path | None = None,
    ):
        self.address, self.tries, self.gpus_per_run = address, tries, gpus_per_run
        self.grace_seconds, self.working_dir = grace_seconds, working_dir

    def __call__(self, queue: deque[Task], tick: Callable[[Sequence[Task]], None]) -> Iterator[Outcome[Task]]:
        """Yields how tasks ended, as they do.

        Args:
            queue: emptied from its left as processors get free; the caller may append to it between outcomes.
            tick: called about once a second with the tasks that run.
        """
        if not queue:
            return
        with _connected(self.address, self.working_dir) as ray:
            session = _Session(ray, self, queue)
            try:
                yield from session.outcomes(tick)
            finally:
                session.end(self.grace_seconds)


@dataclass(eq=False)
class _Flight:
    """A try that Ray has been given."""

    task: Task
    attempt: int
    reference: Any
    name: str


@dataclass
class _Session:
    """One call of the executor, from its keeper's start to its end."""

    ray: Any
    executor: RayExecutor
    queue: deque[Task]
    again: deque[tuple[Task, int]] = field(default_factory=deque)
    flights: dict[Any, _Flight] = field(default_factory=dict)
    packs: dict[str, Any] = field(default_factory=dict)
    without: float | None = None

    def __post_init__(self) -> None:
        ray = self.ray
        self.function = ray.remote(_by_value())
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.keeper = ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here).remote()

    def outcomes(self, tick: Callable[[Sequence[Task]], None]) -> Iterator[Outcome[Task]]:
        """Gives out tasks until there are none, and yields what comes of them."""
        while True:
            self._give_out()
            if not self.flights:
                if not (self.again or self.queue):
                    return
                time.sleep(1.0)
            ready = self.ray.wait(list(self.flights), timeout=1.0)[0] if self.flights else []
            held = set(self._ask("held"))
            tick([flight.task for flight in self.flights.values() if flight.name in held])
            self._check_room(bool(held or ready))
            for reference in ready:
                outcome = self._ended(self.flights[reference])
                if outcome is not None:
                    yield outcome

    def _give_out(self) -> None:
        """Gives Ray no more than the cluster has room for, since the caller may still add to the queue."""
        while self.again or self.queue:
            task, attempt = self.again[0] if self.again else (self.queue[0], 1)
            gpu = task.device.startswith("cuda")
            same = sum(f.task.device.startswith("cuda") == gpu for f in self.flights.values())
            if min(self._room(gpu) - same, self._room(False) - len(self.flights)) <= 0:
                return
            _ = self.again.popleft() if self.again else self.queue.popleft()
            name = f"{task.run.key}-{attempt}-{uuid4().hex[:8]}"
            reference = self._submit(task, name, gpu)
            self.flights[reference] = _Flight(task, attempt, reference, name)

    def _submit(self, task: Task, name: str, gpu: bool) -> Any:
        # Ray shows a process the devices that are its own, as the first ones.
        sent = replace(task, store=task.store.resolve(), device="cuda" if gpu else task.device)
        return self.function.options(
            name=f"gradreg {task.run.key}",
            num_cpus=1,
            num_gpus=self.executor.gpus_per_run if gpu else 0,
            max_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": _THREADS},
            # In a list, a reference is handed on as it is, and not fetched for a worker that has the data already.
        ).remote(identity(), pickle.dumps(sent), self.keeper, name, [self._pack(task)])

    def _pack(self, task: Task) -> Any:
        """The user's own data in Ray's object store, which copies it to a machine once."""
        content = task.run.data.content
        if content and content not in self.packs:
            import numpy as np

            try:
                data = np.fromfile(task.store / "data" / f"{content}.npz", dtype=np.uint8)
            except FileNotFoundError:
                return None
            self.packs[content] = self.ray.put(data)
        return self.packs.get(content)

    def _ended(self, flight: _Flight) -> Outcome[Task] | None:
        """What a try came to; None where the run gets another one."""
        errors = self.ray.exceptions
        died = ""
        outcome: Outcome[Task] | None = None
        try:
            kind, value = self.ray.get(flight.reference)
            if kind == "refused":
                raise StudyError(value)
            outcome = Outcome(flight.task, value)
        except errors.RuntimeEnvSetupError as error:
            raise StudyError(f"Ray cannot start a process for a run: {error}") from error
        except errors.RayTaskError as error:
            if isinstance(error.cause, LostError):
                died = str(error.cause)
            else:
                last = "\n".join(str(error).splitlines()[-6:])
                outcome = Outcome(flight.task, error=f"{type(error.cause).__name__}: {error.cause}\n{last}")
        except errors.RayError as error:
            died = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        del self.flights[flight.reference]
        self._ask("release", flight.name, died)
        if outcome is None and flight.attempt < self.executor.tries:
            self.again.append((flight.task, flight.attempt + 1))
            return None
        return outcome or Outcome(flight.task, error=f"its process died {flight.attempt} times ({died})")

    def _room(self, gpu: bool) -> int:
        """How many runs the machines that are there now have room for."""
        there = self.ray.cluster_resources()
        room = there.get("CPU", 0.0)
        return int(min(room, there.get("GPU", 0.0) / self.executor.gpus_per_run) if gpu else room)

    def _check_room(self, alive: bool) -> None:
        """Raises where runs wait and no machine can do them, as Ray itself would wait for ever."""
        waiting = [*[task for task, _ in self.again], *self.queue, *[f.task for f in self.flights.values()]]
        gpu = any(task.device.startswith("cuda") for task in waiting)
        if alive or not waiting or self._room(gpu) > 0:
            self.without = None
            return
        self.without = self.without or time.monotonic()
        if time.monotonic() - self.without > PATIENCE_SECONDS:
            raise StudyError(
                f"the Ray cluster has no machine with a {'GPU' if gpu else 'CPU'} for runs (`ray status` lists what it "
                "has). Start one with `ray start --address=...` and give the command again."
            )

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return self.ray.get(getattr(self.keeper, method).remote(*args), timeout=KEEPER_SECONDS)
        except (self.ray.exceptions.RayError, TimeoutError) as error:
            raise StudyError(
                "the process that keeps the results of Ray runs on this machine does not answer: "
                f"{type(error).__name__}: {error}\nGive the command again; runs go on from their checkpoints."
            ) from error

    def end(self, grace_seconds: float) -> None:
        """Asks runs to stop with a checkpoint, waits for a bounded time, and ends what is left."""
        ray, left = self.ray, list(self.flights)
        try:
            if self.flights:
                until = time.monotonic() + grace_seconds
                self._ask("stop")
                held = set(self._ask("held"))
                for flight in self.flights.values():
                    if flight.name not in held:  # not begun, or about to: nothing is lost
                        ray.cancel(flight.reference)
                _, left = ray.wait(left, num_returns=len(left), timeout=max(0.0, until - time.monotonic()))
        except StudyError:
            pass  # the keeper is gone, and with it all that could be kept
        finally:
            # Not those that have ended: Ray 2.60 takes the process down where their last word is still on its way.
            for reference in left:
                with suppress(ray.exceptions.RayError):
                    ray.cancel(reference, force=True)
            with suppress(StudyError):
                self._ask("close")  # Ray ends an actor some time later; the runs are to be free now
            ray.kill(self.keeper)


def _by_value() -> Callable[..., tuple[str, Any]]:
    """The function that Ray sends: with its text, being local here, so that it starts where gradreg is missing too."""

    def gradreg_run(
        expected: dict[str, str], payload: bytes, keeper: Any, name: str, pack: list[Any]
    ) -> tuple[str, Any]:
        import socket

        host = socket.gethostname()
        try:
            from gradreg.study import ray_worker

            found = ray_worker.identity()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            return "refused", f"the machine {host} has no gradreg for Ray ({problem}): pip install 'gradreg[ray]'"
        other = [f"{key} {found.get(key)} (here {value})" for key, value in expected.items() if found.get(key) != value]
        if other:
            text = f"the machine {host} has {', '.join(other)}; install the same there"
            return "refused", f"{text}, so that a run comes out the same on every machine."
        kind, value = ray_worker.serve(payload, keeper, name, pack[0])
        return kind, f"the machine {host} cannot do a run: {value}" if kind == "refused" else value

    return gradreg_run


@contextmanager
def _connected(address: str | None, working_dir: Path | None) -> Iterator[Any]:
    """Ray, connected to a cluster; disconnected at the end where it was not connected before."""
    try:
        ray: Any = importlib.import_module("ray")
        importlib.import_module("ray.util.scheduling_strategies")
    except ImportError as error:
        raise StudyError("the ray executor needs ray: pip install 'gradreg[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if working_dir is not None:
        options["runtime_env"] = {"working_dir": str(working_dir)}
    given = address or os.environ.get("RAY_ADDRESS")
    if given is not None and given != "local":
        if problem := _probe(given):
            raise StudyError(f"the Ray cluster at {given!r} does not answer: {problem}")
    elif given is None and not _probe("auto"):
        given = "auto"
    else:
        given = "local"
        # Ray reports how it is used unless told not to, which is the user's to decide.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options["include_dashboard"] = False
    try:
        ray.init(address=given, **options)
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise StudyError(f"Ray cannot be started or reached at {given!r}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _probe(address: str) -> str:
    """Why a process cannot connect to a cluster; "" where it can.

    In a process of its own, which can be ended when it hangs.
    """
    if address.startswith("ray://"):
        return "it is one of Ray's client server; start Ray on this machine as part of the cluster and write 'auto'."
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            capture_output=True,
            text=True,
            timeout=CONNECT_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return (
            f"nothing within {CONNECT_SECONDS:.0f} seconds. Start it with `ray start --head` there, and "
            "`ray start --address=...` on this machine, or correct the address."
        )
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1]
