"""Which runs are trained at once, and the worker that does it. No torch here."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from gradreg.study.config import Run, StudyError, stack_kind
from gradreg.study.environment import environment
from gradreg.study.execute import Outcome, execute
from gradreg.study.store import RunFiles, Store, is_full
from gradreg.study.work import (
    Answer,
    Task,
    ended,
    forget_run,
    load_data,
    log_to,
    start_of,
    stop_on_sigterm,
    stopping,
    usable,
    work,
)

USUAL_ON_GPU = 32

Stack = tuple[Task, ...]


def stack_size(asked: int, device: str) -> int:
    """How many runs are trained at once: as asked for; of 0, 32 on a GPU, which small networks leave idle, else 1."""
    return asked or (1 if device == "cpu" else USUAL_ON_GPU)


class Stacks:
    """A queue of tasks as one of stacks, each made when it is asked for: the first task and those of its kind.

    Args:
        queue: of tasks.
        size: of a stack, at most.
    """

    def __init__(self, queue: deque[Task], size: int):
        self.queue, self.size = queue, size
        # Kinds, and numbers of training points: large sets are refused where small ones are not.
        self.refused: set[tuple[Run, int]] = set()
        self.alone: deque[Task] = deque()

    def __len__(self) -> int:
        return len(self.queue) + len(self.alone)

    def popleft(self) -> Stack:
        """The next stack."""
        if self.alone:
            return (self.alone.popleft(),)
        first = self.queue.popleft()
        kind = stack_kind(first.run)
        # Unlabelled inputs are refused too, and so many that they are not to be read for each run of a stack in vain.
        if first.run.split.unlabelled or (kind, first.run.split.train_size) in self.refused:
            return (first,)
        alike = [
            task
            for task in self.queue
            if stack_kind(task.run) == kind
            and task.device == first.device
            and (kind, task.run.split.train_size) not in self.refused
        ]
        # As many stacks as need be, of about one size: the last is not left with a run or two.
        stacks = math.ceil((1 + len(alike)) / self.size)
        alike = alike[: math.ceil((1 + len(alike)) / stacks) - 1]
        for task in alike:
            self.queue.remove(task)
        return (first, *alike)


@dataclass(frozen=True)
class StackExecutor:
    """Processes of this machine, each of which trains a stack of runs at once.

    A stack that cannot be trained, or whose process dies twice, is taken apart: its runs are tried by themselves.
    """

    jobs: int
    size: int

    def __call__(self, queue: deque[Task], tick: Callable[[Sequence[Task]], None]) -> Iterator[Outcome[Task]]:
        """Yields how tasks ended, as they do."""
        stacks = Stacks(queue, self.size)

        def beat(running: Sequence[Stack]) -> None:
            tick([task for stack in running for task in stack])

        for outcome in execute(work_stack, stacks, jobs=self.jobs, setup=stop_on_sigterm, tick=beat):
            if len(outcome.item) > 1 and not isinstance(outcome.result, list):
                stacks.alone.extend(outcome.item)
                if outcome.error is None:  # refused
                    largest = max(task.run.split.train_size for task in outcome.item)
                    stacks.refused.add((stack_kind(outcome.item[0].run), largest))
                continue
            for i, task in enumerate(outcome.item):
                yield Outcome(task, None if outcome.error else outcome.result[i], outcome.error)


def work_stack(tasks: Stack) -> list[Answer] | str:
    """Does the runs of a stack that are not done nor in other hands; or says why they cannot be stacked."""
    if len(tasks) == 1:
        return [work(tasks[0])]
    forget_run()
    answers: dict[Task, Answer] = {}
    held: dict[Task, RunFiles] = {}
    try:
        with ExitStack() as claims:
            for task in tasks:
                files = Store(task.store).files(task.run)
                if not claims.enter_context(files.claim()):
                    answers[task] = Answer("elsewhere")
                elif (known := ended(task, files)) is not None:
                    answers[task] = known
                else:
                    held[task] = files
            if held and (refused := _train(held, answers)):
                return refused
    except OSError as error:
        if not is_full(error):
            raise
        return [answers.get(task, Answer("storage", error=str(error))) for task in tasks]
    return [answers[task] for task in tasks]


def _train(held: dict[Task, RunFiles], answers: dict[Task, Answer]) -> str:
    """Trains the runs that are held, those at the same step together; returns why they cannot be stacked, if so."""
    from gradreg.data.dataset import DataError
    from gradreg.study.stacked_model import StackError
    from gradreg.study.train import StoppedError

    first = next(iter(held.values()))
    with log_to(first.folder / "log.txt"):
        groups: dict[int, dict[Task, bytes | None]] = {}
        for task, files in held.items():
            files.begin(task.run, {**environment(task.device), "stacked": len(held)})
            known = usable(start_of(task, files))
            files.trim(known[0] if known else 0)
            groups.setdefault(known[0] if known else 0, {})[task] = known[1] if known else None
        for starts in groups.values():
            try:
                _train_group(starts, held, answers)
            except StackError as error:
                for files in held.values():
                    with (files.folder / "log.txt").open("a") as log:
                        log.write(f"not stacked: {error}\n")
                return str(error)
            except (StoppedError, DataError) as stopped:
                for task in held:
                    answers.setdefault(task, Answer("stopped", error=str(stopped)))
                break
    return ""


def _train_group(starts: dict[Task, bytes | None], held: dict[Task, RunFiles], answers: dict[Task, Answer]) -> None:
    """Trains runs at the same step, and keeps what comes out."""
    from gradreg.study.stacked_loop import train_stacked
    from gradreg.study.train import Watch
    from gradreg.study.trained import pack_model

    tasks = list(starts)
    data = load_data(tasks[0])

    def failed(place: int, error: StudyError) -> None:
        held[tasks[place]].save_failure(str(error))
        answers[tasks[place]] = Answer("failed", error=str(error))

    watches = [Watch(held[t], checkpoint_seconds=t.checkpoint_seconds, stop=stopping) for t in tasks]
    found = train_stacked(
        [t.run for t in tasks],
        data,
        device=tasks[0].device,
        starts=list(starts.values()),
        watches=watches,
        failed=failed,
    )
    for task, end in zip(tasks, found, strict=True):
        if end.result is None or end.member is None:
            continue
        files = held[task]
        if task.run.protocol.measure == "test":
            files.save_model(pack_model(end.member.training, data))
        if task.keep_checkpoint:
            files.save_checkpoint(end.member.checkpoint())
        files.save_result(end.result, keep_checkpoint=task.keep_checkpoint)
        answers[task] = Answer("done", files.result())
