"""A process's share of each batch, with the random numbers of the whole batch: dropout masks and projections.

Masks and projections are drawn for the whole batch by every process from the same generators, and each takes the part
that belongs to its examples. So the numbers are those of a single process, and all processes' generators stay alike.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

import gradreg as gr
from gradreg.jacobian.engine import Engine
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.projection import Projection, Rows
from gradreg.study.config import StudyError

DROPOUT: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Dropout: F.dropout,
    nn.Dropout1d: F.dropout1d,
    nn.Dropout2d: F.dropout2d,
    nn.Dropout3d: F.dropout3d,
}
RANDOM = (gr.Normal, gr.Sphere, gr.Rademacher, gr.RandomClass)
FIXED = (gr.Full, gr.TrueClass, gr.TopK, gr.ProbabilityWeighted, gr.LossDirection)
_ALONE = "train on one process, without torchrun"


@dataclass(frozen=True)
class Share:
    """Which part of each batch a process has.

    Attributes:
        rank: of the process, from 0.
        world: how many processes there are.

    Example:
        >>> Share(1, 2).of(torch.arange(6))
        tensor([3, 4, 5])
    """

    rank: int
    world: int

    def of(self, whole: Tensor) -> Tensor:
        """This process's part of what belongs to a whole batch."""
        size = whole.shape[0] // self.world
        return whole[self.rank * size : (self.rank + 1) * size]

    def whole(self, part: Tensor) -> tuple[int, ...]:
        """The shape of the whole that a part belongs to."""
        return (part.shape[0] * self.world, *part.shape[1:])


def check_batch(batch: int, world: int) -> None:
    """All processes have the same number of examples.

    Raises:
        StudyError: they cannot.
    """
    if batch % world == 0:
        return
    near = [size for size in (batch - batch % world, batch - batch % world + world) if size > 0]
    fewer = max(count for count in range(1, world) if batch % count == 0)
    raise StudyError(
        f"a batch of {batch} examples cannot be divided evenly among {world} processes; write batch_size="
        f"{' or '.join(map(str, near))}, or start {fewer} of them: torchrun --nproc-per-node {fewer}."
    )


# --- dropout ----------------------------------------------------------------------------------------------------------


def share_dropout(model: nn.Module, share: Share) -> None:
    """Has the dropout layers of a network draw the masks of the whole batch, from torch's global generator.

    Args:
        model: its `nn.Dropout`, `nn.Dropout1d`, `nn.Dropout2d` and `nn.Dropout3d` are changed in place; the layers stay
            where they are, so the names of parameters and buffers do not change.
        share: the part of each mask that they apply.
    """
    for layer in model.modules():
        if type(layer) in DROPOUT:
            layer.forward = _forward(layer, share)  # type: ignore[method-assign]


def _forward(layer: Any, share: Share) -> Callable[[Tensor], Tensor]:
    drop = DROPOUT[type(layer)]

    def forward(input: Tensor) -> Tensor:
        if not layer.training:
            return input
        # Ones come out as the factors themselves: 0 and 1 / (1 - p). Times the input, they are what drop(input) gives.
        mask = share.of(drop(_ones(input, share), layer.p, True))
        return input.mul_(mask) if layer.inplace else input * mask

    return forward


def _ones(part: Tensor, share: Share) -> Tensor:
    """Ones of the whole batch, which lie in memory as the whole batch's input would: masks are drawn in that order."""
    strides = torch.empty_like(part.detach(), device="meta").stride()
    others = [stride for stride, size in zip(strides[1:], part.shape[1:], strict=True) if size > 1]
    if part.shape[0] == 1 and share.world > 1 and strides[0] <= max(others, default=0):
        raise StudyError(
            f"a dropout layer gets one example per process, with strides {strides}, and cannot tell how a whole batch "
            f"would lie in memory. Write drop(x.contiguous()), choose a larger batch, or {_ALONE}."
        )
    order = sorted(range(part.ndim), key=lambda d: -strides[d])
    shape = share.whole(part)
    ones = torch.ones([shape[d] for d in order], dtype=part.dtype, device=part.device)
    return ones.permute([order.index(d) for d in range(part.ndim)])


# --- what cannot be divided -------------------------------------------------------------------------------------------


