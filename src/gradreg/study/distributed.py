"""One run on several processes: plain DistributedDataParallel, with the numbers of a single process.

``torchrun --nproc-per-node 2 script.py``, in which each process calls `train_distributed`. Every process draws the same
positions of the whole batch and trains on its share; dropout masks and random projections are those of the whole batch
too. The mean over the examples of a share, and then DDP's mean over the processes, is the mean over the batch. So the
parameters are those of `gradreg.study.train.train` up to the order in which gradients are summed. With two processes on
CPUs they are, bit for bit, those of one process that adds up the gradients of the two shares. What the order does to
the last bit, further steps magnify, as they do with any rounding.
"""

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import gradreg as gr
from gradreg.data.dataset import Dataset
from gradreg.data.splits import Split
from gradreg.study.config import Run, StudyError
from gradreg.study.shares import Share, check_batch, check_network, share_dropout, share_penalty
from gradreg.study.train import Training, Watch, divide, finish, train
from gradreg.study.work import LostError

T = TypeVar("T")

# About so many seconds pass between two times that the processes ask each other whether to stop.
ASK_SECONDS = 0.5
# So long a process waits at its end for the others to be done too.
LEAVE_SECONDS = 10


class LostProcessError(LostError):
    """Another process of the run is gone, which says nothing about the run: start it again from its checkpoint."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: of this process; the one of rank 0 keeps what comes out.
        world: how many there are.
        device: where this process trains.
    """

    rank: int
    world: int
    device: str

    def from_first(self, value: T) -> T:
        """The value that the process of rank 0 has, in all of them; each must call this."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes: of the group it has joined, else as torchrun says.

    Returns:
        (0, 1) for a process that torchrun did not start.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: str = "cpu") -> Iterator[Group]:
    """Joins the processes that torchrun started, and leaves them at the end; within another such block does neither.

    Args:
        device: "cpu", or "cuda" for one GPU per process.

    Raises:
        StudyError: there are not as many GPUs as processes on this machine.
        LostProcessError: another process has gone.
    """
    rank, world = rank_and_world()
    if world == 1 or dist.is_initialized():
        yield Group(rank, world, device)
        return
    device = _own_device(device)
    on_gpu = torch.device(device).type == "cuda"
    store = _next_store()
    with _explained():
        # Tensors on the CPU, such as whether to stop, go by gloo even then: they must not wait for the GPU.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=store,
            rank=rank,
            world_size=world,
            device_id=torch.device(device) if on_gpu else None,
        )
        dist.barrier()  # who fails at once leaves before the others have come
    gone = False
    try:
        with _explained():
            yield Group(rank, world, device)
    except LostProcessError:
        gone = True
        raise
    finally:
        if not gone:
            _wait_for_all(store, rank, world)
        dist.destroy_process_group()


_meetings = count()


def _next_store() -> Any:
    """Where the processes find each other, under a new name each time: else some would find what the last time left."""
    from torch.distributed.distributed_c10d import PrefixStore

    return PrefixStore(f"gradreg/{next(_meetings)}", _torchrun_store())


def _wait_for_all(store: Any, rank: int, world: int) -> None:
    """Whoever leaves early takes along what the others have yet to read; so all come to the end, with errors too.

    Not for long: an error of this process alone has to reach the others, by a connection that closes.
    """
    store.set(f"done/{rank}", "")
    with suppress(RuntimeError):
        store.wait([f"done/{other}" for other in range(world)], timedelta(seconds=LEAVE_SECONDS))


@cache
def _torchrun_store() -> Any:
    from torch.distributed.rendezvous import rendezvous

    return next(iter(rendezvous("env://")))[0]


def _own_device(device: str) -> str:
    """The GPU of this process, by its place among those of its machine."""
    given = torch.device(device)
    if given.type != "cuda":
        return device
    place, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if given.index is not None and here > 1:
        raise StudyError(f"device={device!r} names one GPU for {here} processes; write 'cuda' for one GPU each.")
    if place >= torch.cuda.device_count():
        raise StudyError(
            f"there are {here} processes on this machine and {torch.cuda.device_count()} GPUs; start one process per "
            f"GPU: torchrun --nproc-per-node {max(1, torch.cuda.device_count())}."
        )
    own = torch.device("cuda", place if given.index is None else given.index)
    torch.cuda.set_device(own)
    return str(own)


@contextmanager
def _explained() -> Iterator[None]:
    """Has errors of the connection say that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        # gloo raises plain RuntimeErrors, which only their text tells apart.
        lost = any(sign in text for sign in ("gloo", "onnection closed", "onnection reset", "NCCL"))
        if isinstance(error, LostError) or not (isinstance(error, dist.DistError) or lost):
            raise
        raise LostProcessError(
            f"another process of the run is gone or out of reach (what it printed says why): {text}"
        ) from error


