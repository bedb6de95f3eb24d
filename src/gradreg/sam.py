"""`SAM`: a training step that minimizes the loss at the worst point nearby, by two passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gradreg import _checks
from gradreg._types import InputTree, Labels
from gradreg.jacobian._refusals import refuse_sharded, refuse_static_graph
from gradreg.jacobian.forward import RandomState
from gradreg.mixup import Mixup
from gradreg.objective import Objective, Result, _detached


class SAM:
    """Sharpness-aware minimization: ``.grad`` gets the gradient of the objective at ``w + rho g / ||g||``.

    g is its gradient at w, the parameters. Two passes: the first finds g, the second the gradient that the optimizer
    takes, back at w. Both see the same dropout mask, the same random projections and mixtures; buffers, such as running
    averages, are as after the first.

    Under DistributedDataParallel each process moves along the gradient of its own part of the batch, as in the source's
    own distributed training; the gradients at the moved parameters are averaged over the processes.

    Args:
        objective: loss and penalties: an `Objective`, or `Mixup`.
        model: a `torch.nn.Module`; its parameters that require gradients are moved.
        rho: length of the move in the L2 norm of all parameters together, >= 0; 0 is an ordinary step of two passes.

    Raises:
        TypeError: an objective or a model of another type; when called, a sharded model.
        ValueError: a rho < 0; when called, DistributedDataParallel with a static graph, or a model none of whose
            parameters gets a gradient.

    Example:
        >>> step = gr.SAM(gr.Objective(cross_entropy), model, rho=0.05)
        >>> for x, y in loader:
        ...     result = step(x, y)
        ...     optimizer.step(); optimizer.zero_grad()

    Cost: 2.0x a plain step.

    Source: Foret et al. 2021, equations (2) and (3), algorithm 1.
    """

    def __init__(self, objective: Objective | Mixup, model: nn.Module, rho: float = 0.05):
        if not isinstance(objective, (Objective, Mixup)):
            raise TypeError(f"SAM got objective={objective!r}; expected gr.Objective(cross_entropy), or gr.Mixup.")
        if not isinstance(model, nn.Module):
            raise TypeError(f"SAM got model={model!r}; expected a torch.nn.Module, whose parameters it moves.")
        _checks.not_negative(rho, "rho", "SAM")
        self.objective, self.model, self.rho = objective, model, float(rho)

    def __call__(
        self,
        x: InputTree,
        y: Labels,
        *,
        unlabeled: InputTree | None = None,
        generator: Generator | None = None,
        step: int | None = None,
        factor: float = 1.0,
    ) -> Result:
        """Adds the gradient at the moved parameters to the parameters' ``.grad``.

        Args:
            x, y, unlabeled, step: see `Objective`.
            generator: draws the random projections, the same in both passes.
            factor: multiplies the gradient.

        Returns:
            The values at w, detached: ``backward()`` has been done.
        """
        whole = self.objective.objective if isinstance(self.objective, Mixup) else self.objective
        generator = generator or whole.generator
        if step is None:
            step, whole.step = whole.step, whole.step + 1
        parameters = [p for p in self.model.parameters() if p.requires_grad]

        def run() -> Result:
            return self.objective(self.model, x, y, unlabeled=unlabeled, generator=generator, step=step)

        _refuse_wrapped(self.model)
        with _checks.grad_enabled():
            states = RandomState.of(x, self.model)
            own = generator and generator.get_state()
            first = run()
            gradients = _gradients(first.total, parameters)
            moves = _moves(gradients, self.rho)
            if generator is not None and own is not None:
                generator.set_state(own)
            with _moved(parameters, moves), _same_buffers(self.model), states.restored():
                (factor * run().total).backward()
        return _detached(first)

    def __repr__(self) -> str:
        return f"SAM({self.objective!r}, {type(self.model).__name__}, rho={self.rho:g})"


def _refuse_wrapped(model: nn.Module) -> None:
    """Refuses models whose first gradient, which no ``backward()`` takes, would go wrong."""
    refuse_static_graph(model, None)
    try:
        refuse_sharded(model, tangents=False)
    except _checks.UnsupportedOperationError:
        raise TypeError(
            "SAM got a model sharded by FSDP, which gives its parameters' gradients to backward() alone, and SAM needs "
            "the first ones apart. Use plain DistributedDataParallel."
        ) from None


def _gradients(total: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    """Of the first pass, by each parameter."""
    found: tuple[Tensor | None, ...] = ()
    if parameters and total.requires_grad:
        found = torch.autograd.grad(total, parameters, allow_unused=True)
    if all(part is None for part in found):
        raise ValueError(
            "SAM got a model none of whose parameters gets a gradient from the objective; expected some to train. "
            "Write model.requires_grad_() for the parts that are trained, and look in model and loss for .detach() and "
            "torch.no_grad."
        )
    return found


def _moves(gradients: Any, rho: float) -> list[Tensor | None]:
    """``rho g / ||g||``, the norm taken over all parameters; none where g is 0."""
    known = [g for g in gradients if g is not None]
    norm = torch.stack([g.float().norm() if g.dtype.itemsize < 4 else g.norm() for g in known]).norm()
    scale = torch.where(norm > 0, rho / norm, 0)
    return [None if g is None else (scale * g).to(g.dtype) for g in gradients]


@contextmanager
def _moved(parameters: list[nn.Parameter], moves: list[Tensor | None]) -> Iterator[None]:
    """Afterwards the parameters have the very numbers that they had before."""
    before = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, move in zip(parameters, moves, strict=True):
                if move is not None:
                    p.add_(move)
        yield
    finally:
        with torch.no_grad():
            for p, kept in zip(parameters, before, strict=True):
                p.copy_(kept)


@contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """Afterwards the buffers are as before."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, kept in before:
                buffer.copy_(kept)
