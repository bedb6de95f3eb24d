"""The linear map J at the batch: target values z, the site's tensors, and the plain products with J."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradreg import _checks
from gradreg._types import Labels, Parts
from gradreg.jacobian._composed import refuse_marked
from gradreg.jacobian._refusals import refuse_lost_graph, refuse_sharded
from gradreg.jacobian._state import normalizes_batches
from gradreg.jacobian.forward import Change, ForwardPass, attached
from gradreg.jacobian.magnitude import flat, wide
from gradreg.jacobian.site import Site, describe
from gradreg.jacobian.target import Target


@dataclass(frozen=True)
class Linearization:
    """J = dz/d(site) of one forward pass.

    Attributes:
        z: values of the target, (B, ...).
        tensors: the tensors of the site, each (B, ...).
        outputs: what the model returned.
        target, y, site: what z and the tensors came from.
        forward: the forward pass, or None where the caller ran the model (then nothing can be run again).
    """

    z: Tensor
    tensors: Parts
    outputs: Any
    target: Target
    y: Labels
    site: Site
    forward: ForwardPass | None = None

    @classmethod
    def of_pass(cls, forward: ForwardPass, target: Target, y: Labels, site: Site) -> "Linearization":
        """At the sites of a forward pass."""
        z = _checked_target(target, forward.outputs, y, forward.batch)
        return cls(z, forward.tensors(site), forward.outputs, target, y, site, forward)

    @classmethod
    def of_outputs(cls, outputs: Any, tensors: Parts, target: Target, y: Labels, site: Site) -> "Linearization":
        """At outputs that the caller computed from ``tensors``."""
        return cls(_checked_target(target, outputs, y, tensors[0].shape[0]), tensors, outputs, target, y, site)

    @property
    def batch(self) -> int:
        """Number of examples."""
        return self.z.shape[0]

    @cached_property
    def normalizes_batches(self) -> bool:
        """Whether batch normalization by the statistics of the batch couples the examples, as far as can be seen."""
        return self.forward is not None and normalizes_batches(self.forward.model)

    @property
    def private(self) -> Parts:
        """Those tensors of the site that the forward pass made variables of its own, which nobody else can see."""
        return [] if self.forward is None else [tensor for tensor in self.tensors if tensor.is_leaf]

    @cached_property
    def transposed(self) -> tuple[Tensor, Parts]:
        """A variable u, zero and shaped as z, and ``J^T u`` with its graph in u."""
        u = torch.zeros_like(self.z).requires_grad_()
        return u, self.gradient(u, create_graph=True)

    def gradient(self, row: Tensor, *, create_graph: bool = False) -> Parts:
        """``J^T row`` for each example, shaped as the site's tensors.

        Args:
            row: (B, ...) as z.
            create_graph: whether the result can be differentiated again.

        Raises:
            ValueError: z does not depend on the site.
        """
        if create_graph and self.forward is not None:
            refuse_sharded(self.forward.model, tangents=False)
        found: tuple[Tensor | None, ...] = (None,)
        if self.z.requires_grad:
            with self.of_rows():
                found = torch.autograd.grad(
                    self.z,
                    self.tensors,
                    row.to(self.z.dtype),
                    retain_graph=True,
                    create_graph=create_graph,
                    allow_unused=True,
                )
        if all(part is None for part in found):
            raise _checks.independent_of_site(describe(self.site))
        return [torch.zeros_like(t) if g is None else g for g, t in zip(found, self.tensors, strict=True)]

    def of_rows(self) -> AbstractContextManager[None]:
        """While only products with J are differentiated for; see `Phase`."""
        return self.forward.phase.of_rows() if self.forward is not None else nullcontext()

    def elsewhere(self, change: Change, direction: Parts, *, tangents: bool = False) -> "Linearization":
        """The same function run again with the site's tensors changed; see `ForwardPass.again`."""
        assert self.forward is not None
        if tangents:
            refuse_sharded(self.forward.model, tangents=True)
        outputs, tensors = self.forward.again(self.site, change, direction, tangents=tangents)
        z = _checked_target(self.target, outputs, self.y, self.batch)
        if not tangents:  # within forward mode a tensor does not show its graph
            refuse_lost_graph(self.z, z, self.tensors)
        return replace(self, z=z, tensors=tensors, outputs=outputs)

    @cached_property
    def uncoupled(self) -> "Linearization":
        """Where batch statistics couple examples: the same point with the statistics held fixed; else itself."""
        if self.forward is None or not self.forward.couples_examples:
            return self
        return self.elsewhere(attached, self.tensors)


def refuse_marked_at_end(at: Linearization) -> None:
    """Looks for functions marked @once_differentiable that a row has met before anything made it depend on parameters.

    torch marks the graph of their backward only where what flows into it requires grad, as the variable u does.

    Raises:
        RuntimeError: names them.
    """
    for part in at.transposed[1]:
        refuse_marked(part, at.z)


def dot(a: Parts, b: Parts) -> Tensor:
    """Inner product of each example over all parts, (B,), accumulated in float32 or better."""
    terms = [(flat(wide(x)) * flat(wide(y))).sum(1) for x, y in zip(a, b, strict=True)]
    return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def _checked_target(target: Target, outputs: Any, y: Labels, batch: int) -> Tensor:
    if target.needs_labels:
        _checks.labels_given(y, type(target).__name__)
        _checks.label_batch(y, batch)
    z = target(outputs, y)
    _checks.same_batch(
        z,
        batch,
        "the target",
        "Penalties differentiate one value (or more) per example; expected shape (B, ...). Do not average over the "
        "batch, and keep it in the first dimension.",
    )
    if not z.is_floating_point():
        real = " For complex outputs: target=lambda z: torch.view_as_real(z)." if z.is_complex() else ""
        raise TypeError(f"the target has dtype {z.dtype}; expected floating-point outputs, such as logits.{real}")
    return z
