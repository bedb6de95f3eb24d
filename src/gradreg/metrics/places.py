"""Points to measure at besides the data: between data points, far from them, and on closed curves through them."""

import math
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Generator, Tensor

from gradreg import _checks, _random

P = ParamSpec("P")


def _ordinary(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Points to differentiate at, also where the caller is in `torch.inference_mode`; without a graph."""

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return make(*args, **kwargs)

    return made


@_ordinary
def interpolated(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """One point for each, ``x_i + t (x_j - x_i)``, with another one j and t in [0, 1] at random.

    Args:
        x: points (N, ...), at least two.
        generator: draws them.

    Returns:
        As x.

    Raises:
        ValueError: fewer than two points.

    Example:
        >>> gr.metrics.jacobian_norms(model, gr.metrics.interpolated(x_test)).mean()

    Source: points between as in Gulrajani et al. 2017, there between real and generated ones.
    """
    count = _several(x, "interpolated")
    others = (torch.arange(count, device=x.device) + 1 + _random.integers(count - 1, (count,), x, generator)) % count
    device = x.device if generator is None else generator.device
    t = torch.rand((count,), generator=generator, dtype=x.dtype, device=device).to(x.device)
    return torch.lerp(x, x[others], t.reshape(-1, *[1] * (x.ndim - 1)))


@_ordinary
def noise(x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Points without structure: each entry from N(m, s^2) with the mean m and deviation s of that entry over the data.

    Args:
        x: points (N, ...), at least two.
        generator: draws them.

    Returns:
        As x.

    Raises:
        ValueError: fewer than two points.

    Example:
        >>> gr.metrics.jacobian_norms(model, gr.metrics.noise(x_test)).mean()
    """
    _several(x, "noise")
    deviation, mean = torch.std_mean(x, 0)
    return mean + deviation * _random.normal(x.shape, x, generator)


@_ordinary
def neighbours(x: Tensor, *, apart: float = 0.0, chunk: int = 1024) -> Tensor:
    """The nearest other point of each, of those that are farther than ``apart`` from it, in L2 norm.

    Args:
        x: points (N, ...), at least two.
        apart: points that are no farther count as the same place.
        chunk: number of points whose distances to all are held at a time.

    Returns:
        As x.

    Raises:
        ValueError: fewer than two points, or none that is far enough.

    Example:
        >>> gr.metrics.neighbours(torch.tensor([[0.0], [0.0], [1.0], [5.0]])).flatten().tolist()
        [1.0, 1.0, 0.0, 1.0]
    """
    _several(x, "neighbours")
    _checks.not_negative(apart, "apart", "neighbours")
    _checks.positive_integer(chunk, "chunk", "neighbours")
    flat = x.detach().flatten(1)
    found = []
    for part in flat.split(chunk):
        # By matrix products small distances would be rounded off.
        distances = torch.cdist(part, flat, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.masked_fill(distances <= apart, math.inf).min(1)
        if bool(nearest.values.isinf().any()):
            raise ValueError(
                f"neighbours got a point that no other one is farther than apart={apart} from. Write a smaller one, or "
                "take out points that come again."
            )
        found.append(nearest.indices)
    return x[torch.cat(found)]


@_ordinary
def ellipse(a: Tensor, b: Tensor, c: Tensor, *, steps: int = 300) -> Tensor:
    """A closed curve through three points: ``(a + b + c)/3 + u cos t + v sin t``, the smallest ellipse around them.

    ``u = (2a - b - c)/3`` and ``v = (b - c)/sqrt(3)``, so that the points are at t = 0, 2 pi/3 and 4 pi/3.

    Args:
        a, b, c: points (...), mostly of the data, of one class or of several.
        steps: number of points on the curve, at equal distances of t; with a multiple of 3 all three are among them.

    Returns:
        (steps, ...); the first follows on the last.

    Raises:
        ValueError: points of different shapes.

    Example:
        >>> curve = gr.metrics.ellipse(x[0], x[1], x[2])
        >>> gr.metrics.jacobian_norms(model, curve).shape
        torch.Size([300])

    Source: Novak et al. 2018, section 4.1.
    """
    _checks.positive_integer(steps, "steps", "ellipse")
    if not a.shape == b.shape == c.shape:
        shapes = ", ".join(str(tuple(point.shape)) for point in (a, b, c))
        raise ValueError(f"ellipse got points of shapes {shapes}; expected three of the same shape: x[0], x[1], x[2].")
    t = torch.arange(steps, dtype=torch.float64, device=a.device) * (2 * math.pi / steps)
    t = t.to(a.dtype).reshape(-1, *[1] * a.ndim)
    return (a + b + c) / 3 + (2 * a - b - c) / 3 * t.cos() + (b - c) / math.sqrt(3) * t.sin()


def _several(x: Tensor, owner: str) -> int:
    _checks.real_tensor(x, "x")
    count = _checks.batch_size(x, "x")
    if count < 2:
        raise ValueError(f"{owner} got one point, of shape {tuple(x.shape)}; expected two or more, (N, ...).")
    return count
