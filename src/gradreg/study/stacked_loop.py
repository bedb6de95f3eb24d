"""Trains several runs at once, as `gradreg.study.train` trains one: with metrics, checkpoints and results of each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from gradreg.data.dataset import Dataset
from gradreg.study.batches import batches
from gradreg.study.config import Run, StudyError
from gradreg.study.stacked import Member, StackedResult, StackedTraining
from gradreg.study.train import LOOK_EVERY, StoppedError, Watch, look, marks_of, measure


@dataclass(frozen=True)
class Ended:
    """How a run of a stack ended: with a result and its training, or with an error."""

    result: dict[str, Any] | None = None
    member: Member | None = None
    error: StudyError | None = None


def train_stacked(
    runs: Sequence[Run],
    data: Dataset,
    *,
    device: str = "cpu",
    starts: Sequence[bytes | None] | None = None,
    watches: Sequence[Watch] | None = None,
    failed: Callable[[int, StudyError], None] = lambda place, error: None,
) -> list[Ended]:
    """Trains several networks at once; each comes out as from `gradreg.study.train.train`, to rounding.

    Args:
        runs: equal but for seeds, numbers of training points and penalty weights.
        data: their data set.
        device: where.
        starts: checkpoints at the same step, for each run; None to begin.
        watches: where the metrics and checkpoints of each run go; the times are those of the first.
        failed: called with the place of a run whose loss is not finite; the others go on without it.

    Returns:
        How each run ended; ``seconds`` of a result are its share of the time.

    Raises:
        StackError: the runs cannot be stacked.
        StoppedError: `Watch.stop` of any said so; all have checkpoints.
    """
    torch.set_num_threads(1)
    starts = starts or [None] * len(runs)
    watches = watches or [Watch() for _ in runs]
    members = [Member.of(run, data, device, start, i) for i, (run, start) in enumerate(zip(runs, starts, strict=True))]
    ended: dict[int, Ended] = {}

    def out(member: Member, error: StudyError) -> None:
        ended[member.place] = Ended(error=error)
        failed(member.place, error)

    stack = StackedTraining(members)
    _loop(stack, watches, out)
    stack.pull()
    for member in stack.members:
        if member.place in ended:
            continue
        try:
            ended[member.place] = Ended(measure(member.training), member)
        except StudyError as error:
            out(member, error)
    return [ended[i] for i in range(len(runs))]


def _loop(stack: StackedTraining, watches: Sequence[Watch], out: Callable[[Member, StudyError], None]) -> None:
    """The steps that are left, as in `gradreg.study.train`, with the time divided among the runs."""
    run, first, at = stack.members[0].training.run, watches[0], stack.step
    marks = marks_of(run)
    streams = {m: islice(batches(len(m.training.y), m.training.run), at, None) for m in stack.members}
    last = saved = time.monotonic()
    beaten = last - first.beat_seconds
    while stack.members and stack.step < run.steps:
        if any(watch.stop() for watch in watches):
            _save(stack, watches)
            raise StoppedError(f"stopped after step {stack.step} of {run.steps}; its state is kept")
        if time.monotonic() - beaten >= first.beat_seconds:
            for member in stack.members:
                if (keeper := watches[member.place].keeper) is not None:
                    keeper.beat(stack.step, run.steps)
            beaten = time.monotonic()
        result = stack.advance(torch.stack([next(streams[member]) for member in stack.members]))
        now = time.monotonic()
        for member in stack.members:
            member.training.seconds += (now - last) / len(stack.members)
        last, step = now, stack.step
        if step % LOOK_EVERY == 0 or step == run.steps:
            _look(stack, result, watches, marks, out)
        if now - saved >= first.checkpoint_seconds and step < run.steps:
            _save(stack, watches)
            saved = time.monotonic()


def _save(stack: StackedTraining, watches: Sequence[Watch]) -> None:
    stack.pull()
    for member in stack.members:
        if (keeper := watches[member.place].keeper) is not None:
            keeper.save_checkpoint(member.checkpoint())


def _look(
    stack: StackedTraining,
    result: StackedResult,
    watches: Sequence[Watch],
    marks: tuple[set[int], set[int]],
    out: Callable[[Member, StudyError], None],
) -> None:
    """Looks at each run; takes those out whose loss is not finite."""
    if stack.step in marks[0]:
        stack.pull()
    lost = []
    for member, own in zip(stack.members, result.of_each(), strict=True):
        try:
            look(member.training, own, watches[member.place].keeper, marks)
        except StudyError as error:
            lost.append(member)
            out(member, error)
    if len(lost) == len(stack.members):
        stack.members = []
    elif lost:
        stack.remove(lost)
