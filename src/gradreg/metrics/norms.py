"""How steep a model is at given points: norms of its Jacobian."""

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from gradreg import _checks, _random
from gradreg._types import Labels, Model, Parts
from gradreg.jacobian.engine import DoubleBackward
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import along, flat, norms, wide
from gradreg.jacobian.projection import Sphere
from gradreg.jacobian.site import Site
from gradreg.jacobian.target import Logits, Target, as_target
from gradreg.metrics._chunks import in_chunks, linearized

# Numbers of a Jacobian held at one time; 512 MiB in float32. Chunks that would need more are halved.
ENTRIES = 2**27


def jacobian_norms(
    model: Model,
    x: Tensor,
    y: Labels = None,
    *,
    target: Target | Callable[..., Tensor] | None = None,
    site: Site | None = None,
    chunk: int = 256,
) -> Tensor:
    """``||J(x_i)||_F`` of each example, exact, with the model in evaluation mode; one backward pass for each output.

    Args:
        model: a module (its mode is put back afterwards) or a function, run as it is.
        x: inputs (N, ...), one tensor.
        y: labels (N,), where the target needs them.
        target: `Logits()` by default, which is J_g; `Probabilities()` for J_f.
        site: `Input()` by default.
        chunk: number of examples at a time.

    Returns:
        (N,) in float32 or better, without a graph. Works under `torch.no_grad`.

    Raises:
        ValueError: no points, inference tensors, a target that does not depend on the site, batch normalization without
            running statistics.

    Example:
        >>> gr.metrics.jacobian_norms(model, x_test).mean()

    Source: the norm of J_g in the paper's section 2; Novak et al. 2018, section 3, with the probabilities' J_f.
    """

    def measure(points: Tensor, labels: Labels) -> Tensor:
        at = linearized(model, points, labels, as_target(target or Logits()), site)
        total = torch.zeros((), device=points.device)
        for row in _rows(at):
            total = total + norms(row) ** 2
        return total.sqrt()

    return in_chunks(model, x, y, chunk, measure)


def spectral_norms(
    model: Model,
    x: Tensor,
    y: Labels = None,
    *,
    target: Target | Callable[..., Tensor] | None = None,
    site: Site | None = None,
    iterations: int | None = None,
    generator: Generator | None = None,
    chunk: int = 256,
) -> Tensor:
    """``||J(x_i)||_2``, the largest singular value: how far the outputs move at most for a small step of length 1.

    Exact by default: all rows of J, then the largest eigenvalue of ``J J^T``. For very many outputs ``iterations``
    rounds of ``w <- J J^T w / ||...||`` from a random start, which give a lower bound.

    Args:
        model: a module (its mode is put back afterwards) or a function, run as it is.
        x: inputs (N, ...), one tensor.
        y: labels (N,), where the target needs them.
        target: `Logits()` by default, which is J_g; `Probabilities()` for J_f.
        site: `Input()` by default.
        iterations: None for the exact value; else rounds of power iteration, two passes each.
        generator: draws the start of the power iteration.
        chunk: number of examples at a time; fewer where the Jacobians of a chunk would hold more than 2^27 numbers.

    Returns:
        (N,) in float32 or better, without a graph.

    Raises:
        ValueError: no points, inference tensors, a target that does not depend on the site, batch normalization without
            running statistics.

    Example:
        >>> gr.metrics.spectral_norms(model, x_test, target=gr.Probabilities()).mean()

    Source: the paper's section 2.1; the power iteration of Yoshida & Miyato 2017, there for weights.
    """
    chosen = as_target(target or Logits())
    if iterations is None:
        return _of_full(model, x, y, chosen, site, chunk, _largest_singular_values)
    _checks.positive_integer(iterations, "iterations", "spectral_norms")

    def measure(points: Tensor, labels: Labels) -> Tensor:
        return _by_power_iteration(linearized(model, points, labels, chosen, site), iterations, generator)

    return in_chunks(model, x, y, chunk, measure)


def both_norms(model: Model, x: Tensor, target: Target, *, chunk: int = 256) -> Tensor:
    """`jacobian_norms` and `spectral_norms` (N, 2), at the cost of one."""

    def measure(full: Tensor) -> Tensor:
        return torch.stack([torch.linalg.matrix_norm(full), _largest_singular_values(full)], 1)

    return _of_full(model, x, None, target, None, chunk, measure)


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
        model: a module (its mode is put back afterwards) or a function, run as it is.
        x: inputs (N, ...), one tensor.
        samples: number of unit vectors for each example; the bound rises with it.
        generator: draws them.
        chunk: number of examples at a time.

    Returns:
        (N,), without a graph.

    Raises:
        ValueError: no points, inference tensors, batch normalization without running statistics.

    Example:
        >>> gr.metrics.spectral_norm_lower_bounds(model, x_test, samples=10).mean()

    Source: spherical SpectReg without its factor, the paper's section 2.1.
    """

    def measure(points: Tensor, labels: Labels) -> Tensor:
        at = linearized(model, points, labels, Logits(), None)
        unit = at.z[0].numel() ** -0.5
        drawn = Sphere(samples).draw(at, DoubleBackward(), generator)
        return torch.stack([unit * norms(at.gradient(row[0])) for rows in drawn for row in rows]).amax(0)

    return in_chunks(model, x, None, chunk, measure)


def _rows(at: Linearization) -> Iterator[Parts]:
    """The rows of J, one output after the other."""
    for index in range(at.z[0].numel()):
        unit = torch.zeros_like(at.z, memory_format=torch.contiguous_format, requires_grad=False)
        unit.view(at.batch, -1)[:, index] = 1
        yield at.gradient(unit)


def _of_full(
    model: Model, x: Tensor, y: Labels, target: Target, site: Site | None, chunk: int, of: Callable[[Tensor], Tensor]
) -> Tensor:
    """A measure of the whole Jacobians (B, m, n) of each chunk."""

    def measure(points: Tensor, labels: Labels) -> Tensor:
        at = linearized(model, points, labels, target, site)
        count = at.batch
        if count > 1 and count * at.z[0].numel() * sum(tensor[0].numel() for tensor in at.tensors) > ENTRIES:
            del at
            halves = (slice(None, count // 2), slice(count // 2, None))
            return torch.cat([measure(points[h], labels[h] if isinstance(labels, Tensor) else labels) for h in halves])
        return of(torch.stack([torch.cat([flat(wide(part)) for part in row], 1) for row in _rows(at)], 1))

    return in_chunks(model, x, y, chunk, measure)


def _largest_singular_values(full: Tensor) -> Tensor:
    smaller = full @ full.mT if full.shape[1] <= full.shape[2] else full.mT @ full
    # Rounding shows relative to the largest eigenvalue, so that squaring J costs the root nothing.
    return torch.linalg.eigvalsh(smaller.double())[:, -1].clamp(min=0).sqrt().to(full.dtype)


def _by_power_iteration(at: Linearization, iterations: int, generator: Generator | None) -> Tensor:
    engine = DoubleBackward()
    row = _unit([_random.normal(at.z.shape, at.z, generator)])
    for _ in range(iterations):
        direction = _unit(at.gradient(row[0]))
        row = _unit([engine.column(at, direction).detach()])
    return norms(at.gradient(row[0]))


def _unit(parts: Parts) -> Parts:
    norm = norms(parts)
    scale = torch.where(norm > 0, 1 / norm, 0)
    return [along(scale, part) * part for part in parts]
