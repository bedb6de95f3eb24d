"""Does what a study lacks: searches, then final runs, on any executor; what is done is never done again. No torch here.

Several sweeps may work on one store at once: a run belongs to the process that has claimed it, a search to the sweep
that has locked its journal, and the others wait for what these find.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from gradreg.study.config import Run, StudyError
from gradreg.study.cost import step_id
from gradreg.study.execute import Outcome, execute
from gradreg.study.grid import Arm, Study, Tpe, final_runs
from gradreg.study.search import Searching, journal, progress, rung_runs, search, tuning_runs
from gradreg.study.store import Store, locked_file
from gradreg.study.work import Answer, Task, stop_on_sigterm, work

# Between two looks at what another process has in hand.
POLL_SECONDS = 1.0


class Executor(Protocol):
    """Does tasks: see `gradreg.study.execute.execute` for the meaning of queue and tick."""

    def __call__(self, queue: deque[Task], tick: Callable[[Sequence[Task]], None]) -> Iterator[Outcome[Task]]:
        """Yields how tasks ended, as they do; closed early, it stops what runs, with checkpoints."""
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Processes of this machine, of one thread each."""

    jobs: int

    def __call__(self, queue: deque[Task], tick: Callable[[Sequence[Task]], None]) -> Iterator[Outcome[Task]]:
        """Yields how tasks ended, as they do."""
        return execute(work, queue, jobs=self.jobs, setup=stop_on_sigterm, tick=tick)


@dataclass(frozen=True)
class Plan:
    """What a study's runs are at, tuning runs included; runs that a search has still to name count as missing."""

    done: int
    running: int
    failed: int
    missing: int


def plan(study: Study, store: Store) -> Plan:
    """Counts a study's runs by state; changes nothing."""
    counts = {"done": 0, "running": 0, "failed": 0, "missing": 0}
    seen: set[Run] = set()
    for arm in study.arms:
        found = progress(arm, study, store)
        runs = tuning_runs(arm, study, store)
        if found.values is not None:
            runs += final_runs(arm, found.values, study.seeds)
        elif not found.ended:
            counts["missing"] += study.seeds
        if isinstance(arm.search, Tpe):
            counts["missing"] += (arm.search.trials - len(found.tried)) * study.tuning_seeds if not found.ended else 0
        for run in runs:
            if run not in seen:
                seen.add(run)
                done = store.result(run) is not None
                counts["done" if done else store.files(run).status().state] += 1
    return Plan(**counts)


@dataclass(eq=False)
class _State:
    """How far an arm is."""

    arm: Arm
    searching: Searching
    phase: Literal["locked", "search", "final", "end"] = "search"
    begun: bool = False
    open: set[Run] = field(default_factory=set)
    answers: dict[Run, Answer] = field(default_factory=dict)
    lock: ExitStack = field(default_factory=ExitStack)


