"""A model along curves: how much it changes from point to point, against what its slopes at the points say."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradreg import _checks
from gradreg._types import Model
from gradreg.jacobian.engine import DoubleBackward
from gradreg.jacobian.magnitude import along, norms
from gradreg.jacobian.target import Logits, Target, as_target
from gradreg.metrics._chunks import in_chunks, linearized

_RECTIFIERS = frozenset(
    {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.leaky_relu, F.leaky_relu_, F.prelu, torch.prelu}
    | {F.rrelu, torch.rrelu, torch.rrelu_}
)


def transitions(model: Model, curve: Tensor, *, closed: bool = False, chunk: int = 256) -> Tensor:
    """How many ReLU units switch between neighbouring points of a curve: ``sum_units |c(p_i) - c(p_{i+1})|``.

    ``c`` says of each unit whether its input is positive. A model of linear and ReLU layers is linear where c is
    constant; on a fine curve the total counts the borders of linear regions that it crosses.

    Args:
        model: a module (its mode is put back afterwards) or a function, run as it is, with ReLU, leaky ReLU or PReLU,
            as layers or as functions. Kinks of other operations, such as max pooling or clamp, are not counted.
        curve: points (K, ...), in their order, such as an `ellipse`.
        closed: whether the first point follows on the last.
        chunk: number of points at a time.

    Returns:
        (K - 1,) counts, int64; (K,) for a closed curve. Where the curve crosses a border twice between two points, both
        are missed: take more points until the sum stays.

    Raises:
        ValueError: a model that rectifies nothing, a curve of one point.

    Example:
        >>> relu = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        >>> int(gr.metrics.transitions(relu, gr.metrics.ellipse(x[0], x[1], x[2]), closed=True).sum()) % 2
        0

    Source: Novak et al. 2018, section 3.
    """
    if isinstance(curve, Tensor) and curve.ndim > 0 and curve.shape[0] < 2:
        raise ValueError(
            f"transitions got a curve of shape {tuple(curve.shape)}; expected two points or more, (K, ...)."
        )
    ahead = torch.cat([curve[1:], curve[:1]]) if closed else curve[1:]

    def measure(points: Tensor, following: Tensor) -> Tensor:
        changed = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
        for before, after in zip(_patterns(model, points), _patterns(model, following), strict=True):
            changed += (before != after).sum(1)
        return changed

    return in_chunks(model, curve if closed else curve[:-1], ahead, chunk, measure, gradients=False)


@dataclass(frozen=True, eq=False)
class Segments:
    """What a model does between pairs of points, and what its slopes at their ends say, each (P,).

    Attributes:
        at_ends: ``(||J(a) e|| + ||J(b) e||) / 2`` with ``e = (b - a) / ||b - a||``: the slope at the ends, along the
            segment.
        between: length of the way of the outputs from a to b, over ``||b - a||``: the mean slope on the segment.
        chord: ``||g(b) - g(a)|| / ||b - a||``, which no way is shorter than.
    """

    at_ends: Tensor
    between: Tensor
    chord: Tensor

    @property
    def ratio(self) -> float:
        """Mean of ``between`` over mean of ``at_ends``: 1 for a linear model, large for a function of steps."""
        return float(self.between.double().mean() / self.at_ends.double().mean())


def segments(
    model: Model,
    a: Tensor,
    b: Tensor,
    *,
    steps: int = 32,
    target: Target | Callable[..., Tensor] | None = None,
    chunk: int = 256,
) -> Segments:
    """Whether slopes that are small at points are small between them too.

    A network that is flat at the training points a and b and jumps between them has small slopes at the ends, but the
    way of its outputs is at least as long as their distance: ``ratio`` shows it, however thin the jump.

    Args:
        model: a module (its mode is put back afterwards) or a function, run as it is.
        a, b: points (P, ...), mostly training points and their `neighbours`, or two random halves of them.
        steps: pieces of equal length that the segment is divided into; fewer give a shorter way, but never one that is
            shorter than the chord.
        target: `Logits()` by default.
        chunk: number of pairs at a time.

    Returns:
        `Segments`.

    Raises:
        ValueError: points of different shapes, pairs of twice the same point, batch normalization without running
            statistics.

    Example:
        >>> gr.metrics.segments(model, x, gr.metrics.neighbours(x)).ratio

    Source: the objection of the paper's section 4.7, as a number.
    """
    _checks.positive_integer(steps, "steps", "segments")
    for ends, where in ((a, "a"), (b, "b")):
        _checks.ordinary_tensor(ends, where)
    if a.shape != b.shape:
        raise ValueError(f"segments got points of shapes {tuple(a.shape)} and {tuple(b.shape)}; expected the same.")
    chosen = as_target(target or Logits())

    def measure(start: Tensor, end: Tensor) -> Tensor:
        distance = norms([end - start])
        if bool((distance == 0).any()):
            raise ValueError(
                "segments got a pair of twice the same point, which has no direction. Pair each point with another "
                "one: gr.metrics.neighbours(x)."
            )
        unit = along(1 / distance, start) * (end - start)
        slopes = [_slope(model, point, unit, chosen) for point in (start, end)]
        with torch.no_grad():
            way, first, last = _way(lambda t: chosen(model(torch.lerp(start, end, t)), None), steps)
        return torch.stack([(slopes[0] + slopes[1]) / 2, way / distance, norms([last - first]) / distance], 1)

    return Segments(*in_chunks(model, a, b, chunk, measure).unbind(1))


def _slope(model: Model, x: Tensor, direction: Tensor, target: Target) -> Tensor:
    column = DoubleBackward().column(linearized(model, x, None, target, None), [direction])
    return norms([column.detach()])


def _way(at: Callable[[float], Tensor], steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Length of the polygon through the values at 0, 1/steps, ..., 1; the first and the last value."""
    first = last = at(0.0)
    way = torch.zeros_like(norms([first]))
    for step in range(1, steps + 1):
        following = at(step / steps)
        way = way + norms([following - last])
        last = following
    return way, first, last


def _patterns(model: Model, x: Tensor) -> Iterator[Tensor]:
    with _watched() as patterns:
        model(x)
    if not patterns:
        raise ValueError(
            "transitions found no unit that rectifies (ReLU, leaky ReLU, PReLU) in a run of the model, so it has no "
            "linear regions to count. For smooth models measure gr.metrics.jacobian_norms along the curve."
        )
    return iter(patterns)


@contextmanager
def _watched() -> Iterator[list[Tensor]]:
    """Notes of each rectifier which of its inputs are positive, (B, units), in the order of their calls."""
    patterns: list[Tensor] = []

    class Watching(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in _RECTIFIERS:
                given = args[0] if args else kwargs["input"]
                patterns.append((given > 0).reshape(len(given), -1))
            return func(*args, **kwargs)

    with Watching():
        yield patterns
