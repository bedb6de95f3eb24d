"""Networks of one architecture as one, with dropout masks and random projections of each run's own."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import gradreg as gr
from gradreg.jacobian.engine import Engine
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.projection import Projection, Rows
from gradreg.study.config import StudyError
from gradreg.study.shares import DROPOUT, FIXED, RANDOM, random_states

ALONE = "train these runs by themselves, without --stack"


class StackError(StudyError):
    """The runs cannot be stacked; each can be trained by itself."""


# --- the stacked network ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drop:
    """A call of a dropout layer: what draws its mask, and what a batch of one run looks like there."""

    draw: Callable[..., Tensor]
    p: float
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def mask(self, device: torch.device) -> Tensor:
        """The factors 0 and 1 / (1 - p), drawn from torch's global generator in the order of the run's own layer."""
        ones = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=device).fill_(1)
        return self.draw(ones, self.p, True)


class StackedModel(nn.Module):
    """Networks of one architecture as one.

    Args:
        models: of the runs, in training mode.

    Attributes:
        masks: of the next passes: for each call of a dropout layer one, (R, B, ...).

    Shapes: (R * B, ...), the examples of one run after those of the other, to (R * B, C).
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.runs = len(models)
        self.masks: list[Tensor] = []
        parameters, buffers = torch.func.stack_module_state(list(models))
        self._names = {name: f"p{i}" for i, name in enumerate(parameters)}, {n: f"b{i}" for i, n in enumerate(buffers)}
        for name, value in parameters.items():
            given = nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)
            self.register_parameter(self._names[0][name], given)
        for name, value in buffers.items():
            self.register_buffer(self._names[1][name], value.detach().clone())
        template = copy.deepcopy(models[0])
        for layer in template.modules():
            if type(layer) in DROPOUT:
                layer.forward = self._forward_of(layer)  # type: ignore[method-assign]
        self._template = (template,)  # in a tuple: its parameters are not this module's
        self._waiting: Iterator[Tensor] = iter(())

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of each run on its own examples."""
        own: dict[str, Tensor] = dict(self.named_parameters())
        buffers = dict(self.named_buffers())
        state = (
            {name: own[short] for name, short in self._names[0].items()},
            {name: buffers[short] for name, short in self._names[1].items()},
        )
        z = torch.vmap(self._of_one)(*state, x.unflatten(0, (self.runs, -1)), self.masks)
        return z.flatten(0, 1)

    def _of_one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, masks: Any) -> Tensor:
        self._waiting = iter(masks)
        return torch.func.functional_call(self._template[0], (parameters, buffers), (x,))

    def _forward_of(self, layer: Any) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            if not layer.training:
                return input
            mask = next(self._waiting, None)
            if mask is None or mask.shape != input.shape:
                raise StackError(f"the network calls its dropout layers otherwise at each step; {ALONE}.")
            return input.mul_(mask) if layer.inplace else input * mask

        return forward


# --- penalties --------------------------------------------------------------------------------------------------------


class _OfEachRun(Projection):
    """Draws the projections of each run from its own generator."""

    def __init__(self, projection: Projection, generators: Sequence[Generator]):
        self.projection, self.generators, self.side = projection, generators, projection.side

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """The samples for the examples of all runs."""
        runs = len(self.generators)

        def part(whole: Tensor) -> Tensor:
            return whole.detach()[: len(whole) // runs]  # only its shape is looked at

        one = replace(at, z=part(at.z), tensors=[part(tensor) for tensor in at.tensors])
        drawn = [self.projection.draw(one, engine, own) for own in self.generators]
        for samples in zip(*drawn, strict=True):
            rows = zip(*samples, strict=True)  # row i of every run
            yield [[torch.cat(parts) for parts in zip(*row, strict=True)] for row in rows]


def stacked_penalty(penalty: gr.Penalty, model: nn.Module, generators: Sequence[Generator]) -> gr.Penalty:
    """A penalty that measures each example of each run by itself.

    Raises:
        StackError: it cannot.
    """
    if penalty.schedule.fraction < 1:
        raise StackError(
            f"{penalty!r} takes a random part of a batch, which is drawn for one run at a time; write "
            f"every={round(1 / penalty.schedule.fraction)} in place of the fraction, or {ALONE}."
        )
    if not isinstance(penalty, gr.JacobianPenalty):
        return penalty
    engine = penalty.engine
    if isinstance(engine, gr.FiniteDifference) and engine.step is None:
        raise StackError(
            f"{penalty!r} takes its step from the norms of the whole batch, which in a stack is that of all runs; give "
            f"it a step, or {ALONE}."
        )
    if penalty.repeats and any(isinstance(layer, _BatchNorm) and layer.training for layer in model.modules()):
        raise StackError(
            f"{type(engine).__name__} runs the network again with the batch statistics of its first run, which a stack "
            f"does not keep; write engine=DoubleBackward, or {ALONE}."
        )
    stacked = copy.copy(penalty)
    if isinstance(penalty.projection, RANDOM):
        stacked.projection = _OfEachRun(penalty.projection, generators)
    elif not isinstance(penalty.projection, FIXED):
        raise StackError(
            f"the projection {type(penalty.projection).__name__} of {penalty.name!r} cannot be drawn for several runs; "
            f"use gr.Normal or gr.Sphere in its place, or {ALONE}."
        )
    return stacked


class Generators:
    """Puts states into torch's global generators for a while; within, called, it gives what they have come to."""

    def __init__(self, device: torch.device, states: Sequence[Tensor]):
        self.device, self.states = device, states

    def __enter__(self) -> Callable[[], list[Tensor]]:
        self.before = random_states(self.device)
        self._put(self.states)
        return lambda: random_states(self.device)

    def __exit__(self, *_: object) -> None:
        self._put(self.before)

    def _put(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], self.device)