class Sweep:
    """A study on its way.

    Args:
        study: what to do.
        store: where results are.
        seconds: of a training step, by `gradreg.study.cost.step_id`.
        retry_failed: do runs again that failed before.
        device: where to train.
        checkpoint_seconds: time between checkpoints.

    Attributes:
        done, failed: runs that were answered, by this call or before.
        left: seconds of training that are left, as far as that can be known.
        running: tasks that an executor has in hand.
    """

    def __init__(
        self,
        study: Study,
        store: Store,
        *,
        seconds: Mapping[str, float],
        retry_failed: bool = False,
        device: str = "cpu",
        checkpoint_seconds: float = 20.0,
    ):
        self.study, self.store, self.seconds = study, store, seconds
        self.retry_failed, self.device, self.checkpoint_seconds = retry_failed, device, checkpoint_seconds
        self.done: set[Run] = set()
        self.failed: dict[Run, str] = {}
        self._states = [_State(arm, search(arm, study, store)) for arm in study.arms]
        self._queue: deque[Task] = deque()
        self._wanted: dict[Run, list[_State]] = {}
        self._elsewhere: list[Task] = []
        self.running: Sequence[Task] = ()
        self._spent = self._expected = 0.0
        self._since = time.time()

    def go(self, executor: Executor, tick: Callable[["Sweep"], None] = lambda sweep: None) -> None:
        """Does all that is missing.

        Args:
            executor: where; not called where nothing is missing.
            tick: called about once a second, and whenever a run has ended.

        Raises:
            StudyError: nothing can be written any more, or a process was told to stop. What is done is kept.
        """

        def beat(running: Sequence[Task]) -> None:
            self.running = running
            self._look_again()
            tick(self)

        try:
            for state in self._states:
                self._advance(state)
            while self._queue or self._elsewhere or self._locked:
                if self._queue:
                    with closing(executor(self._queue, beat)) as outcomes:  # type: ignore[type-var]
                        for outcome in outcomes:
                            self._take(outcome)
                            tick(self)
                else:
                    time.sleep(POLL_SECONDS)
                beat(())
        finally:
            for state in self._states:
                state.lock.close()

    @property
    def known(self) -> int:
        """The number of runs that are known to be wanted, those that are answered included."""
        return len(self.done) + len(self.failed) + len(self._wanted)

    @property
    def pending(self) -> int:
        """The number of final runs that wait for a search."""
        return sum(self.study.seeds for state in self._states if state.phase in ("locked", "search"))

    @property
    def left(self) -> float:
        """Seconds of training that are left, at the pace so far; searches by Optuna as if they gave up nothing."""
        total = sum(map(self._cost, self._wanted))
        for state in self._states:
            if state.phase in ("locked", "search"):
                cost = self._cost(state.arm.run)
                total += self.study.seeds * cost
                if isinstance(state.arm.search, Tpe):
                    tried = len(tuning_runs(state.arm, self.study, self.store))
                    total += max(0, state.arm.search.trials * self.study.tuning_seeds - tried) * cost
        for task in self.running:
            total -= self.store.files(task.run).status().step * self.seconds.get(step_id(task.run), 0.0)
        return max(0.0, total) * (self._spent / self._expected if self._expected else 1.0)

    @property
    def _locked(self) -> bool:
        return any(state.phase == "locked" for state in self._states)

    def _cost(self, run: Run) -> float:
        return run.steps * self.seconds.get(step_id(run), 0.0)

    # --- arms

    def _advance(self, state: _State) -> None:
        """Goes on with an arm until it waits for runs, or ends."""
        while not state.open and state.phase != "end":
            if not self._has_journal(state):
                state.phase = "locked"
                return
            for task in self._next(state):
                answer = self._known(task.run)
                if answer is not None:
                    self._count(task.run, answer)
                    state.answers[task.run] = answer
                    continue
                state.open.add(task.run)
                if task.run not in self._wanted:
                    self._queue.append(task)
                self._wanted.setdefault(task.run, []).append(state)

    def _next(self, state: _State) -> list[Task]:
        """The next tasks of an arm, whose last ones are answered."""
        answers, state.answers = state.answers, {}
        if state.phase == "final":
            state.phase = "end"
            return []
        try:
            tasks = state.searching.send(answers) if state.begun else next(state.searching)
            state.begun = True
        except StopIteration:
            state.lock.close()
            state.phase = "final"
            for run in rung_runs(state.arm, self.study, self.store):
                (self.store.files(run).folder / "checkpoint").unlink(missing_ok=True)
            values = progress(state.arm, self.study, self.store).values
            runs = [] if values is None else final_runs(state.arm, values, self.study.seeds)
            tasks = [Task(run, self.store.directory) for run in runs]
        return [
            replace(t, since=self._since, device=self.device, checkpoint_seconds=self.checkpoint_seconds) for t in tasks
        ]

    def _has_journal(self, state: _State) -> bool:
        """Whether an arm that searches by Optuna is this sweep's to search; one that does not always is."""
        if state.begun or state.phase == "final" or not isinstance(state.arm.search, Tpe):
            return True
        path = journal(state.arm, self.study, self.store).with_suffix(".lock")
        path.parent.mkdir(exist_ok=True)
        with ExitStack() as stack:
            if not stack.enter_context(locked_file(path)):
                return False
            state.lock = stack.pop_all()
        state.phase = "search"
        return True

    # --- runs

    def _known(self, run: Run) -> Answer | None:
        """How a run ended before."""
        if run in self.failed:
            return Answer("failed", error=self.failed[run])
        files = self.store.files(run)
        if (result := files.result()) is not None:
            return Answer("done", result)
        if not self.retry_failed and (failure := files.failure()) is not None and not files.locked():
            return Answer("failed", error=failure["error"])
        return None

    def _count(self, run: Run, answer: Answer) -> None:
        if answer.state == "done":
            self.done.add(run)
        else:
            self.failed[run] = answer.error

    def _take(self, outcome: Outcome[Task]) -> None:
        """What an executor says of a task."""
        run = outcome.item.run
        answer = outcome.result
        if outcome.error is not None:
            answer = self._died(run, outcome.error)
        if answer.state == "storage":
            raise StudyError(
                f"nothing can be written to {self.store.directory} ({answer.error}); {len(self.done)} runs are done "
                "and kept. Free some space, and give the same command again: it goes on from here."
            )
        if answer.state == "stopped":
            raise StudyError(f"{run}: {answer.error}. The same command goes on from here.")
        if answer.state == "elsewhere":
            self._elsewhere.append(outcome.item)
            return
        if answer.state == "done" and answer.result is not None:
            self._spent += float(answer.result.get("seconds", 0.0))
            self._expected += self._cost(run)
        self._answer(run, answer)

    def _died(self, run: Run, error: str) -> Answer:
        """Keeps that a run's process died, unless another has done the run or has it in hand."""
        files = self.store.files(run)
        with files.claim() as mine:
            if not mine:
                return Answer("elsewhere")
            if (result := files.result()) is not None:
                return Answer("done", result)
            files.save_failure(error)
        return Answer("failed", error=error)

    def _answer(self, run: Run, answer: Answer) -> None:
        self._count(run, answer)
        for state in self._wanted.pop(run, []):
            state.answers[run] = answer
            state.open.discard(run)
            self._advance(state)

    def _look_again(self) -> None:
        """At what other processes had in hand."""
        waiting, self._elsewhere = self._elsewhere, []
        for task in waiting:
            files = self.store.files(task.run)
            if files.result() is not None or (files.failure() is not None and not files.locked()):
                known = self._known(task.run)
                if known is not None:
                    self._answer(task.run, known)
                    continue
            if files.status().state == "running" or files.locked():
                self._elsewhere.append(task)
            else:
                self._queue.append(task)
        for state in self._states:
            if state.phase == "locked":
                self._advance(state)
