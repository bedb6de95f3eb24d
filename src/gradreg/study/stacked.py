"""Many runs at once: one stacked network whose parameters have a leading dimension of runs.

Small networks leave a GPU waiting for the next kernel; R runs that differ in seed and penalty weights alone then cost
little more than one. Each run keeps its own initialization, batches, dropout masks and random projections, drawn by the
same calls as when it trains alone, so that its numbers are the same but for the order in which sums are taken. The
parameters of the runs are disjoint: the gradient of the sum of their losses is the gradient of each.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import gradreg as gr
from gradreg.data.dataset import Dataset
from gradreg.penalties.passes import Passes
from gradreg.study.config import Run, stack_kind
from gradreg.study.metric import ACCURACY
from gradreg.study.shares import DROPOUT, kept
from gradreg.study.stacked_graph import StepGraphs
from gradreg.study.stacked_model import ALONE, Drop, RandomState, StackedModel, StackError, stacked_penalty
from gradreg.study.train import (
    Training,
    build_optimizer,
    build_scheduler,
    divide,
)

# A step of one run whose convolutions and dense layers give so many numbers keeps a GPU busy: the paper's ResNet with
# 128 examples gives 72 million, LeNet-5 with 50 a third of a million.
BUSY = 2**24

# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Member:
    """A run of a stack.

    Attributes:
        training: the run by itself: what the stack begins with, and where `StackedTraining.pull` puts what it has come
            to.
        state: of torch's global generators, as they would be if it trained alone.
        place: its number among the runs that were given.
    """

    training: Training
    state: RandomState
    place: int = 0

    @classmethod
    def of(cls, run: Run, data: Dataset, device: str, start: bytes | None = None, place: int = 0) -> "Member":
        """A run at its beginning, or at a checkpoint."""
        training = Training(run, divide(run, data), data.outputs, device)
        if start is not None:
            training.restore(start)
        return cls(training, RandomState(training.device), place)

    def checkpoint(self) -> bytes:
        """The state as the run by itself would keep it."""
        with self.state.used():
            return self.training.state()


@dataclass(frozen=True)
class StackedResult:
    """What a step found, each tensor of shape (R,); see `gradreg.Result`."""

    total: Tensor
    task: Tensor
    terms: dict[str, Tensor]

    def detached(self) -> "StackedResult":
        """Without what its tensors were computed from."""
        terms = {name: term.detach() for name, term in self.terms.items()}
        return StackedResult(self.total.detach(), self.task.detach(), terms)

    def of_each(self) -> list[gr.Result]:
        """The results of the runs, on the CPU."""
        total, task, *terms = torch.stack([self.total, self.task, *self.terms.values()]).detach().cpu()
        named = dict(zip(self.terms, terms, strict=True))
        return [
            gr.Result(total[i], task[i], {name: term[i] for name, term in named.items()}, None)
            for i in range(len(total))
        ]


class StackedTraining:
    """The state of several runs at the same step: stacked network, penalties, one optimizer and schedule.

    Args:
        members: the runs, equal but for seeds and the weights of penalties.

    Raises:
        StackError: the runs cannot be stacked; says why.
    """

    def __init__(self, members: Sequence[Member]):
        self.members = list(members)
        first = members[0].training
        for other in (member.training for member in members[1:]):
            if stack_kind(other.run) != stack_kind(first.run) or other.step != first.step:
                raise StackError(
                    f"a stack got {first.run} at step {first.step} and {other.run} at step {other.step}; expected runs "
                    "at the same step that differ in nothing but seeds, numbers of training points and penalty weights "
                    "(all > 0, or all 0)."
                )
        if first.run.technique.used:
            raise StackError(
                f"{first.run.technique} takes a batch or a step of one run at a time, which a stack does not; {ALONE}."
            )
        if first.run.split.unlabelled:
            raise StackError(f"a step of a stack takes labelled examples alone, and no unlabelled inputs; {ALONE}.")
        if any(member.training.x.dtype == torch.uint8 for member in members):
            raise StackError(f"the training images are too many to be kept as numbers for each run; {ALONE}.")
        self.device = first.device
        self.loss = cross_entropy if first.run.metric is ACCURACY else mse_loss
        self._gather()
        self._build()
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._check()
        self.graphs = self._new_graphs()

    def _new_graphs(self) -> StepGraphs | None:
        """On a GPU, what replays steps."""
        if self.device.type != "cuda":
            return None
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        drawing = [member.state for member in self.members] if self._drops else []
        return StepGraphs(self.device, self._stream, drawing)

    def _gather(self) -> None:
        """Lays the examples of each run behind those of the one before."""
        self.x = torch.cat([member.training.x for member in self.members])
        self.y = torch.cat([member.training.y for member in self.members])
        sizes = torch.tensor([0, *(len(member.training.y) for member in self.members[:-1])])
        self._starts = sizes.cumsum(0)[:, None]

    def _build(self) -> None:
        """Stacks what the members have come to."""
        trainings = [member.training for member in self.members]
        first = trainings[0]
        try:
            self.model = StackedModel([training.model for training in trainings])
        except RuntimeError as error:
            raise StackError(f"the networks of the runs cannot be stacked ({error}); {ALONE}.") from error
        self.optimizer = build_optimizer(first.run, self.model, leading=1)
        self.scheduler = build_scheduler(first.run, self.optimizer)
        self.scheduler.load_state_dict(first.scheduler.state_dict())
        for group, own in zip(self.optimizer.param_groups, first.optimizer.param_groups, strict=True):
            group["lr"] = own["lr"]
        for own, stacked in self._parameters():
            found = [t.optimizer.state.get(p, {}) for t, p in zip(trainings, own, strict=True)]
            for name in found[0]:
                values = [state[name] for state in found]
                same = name == "step" or not isinstance(values[0], Tensor)  # the number of steps is one for all
                self.optimizer.state[stacked][name] = copy.deepcopy(values[0]) if same else torch.stack(values)
        generators = [training.projections for training in trainings]
        self.penalties = {
            name: stacked_penalty(penalty, first.model, generators)
            for name, penalty in first.objective.penalties.items()
        }
        self._weights = {
            name: torch.tensor([t.objective.penalties[name].weight for t in trainings], dtype=torch.float64)
            for name in self.penalties
        }
        # Those of a step, times the factor of the schedule.
        self.weights = {name: weights.to(self.device, copy=True) for name, weights in self._weights.items()}
        self._factors = dict.fromkeys(self.penalties, 1.0)
        self._drops: list[Drop] | None = None
        self._given = 0
        self.graphs: StepGraphs | None = None
        self._rates: tuple[float, ...] = ()

    def _parameters(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Each parameter of all members, with the stacked one."""
        own = zip(*(member.training.model.parameters() for member in self.members), strict=True)
        return zip(map(list, own), self.model.parameters(), strict=True)

    @property
    def step(self) -> int:
        """The steps that were taken."""
        return self.members[0].training.step

    def advance(self, chosen: Tensor) -> StackedResult:
        """One step of each run on the examples at these positions, (R, B)."""
        index = (chosen + self._starts).flatten()
        self._weigh()
        result = self._take(index.to(self.device)) if self.graphs is None else self._replayed(self.graphs, index)
        self.scheduler.step()
        for member in self.members:
            member.training.step += 1
        return result

    def _take(self, index: Tensor) -> StackedResult:
        """Moves the parameters, by the examples at these positions."""
        self.optimizer.zero_grad()  # a step that could not be recorded may have left some
        self.model.masks = self._masks()
        result = self._objective(self.x[index], self.y[index])
        (self.members[0].training.run.loss_factor * result.total.sum()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return result.detached()

    def _replayed(self, graphs: StepGraphs, index: Tensor) -> StackedResult:
        rates = tuple(group["lr"] for group in self.optimizer.param_groups)
        if rates != self._rates:  # a graph holds them as numbers
            graphs.forget()
            self._rates = rates
        due = tuple(name for name, penalty in self.penalties.items() if penalty.is_due(self.step))
        return graphs.take(due, self._take, index)

    def _weigh(self) -> None:
        """Puts the weights of the step where it reads them."""
        for name, penalty in self.penalties.items():
            if penalty.is_due(self.step) and (factor := penalty.schedule.factor(self.step)) != self._factors[name]:
                self._factors[name] = factor
                self.weights[name].copy_(factor * self._weights[name])

    def _objective(self, x: Tensor, y: Tensor) -> StackedResult:
        """`gradreg.Objective` of each run on its part of the examples."""
        shape = (len(self.members), -1)
        due = {name: penalty for name, penalty in self.penalties.items() if penalty.is_due(self.step)}
        seen = Passes.of_batch(self.model, x, y, list(due.values()), None, self.step, self.loss).whole
        task = self.loss(seen.outputs, y, reduction="none").reshape(shape).mean(1)
        terms = {}
        for name, penalty in self.penalties.items():
            if name not in due:
                terms[name] = torch.zeros_like(task)
                continue
            values = penalty.per_example(seen).reshape(shape).mean(1)
            terms[name] = self.weights[name].to(values) * values
        total = torch.stack([task, *(term.to(task.dtype) for term in terms.values())]).sum(0) if terms else task
        return StackedResult(total, task, terms)

    def _masks(self) -> list[Tensor]:
        """The dropout masks of a step, of each run from the states that its own generators would have."""
        assert self._drops is not None
        if not self._drops:
            return []
        drawn = []
        for member in self.members:
            with member.state.drawing():
                drawn.append([drop.mask(self.device) for drop in self._drops])
        return [torch.stack(masks) for masks in zip(*drawn, strict=True)]

    def pull(self) -> None:
        """Puts what the stack has come to into the runs by themselves."""
        with torch.no_grad():
            for own, stacked in self._parameters():
                state = self.optimizer.state.get(stacked, {})
                for i, (member, parameter) in enumerate(zip(self.members, own, strict=True)):
                    parameter.copy_(stacked[i])
                    member.training.optimizer.state[parameter] = {
                        name: value.clone() if name == "step" else value[i].clone() if value is not None else None
                        for name, value in state.items()
                    }
            own_buffers = zip(*(member.training.model.buffers() for member in self.members), strict=True)
            for buffers, stacked in zip(own_buffers, self.model.buffers(), strict=True):
                for i, buffer in enumerate(buffers):
                    buffer.copy_(stacked[i])
        for member in self.members:
            training = member.training
            training.scheduler.load_state_dict(self.scheduler.state_dict())
            for group, own in zip(self.optimizer.param_groups, training.optimizer.param_groups, strict=True):
                own["lr"] = group["lr"]

    def remove(self, members: Sequence[Member]) -> None:
        """Takes runs out; the others go on."""
        self.pull()
        self.members = [member for member in self.members if member not in members]
        self._gather()
        drops = self._drops
        self._build()
        self._drops, self.graphs = drops, self._new_graphs()

    # --- whether the stack does what the runs do

    def _check(self) -> None:
        """Compares the stack with the first run; see `_compare`."""
        # Where a run alone has cuDNN's convolutions, which round to TF32 by default, a stack has products of float32.
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            if self._stream is None:
                self._compare()
                return
            outside = torch.cuda.current_stream(self.device)
            self._stream.wait_stream(outside)
            with torch.cuda.stream(self._stream):
                self._compare()
            outside.wait_stream(self._stream)

    def _compare(self) -> None:
        """Tries a step of the first run by itself and in the stack, without a trace.

        Raises:
            StackError: they differ, or the stack cannot be run.
        """
        first, size = self.members[0], self.members[0].training.run.schedule.batch_size
        x, y = first.training.x, first.training.y
        chosen = torch.arange(size) % min(len(member.training.y) for member in self.members)
        self._weigh()
        backs = [member.state.snapshot() for member in self.members]
        with kept(first.training.model), first.state.used():
            alone = self._alone(x[chosen.to(self.device)], y[chosen.to(self.device)])
            buffers = [buffer.clone() for buffer in first.training.model.buffers()]
        backs[0]()
        if self.device.type == "cuda" and self._given > BUSY:
            raise StackError(
                f"a step of one run computes {self._given:.2g} numbers, which keep a GPU busy without others; {ALONE}."
            )
        projections = [member.training.projections.get_state() for member in self.members]
        index = (chosen.expand(len(self.members), -1) + self._starts).flatten().to(self.device)
        try:
            with kept(self.model):
                self.model.masks = self._masks()
                stacked = self._objective(self.x[index], self.y[index])
                found = [buffer[0].clone() for buffer in self.model.buffers()]
        except (RuntimeError, ValueError, NotImplementedError) as error:
            if isinstance(error, StackError):
                raise
            raise StackError(f"the stacked network fails ({str(error).splitlines()[0]}); {ALONE}.") from error
        finally:
            for member, back, own in zip(self.members, backs, projections, strict=True):
                back()
                member.training.projections.set_state(own)
        pairs = [(alone.total, stacked.total[0]), (alone.task, stacked.task[0]), *zip(buffers, found, strict=True)]
        for one, other in pairs:
            if not torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-6, equal_nan=True):
                raise StackError(
                    "the network gives something else in a stack than by itself: it keeps a state, or draws random "
                    f"numbers otherwise than by dropout layers; {ALONE}."
                )

    def _alone(self, x: Tensor, y: Tensor) -> gr.Result:
        """The first run's own objective, which also shows what its dropout layers get."""
        training = self.members[0].training
        calls: list[list[Drop]] = []

        def begin(module: nn.Module, args: Any) -> None:
            calls.append([])

        def note(layer: Any, args: Any) -> None:
            given = args[0]
            if layer.training:
                drop = DROPOUT[type(layer)]
                calls[-1].append(Drop(drop, layer.p, tuple(given.shape), given.stride(), given.dtype))

        def count(layer: nn.Module, args: Any, given: Tensor) -> None:
            self._given += given.numel()

        self._given = 0
        layers = [layer for layer in training.model.modules() if type(layer) in DROPOUT]
        heavy = [layer for layer in training.model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        handles = [training.model.register_forward_pre_hook(begin)]
        handles += [layer.register_forward_hook(count) for layer in heavy]
        handles += [layer.register_forward_pre_hook(note) for layer in layers]
        own = training.projections.get_state()
        try:
            return training.objective(training.called, x, y, generator=training.projections, step=training.step)
        finally:
            training.projections.set_state(own)
            self._drops = calls[0] if calls else []
            for handle in handles:
                handle.remove()
