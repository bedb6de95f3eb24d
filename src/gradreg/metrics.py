"""Measures of a trained model: how steep it is at given points."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

from gradreg import _checks
from gradreg._types import Labels, Model
from gradreg.jacobian.engine import DoubleBackward
from gradreg.jacobian.forward import ForwardPass
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import norms
from gradreg.jacobian.projection import Full, Sphere
from gradreg.jacobian.site import Input, Site
from gradreg.jacobian.target import Logits, Target, as_target


def jacobian_norms(
    model: Model,
    x: Tensor,
    y: Labels = None,
    *,
    target: Target | Callable[..., Tensor] | None = None,
    site: Site | None = None,
    chunk: int = 256,
) -> Tensor:
    """``||J(x_i)||_F`` of each example, exact, with the model in evaluation mode.

    Args:
        model: a module (its mode is put back afterwards) or a function.
        x: inputs (N, ...), one tensor.
        y: labels (N,), where the target needs them.
        target: `Logits()` by default.
        site: `Input()` by default.
        chunk: number of examples at a time.

    Returns:
        (N,) in float32 or better, without a graph. Works under `torch.no_grad`.

    Example:
        >>> gr.metrics.jacobian_norms(model, x_test).mean()

    Source: the norm of J_g in the paper's section 2; Novak et al. 2018.
    """
    found = []
    for at in _linearizations(model, x, y, target, site, chunk):
        rows = next(iter(Full().draw(at, DoubleBackward(), None)))
        found.append(sum((norms(at.gradient(row[0])) ** 2 for row in rows), torch.zeros((), device=x.device)).sqrt())
    return torch.cat(found)


def spectral_norm_lower_bounds(
    model: Model,
    x: Tensor,
    *,
    samples: int = 1,
    generator: Generator | None = None,
    chunk: int = 256,
) -> Tensor:
    """The largest ``||J_g(x_i)^T u||`` over random unit vectors u: a lower bound of the spectral norm of J_g.

    Args:
        model: a module (its mode is put back afterwards) or a function.
        x: inputs (N, ...), one tensor.
        samples: number of unit vectors for each example; the bound rises with it.
        generator: draws them.
        chunk: number of examples at a time.

    Returns:
        (N,), without a graph.

    Example:
        >>> gr.metrics.spectral_norm_lower_bounds(model, x_test, samples=10).mean()

    Source: spherical SpectReg without its factor, the paper's section 2.1.
    """
    found = []
    for at in _linearizations(model, x, None, None, None, chunk):
        unit = at.z[0].numel() ** -0.5
        drawn = Sphere(samples).draw(at, DoubleBackward(), generator)
        found.append(torch.stack([unit * norms(at.gradient(row[0])) for rows in drawn for row in rows]).amax(0))
    return torch.cat(found)


def _linearizations(
    model: Model, x: Tensor, y: Labels, target: Target | Callable[..., Tensor] | None, site: Site | None, chunk: int
) -> Iterator[Linearization]:
    _checks.positive_integer(chunk, "chunk", "metrics")
    _checks.batch_size(x, "x")
    with _checks.grad_enabled(), evaluating(model):
        for start in range(0, x.shape[0], chunk):
            part = slice(start, start + chunk)
            labels = y[part] if isinstance(y, Tensor) else y
            forward = ForwardPass(model, x[part], [site or Input()])
            yield Linearization.of_pass(forward, as_target(target or Logits()), labels, site or Input())


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every submodule is in the mode it was in."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
