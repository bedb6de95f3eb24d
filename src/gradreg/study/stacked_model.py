"""Networks of one architecture as one, with dropout masks and random projections of each run's own."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

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
        windows: whether convolutions are products with windows; by default on a GPU.
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
        self.windows = any(p.is_cuda for p in self.parameters())
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
        with Windows(self.runs) if self.windows else nullcontext():
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


class Windows(TorchFunctionMode):
    """Makes two-dimensional convolutions products of the filters with the windows of the image.

    Filters of each run's own make a grouped convolution, which cuDNN is slow at, and torch differentiates its backward
    pass group by group; a batched product takes all runs at once, both ways.

    Args:
        runs: how many are stacked.
        limit: convolutions whose windows take more bytes are left as they are.
    """

    def __init__(self, runs: int, limit: int = 2**30):
        super().__init__()
        self.runs, self.limit = runs, limit

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Exchanges a convolution where that is possible."""
        if func is F.conv2d and (found := self._product(*args, **(kwargs or {}))) is not None:
            return found
        return func(*args, **(kwargs or {}))

    def _product(
        self, input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor | None:  # fmt: skip
        if isinstance(padding, str) or groups > 1 or input.ndim != 4:
            return None
        stride, padding, dilation = map(_pair, (stride, padding, dilation))
        if dilation != (1, 1):
            return None
        x = F.pad(input, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else input
        windows = x.unfold(2, weight.shape[2], stride[0]).unfold(3, weight.shape[3], stride[1])
        if windows.numel() * x.element_size() * self.runs > self.limit:
            return None
        height, width = windows.shape[2:4]
        # Example by example: a sum over all places of all examples, as the gradient of a filter is, has too few entries
        # to be shared among the processors of a GPU.
        columns = windows.permute(0, 1, 4, 5, 2, 3).reshape(len(x), weight[0].numel(), height * width)
        z = weight.flatten(1) @ columns
        z = z if bias is None else z + bias[:, None]
        return z.unflatten(2, (height, width))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


# --- penalties --------------------------------------------------------------------------------------------------------


class _OfEachRun(Projection):
    """Draws the projections of each run from its own generator."""

    def __init__(self, projection: Projection, generators: Sequence[Generator]):
        self.projection, self.generators, self.side = projection, generators, projection.side

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """The samples for the examples of all runs."""
        parts = [whole.detach().chunk(len(self.generators)) for whole in (at.z, *at.tensors)]
        drawn = [
            self.projection.draw(replace(at, z=z, tensors=tensors), engine, own)
            for (z, *tensors), own in zip(zip(*parts, strict=True), self.generators, strict=True)
        ]
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
    if not penalty.apart:
        raise StackError(
            f"{penalty!r} looks at more than each example by itself, which in a stack would be the layers and examples "
            f"of all runs; {ALONE}."
        )
    if not isinstance(penalty, gr.JacobianPenalty):
        return penalty
    if isinstance(penalty.site, gr.Hidden):
        raise StackError(f"{penalty!r} looks at activations within the network, which in a stack are hidden; {ALONE}.")
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
    if isinstance(penalty.projection, (*RANDOM, gr.Tangents)):
        stacked.projection = _OfEachRun(penalty.projection, generators)
    elif not isinstance(penalty.projection, FIXED):
        raise StackError(
            f"the projection {type(penalty.projection).__name__} of {penalty.name!r} cannot be drawn for several runs; "
            f"use gr.Normal or gr.Sphere in its place, or {ALONE}."
        )
    return stacked


class RandomState:
    """What torch's global generators would have come to if a run trained alone: at first what they are.

    On a GPU the global generator can be made to share the run's state, without a copy, so that a CUDA graph in which
    it draws moves that state on.

    Args:
        device: where the run trains.

    Attributes:
        gpu: a generator with the state of the GPU's; None on a CPU.
    """

    def __init__(self, device: torch.device):
        self.cpu, *others = random_states(device)
        self.gpu = Generator(device).set_state(others[0]) if others else None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within, the global generators are the run's own."""
        before = torch.get_rng_state()
        torch.set_rng_state(self.cpu)
        try:
            with self.drawing() if self.gpu else nullcontext():
                yield
        finally:
            self.cpu = torch.get_rng_state()
            torch.set_rng_state(before)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within, the global generator of the device is the run's own."""
        if self.gpu is None:
            with self.used():
                yield
            return
        shared = self._shared()
        before = shared.graphsafe_get_state()
        shared.graphsafe_set_state(self.gpu)
        try:
            yield
        finally:
            shared.graphsafe_set_state(before)

    def install(self) -> None:
        """Gives the global generator of the GPU this state for good."""
        assert self.gpu is not None
        self._shared().graphsafe_set_state(self.gpu)

    def _shared(self) -> Any:
        """The global generator of the GPU."""
        assert self.gpu is not None
        index = self.gpu.device.index
        return torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]

    def snapshot(self) -> Callable[[], None]:
        """Notes the state; what is returned puts it back."""
        cpu, gpu = self.cpu, self.gpu and self.gpu.get_state()

        def back() -> None:
            self.cpu = cpu
            if self.gpu is not None and gpu is not None:
                self.gpu = Generator(self.gpu.device).set_state(gpu)  # not the one that a graph may hold

        return back