def check_network(model: nn.Module, x: Tensor) -> None:
    """Looks for what would make a share of a batch come out otherwise than the same examples of the whole batch.

    Besides known layers this finds, by running the network on two and on three examples: random numbers that forward
    draws from torch's global generator otherwise than by dropout layers (such as ``F.dropout``), outputs of an example
    that depend on the others, and dropout layers whose input has the batch elsewhere than in its first dimension. What
    happens only now and then, and random numbers of other generators, cannot be seen.

    Args:
        model: left as found.
        x: some inputs.

    Raises:
        StudyError: names the cause, and what to do.
    """
    with kept(model):
        model.train()
        for name, layer in model.named_modules():
            _check_layer(name, layer)
        dropout = {name: layer for name, layer in model.named_modules() if type(layer) in DROPOUT}
        for layer in dropout.values():
            layer.training = False
        before = random_states(x.device)
        two, shapes_of_two = _try(model, dropout, x[torch.arange(2) % len(x)])
        three, shapes_of_three = _try(model, dropout, x[torch.arange(3) % len(x)])
        drawn = any(not torch.equal(a, b) for a, b in zip(before, random_states(x.device), strict=True))
    if drawn:
        raise StudyError(
            "the network draws random numbers in forward otherwise than by dropout layers (F.dropout, say); those of "
            f"several processes would not be those of one. Write layers (self.drop = nn.Dropout(0.5)), or {_ALONE}."
        )
    for name, shape in shapes_of_two.items():
        if shapes_of_three.get(name) != (shape[0] // 2 * 3, *shape[1:]):
            raise StudyError(
                f"the dropout layer {name!r} gets an input of shape {shape} for two examples; several processes need "
                f"the batch in the first dimension. Move it there (batch_first=True, x.transpose(0, 1)), or {_ALONE}."
            )
    # Different kernels for two and three examples round differently.
    tolerance = 1e-3 * max(two.nan_to_num().abs().max().item(), 1e-6)
    if not torch.allclose(two, three[:2], rtol=0, atol=tolerance, equal_nan=True):
        raise StudyError(
            "the network's output for an example depends on the others of the batch (off by "
            f"{(two - three[:2]).abs().max():.2g}), so a share of a batch comes out otherwise. Use layers that see one "
            f"example at a time, or {_ALONE}."
        )


def _check_layer(name: str, layer: nn.Module) -> None:
    kind = type(layer).__name__
    if isinstance(layer, _NormBase) and layer.training:
        # Instance normalization keeps statistics of the batch only where it is asked to.
        if "Instance" not in kind:
            raise StudyError(
                f"{kind} ({name!r}) takes its means and variances from the batch, and each of several processes would "
                f"take them from its own share. Use nn.GroupNorm or nn.LayerNorm in its place, or {_ALONE}."
            )
        if layer.track_running_stats:
            raise StudyError(
                f"{kind} ({name!r}) keeps running statistics of the batch, and each of several processes would keep "
                f"those of its own share. Write track_running_stats=False, or {_ALONE}."
            )
    draws = isinstance(layer, (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d))
    if draws or (isinstance(layer, _DropoutNd) and type(layer) not in DROPOUT):
        raise StudyError(
            f"{kind} ({name!r}) draws random numbers in a way that cannot be divided among processes. Use nn.Dropout, "
            f"nn.Dropout1d, nn.Dropout2d or nn.Dropout3d in its place, or {_ALONE}."
        )
    if isinstance(layer, (nn.MultiheadAttention, nn.RNNBase)) and layer.dropout > 0:
        raise StudyError(
            f"{kind} ({name!r}) has a dropout of its own, whose mask cannot be divided among processes. Write "
            f"dropout=0 there and nn.Dropout behind it, or {_ALONE}."
        )


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the modes and buffers of a network are as before."""
    modes = {module: (module.training, dict(module._buffers)) for module in model.modules()}
    try:
        for module, (_, buffers) in modes.items():
            # The tensors themselves are exchanged, so that nothing writes into the old ones.
            module._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
        yield
    finally:
        for module, (training, buffers) in modes.items():
            module.training = training
            module._buffers.update(buffers)


def _try(model: nn.Module, dropout: dict[str, nn.Module], x: Tensor) -> tuple[Tensor, dict[str, tuple[int, ...]]]:
    """The outputs, and the shape of what each dropout layer got at its last call."""
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []
    for name, layer in dropout.items():

        def note(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
            shapes[name] = tuple(output.shape)

        handles.append(layer.register_forward_hook(note))
    try:
        with kept(model), torch.no_grad():
            return model(x), shapes
    finally:
        for handle in handles:
            handle.remove()


def random_states(device: torch.device) -> list[Tensor]:
    """States of torch's global generators: of the CPU, and of the GPU where the device is one."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


# --- penalties --------------------------------------------------------------------------------------------------------


class _Shared(Projection):
    """Draws the projections of the whole batch and takes a share of them."""

    def __init__(self, projection: Projection, share: Share):
        self.projection, self.share, self.side = projection, share, projection.side

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """The samples for this process's examples."""

        def whole(part: Tensor) -> Tensor:
            return part.detach().new_zeros(()).expand(self.share.whole(part))  # only its shape is looked at

        everyone = replace(at, z=whole(at.z), tensors=[whole(tensor) for tensor in at.tensors])
        for sample in self.projection.draw(everyone, engine, generator):
            yield [[self.share.of(part) for part in row] for row in sample]


def share_penalty(penalty: gr.Penalty, share: Share) -> None:
    """Has a penalty draw the random projections of the whole batch.

    Args:
        penalty: changed in place.
        share: the part of the projections that it uses.

    Raises:
        StudyError: it is not known to be a mean over examples, or its random numbers cannot be divided.
    """
    if isinstance(penalty, (gr.ConfidencePenalty, gr.LabelSmoothing)):
        return
    if not isinstance(penalty, gr.JacobianPenalty) or not penalty.apart:
        raise StudyError(
            f"{type(penalty).__name__} is not known to be a mean over the examples of a batch, as several processes "
            f"need it; use one of gradreg's own penalties, or {_ALONE}."
        )
    if penalty.schedule.fraction < 1:
        raise StudyError(
            f"{penalty.name!r} is taken on a random part of the batch (fraction={penalty.schedule.fraction:g}), which "
            f"several processes cannot draw as one does; write every={round(1 / penalty.schedule.fraction)}, which "
            f"costs the same, or {_ALONE}."
        )
    if isinstance(penalty.projection, RANDOM):
        penalty.projection = _Shared(penalty.projection, share)
    elif not isinstance(penalty.projection, FIXED):
        raise StudyError(
            f"the projection {type(penalty.projection).__name__} of {penalty.name!r} cannot be divided among "
            f"processes; use gr.Normal or gr.Sphere in its place, or {_ALONE}."
        )
