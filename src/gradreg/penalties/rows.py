"""Many rows of a Jacobian in bounded memory: differentiated in chunks, whose gradients are added up at once.

The graph of a row holds about what that of a forward pass does, so all rows of a Jacobian with 200 outputs do not fit.
A chunk of rows is measured, differentiated with respect to every leaf of the model's graph, and let go; what is
returned carries these gradients to the caller's own backward pass. Where the second derivative reaches the forward pass
(batch normalization, smooth activations), each chunk goes through the whole of that again: two thirds of a plain step.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gradreg._types import Parts
from gradreg.jacobian._composed import graph
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import Magnitude, wide


def bytes_held(measure: Callable[[], Tensor]) -> int:
    """Bytes that the graph of a measure keeps for its backward pass.

    An upper bound: what the forward pass keeps as well counts again.
    """
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        try:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        except RuntimeError:  # the wrappers of torch.func have no storage to point to
            storages[-id(tensor)] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = measure()  # storages that were let go would be counted on top of those that take their place
    del kept
    return sum(storages.values())


def mean_in_chunks(
    rows: Callable[[], Iterator[Parts]],
    measure: Callable[[Parts], Tensor],
    at: Linearization,
    magnitude: Magnitude,
    at_once: int,
) -> Tensor:
    """The mean over the batch of ``finish(sum over rows of measure(row))``.

    Args:
        rows: begins the rows anew, always the same.
        measure: of a row, (B,).
        at: the point.
        magnitude: finishes the sum.
        at_once: rows whose graph is held at one time.

    Returns:
        A 0-dimensional tensor that can be differentiated once.
    """
    total = torch.zeros(at.batch, dtype=wide(at.z).dtype, device=at.z.device)
    weights = None
    if not magnitude.additive:
        for row in rows():
            total += measure(row).detach()
        total.requires_grad_()
        value = magnitude.finish(total).mean()
        (weights,) = torch.autograd.grad(value, total)
    leaves = [leaf for leaf in _leaves(at.z) if not any(leaf is tensor for tensor in at.private)]
    gradients: list[Tensor | None] = [None] * len(leaves)
    value, remaining, dtype = torch.zeros_like(total[0]), rows(), total.dtype
    while chunk := list(islice(remaining, at_once)):
        part = torch.stack([measure(row) for row in chunk]).sum(0)
        part = part.mean() if weights is None else part @ weights.to(part.dtype)
        value += part.detach()
        if part.requires_grad and leaves:
            found = torch.autograd.grad(part, leaves, retain_graph=True, allow_unused=True)
            gradients = [_plus(before, more) for before, more in zip(gradients, found, strict=True)]
        dtype = part.dtype
        del part
    if weights is not None:
        value = magnitude.finish(total.detach()).mean()
    return _Carried.apply(value.to(dtype), gradients, *leaves)


class _Carried(Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> Any:  # type: ignore[override]
        return None, None, *(None if g is None else (given * g).to(g.dtype) for g in ctx.gradients)


def _plus(before: Tensor | None, more: Tensor | None) -> Tensor | None:
    if before is None or more is None:
        return more if before is None else before
    return before + more


def _leaves(z: Tensor) -> list[Tensor]:
    """The tensors that a backward pass from z ends in."""
    found = [node.variable for node in graph(z) if hasattr(node, "variable")]
    return [leaf for leaf in found if leaf.requires_grad]