class SharedTraining(Training):
    """The state of a run in one of several processes.

    The network may not couple the examples of a batch, nor draw random numbers other than by dropout layers; see
    `gradreg.study.shares.check_network` for what of that is found and what cannot be.

    Args:
        run, parts, classes: as for `Training`; the same in all processes.
        group: the processes.

    Raises:
        StudyError: the batch, the network or a penalty cannot be divided; says what to write instead.
    """

    def __init__(self, run: Run, parts: Split, classes: int, group: Group):
        check_batch(run.schedule.batch_size, group.world)
        if run.technique.used:
            raise StudyError(
                f"{run.technique} mixes the examples of a batch, or follows its gradient or the losses, of which each "
                "of several processes would have only its share; train on one process, without torchrun."
            )
        if run.split.unlabelled:
            raise StudyError(
                "unlabelled inputs are not divided among processes; write split.unlabelled=0, or train on one process, "
                "without torchrun."
            )
        super().__init__(run, parts, classes, group.device)
        self.share = Share(group.rank, group.world)
        gpus = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(gpus):  # the first mask is that of a single process
            check_network(self.model, self.inputs(torch.arange(3) % len(self.x)))
            share_dropout(self.model, self.share)
            for penalty in self.objective.penalties.values():
                share_penalty(penalty, self.share)
            _check_alike(run, parts)
            # A user's network may have parameters that it does not use.
            wrapped = DistributedDataParallel(self.model, find_unused_parameters=":" in run.model.name)
        # No buffers go around: the processes have the same, and writing into them would spoil graphs that are yet to be
        # differentiated. (An attribute in all versions of torch; the argument's name is not the same in all.)
        wrapped.broadcast_buffers = False
        self.called = wrapped

    def share_of(self, chosen: Tensor) -> Tensor:
        """This process's part of a batch."""
        return self.share.of(chosen)

    def whole(self, result: gr.Result) -> gr.Result:
        """Means over all processes, the same in each."""
        self._check_buffers()
        figures = torch.stack([result.total, result.task, *result.terms.values()]).detach().double().cpu()
        dist.all_reduce(figures)
        total, task, *terms = figures / self.share.world
        return replace(result, total=total, task=task, terms=dict(zip(result.terms, terms, strict=True)))

    def leave(self) -> None:
        """Lets go of the other processes.

        DDP may not outlive its group: its end would then end the group's threads and wait for them with Python locked,
        which they may need.
        """
        self.called = self.model
        gc.collect()

    def _check_buffers(self) -> None:
        """Buffers that differ between processes were taken from the batch."""
        named = dict(self.model.named_buffers())
        if not named:
            return
        sums = torch.stack([buffer.detach().double().sum().cpu() for buffer in named.values()])
        lowest, highest = sums.clone(), sums.clone()
        dist.all_reduce(lowest, dist.ReduceOp.MIN)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        different = (highest - lowest).abs() > 1e-9 * (highest.abs() + lowest.abs())
        if different.any():
            names = ", ".join(repr(name) for name, other in zip(named, different.tolist(), strict=True) if other)
            raise StudyError(
                f"the network keeps statistics of the batch in {names}, and each process those of its own share; use "
                "layers that keep none, or train on one process, without torchrun."
            )


def _check_alike(run: Run, parts: Split) -> None:
    """All processes train the same run on the same points with the same random numbers."""
    mine = {
        "run": run.key,
        "data": (tuple(parts.x.shape), sum(x.double().sum().item() for x in parts.x.split(1024)), parts.y.sum().item()),
        "version of torch": torch.__version__,
    }
    all_of_them: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(all_of_them, mine)
    for name in mine:
        found = {str(other[name]) for other in all_of_them}
        if len(found) > 1:
            raise StudyError(
                f"the processes do not have the same {name} ({', '.join(sorted(found))}); give all of them the same."
            )


def _agreed(stop: Callable[[], bool]) -> Callable[[], bool]:
    """Whether any process was asked to stop, answered alike in all of them at the same step.

    They ask each other now and then only: after so many steps as took `ASK_SECONDS` last time.
    """
    left = span = 1
    asked = time.monotonic()

    def agreed() -> bool:
        nonlocal left, span, asked
        left -= 1
        if left > 0:
            return False
        now = time.monotonic()
        wanted = span * ASK_SECONDS / max(now - asked, 1e-6)
        # At most twice as many as the last time, since first steps can be faster or slower than others.
        answers = torch.tensor([int(stop()), int(min(2 * span, max(1, wanted)))])
        dist.all_reduce(answers, dist.ReduceOp.MAX)
        found, span = map(int, answers.tolist())
        left, asked = span, now
        return bool(found)

    return agreed


def train_distributed(
    run: Run, data: Dataset, *, device: str = "cpu", start: bytes | None = None, watch: Watch | None = None
) -> tuple[dict[str, Any], Training]:
    """Trains one network on all the processes that torchrun started, each of which calls this; alone, as `train`.

    Gradients go by plain DistributedDataParallel, with gloo on CPUs and NCCL on GPUs. Outside a `joined` block the
    processes are joined here and left at the end.

    Args:
        run: what to train; the batch size is that of all processes together.
        data: its data set, whole in each process.
        device: "cpu", or "cuda" for one GPU per process.
        start: a checkpoint to go on from, of any number of processes; that of rank 0 counts, in all of them.
        watch: where metrics and checkpoints go: of rank 0, the others keep nothing. ``stop`` is asked in each process
            about every half second; one that says True stops all of them at the same step.

    Returns:
        As `train`, the same in all processes.

    Raises:
        StudyError: the loss is not finite, or the run cannot be divided among processes: a batch size that is no
            multiple of their number, batch normalization, dropout within functions, and so on.
        StoppedError: ``stop`` of a process said so; in all of them.
        LostProcessError: another process is gone.
    """
    with joined(device) as group:
        if group.world == 1:
            return train(run, data, device=group.device, start=start, watch=watch)
        given = watch or Watch()
        torch.set_num_threads(1)
        with _explained(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
            training = SharedTraining(run, divide(run, data), data.outputs, group)
            try:
                start = group.from_first(start)
                own = replace(given, keeper=given.keeper if group.rank == 0 else None, stop=_agreed(given.stop))
                return group.from_first(finish(training, start, own)), training
            finally:
                training.leave()
