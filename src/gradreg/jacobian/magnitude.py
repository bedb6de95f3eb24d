"""Magnitude slot: how a projected Jacobian becomes one number for each example.

A projected Jacobian has rows, each a gradient (a list of tensors (B, ...), one per tensor of the site). A magnitude
measures a row, adds the measures of the rows, and finishes the sum:

    SquaredL2            sum of squares              as it is
    L1                   sum of absolute values      as it is
    TargetNorm(c)        sum of squares              (square root - c)^2, or one-sided
    DistanceToGradients  squares of (row - given)    as it is
    DistanceToTeacher    (in `gradreg.jacobian.teacher`) the same, with the rows of another model
    Masked               sum of squares of A * row   as it is

Engines that only see directional derivatives ask for the direction in which the row's measure shows: along
u = row/||row|| the derivative is ||row||, along sign(row) it is the L1 norm.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradreg import _checks
from gradreg._types import Parts

Reference = Callable[[Any, Any], Tensor]


class Magnitude(ABC):
    """From rows of a projected Jacobian to one number per example."""

    additive: ClassVar[bool] = True
    """Whether `finish` leaves the sum over rows as it is."""

    of_rows: ClassVar[bool] = False
    """Whether it measures rows ``w^T J`` alone, not columns ``J v``."""

    def reference(self, x: Any, y: Any) -> Any:
        """A Jacobian to subtract first: (B, *z.shape[1:], *x.shape[1:]), or a `Linearization`; none for most."""
        return None

    def of_batch(self, x: Any, y: Any) -> "Magnitude":
        """The magnitude for this batch; itself for most."""
        return self

    def measure(self, row: Parts) -> Tensor:
        """Measure of one row, (B,), in float32 or better."""
        return _add([(flat(wide(part)) ** 2).sum(1) for part in row])

    def direction(self, row: Parts) -> Parts:
        """The direction u in which the directional derivative u . row shows the measure; 0 where the row is 0."""
        norm = norms(row)
        scale = torch.where(norm > 0, 1 / norm, 0)
        return [part * along(scale, part) for part in row]

    def measure_derivative(self, derivative: Tensor) -> Tensor:
        """The measure from the derivative (B,) along `direction`."""
        return derivative**2

    @abstractmethod
    def finish(self, total: Tensor) -> Tensor:
        """The magnitude (B,) from the sum over rows of their measures (B,)."""


@dataclass(frozen=True)
class SquaredL2(Magnitude):
    """Squared L2 norm: ``sum of squares`` of all entries; the squared Frobenius norm for the full Jacobian.

    Example:
        >>> gr.JacobianPenalty(0.03, magnitude=gr.SquaredL2())(model, x).backward()    # FrobReg

    Source: the paper's section 2.1.
    """

    def finish(self, total: Tensor) -> Tensor:
        """The sum of squares itself."""
        return total


@dataclass(frozen=True)
class L1(Magnitude):
    """L1 norm: ``sum of absolute values`` of all entries.

    Example:
        >>> gr.JacobianPenalty(0.1, target=gr.Loss(cross_entropy), magnitude=gr.L1())(model, x, y).backward()
    """

    def measure(self, row: Parts) -> Tensor:
        """Sum of absolute values, (B,)."""
        return _add([flat(wide(part)).abs().sum(1) for part in row])

    def direction(self, row: Parts) -> Parts:
        """The sign of each entry."""
        return [part.sign() for part in row]

    def measure_derivative(self, derivative: Tensor) -> Tensor:
        """The derivative along the signs is the L1 norm itself."""
        return derivative.abs()

    def finish(self, total: Tensor) -> Tensor:
        """The sum itself."""
        return total


@dataclass(frozen=True)
class TargetNorm(Magnitude):
    """Squared distance of the L2 norm to a target: ``(||row|| - norm)^2``, or ``max(0, ||row|| - norm)^2``.

    Args:
        norm: the target, >= 0, in units of z per unit of x.
        one_sided: leave gradients shorter than the target alone.

    Example:
        >>> gr.JacobianPenalty(10, target=lambda z: z[:, 0], magnitude=gr.TargetNorm(1.0))(model, x).backward()

    Source: Gulrajani et al. 2017 (two-sided, norm 1); the paper's section 3.
    """

    norm: float = 1.0
    one_sided: bool = False
    additive = False

    def __post_init__(self) -> None:
        _checks.not_negative(self.norm, "norm", "TargetNorm")

    def finish(self, total: Tensor) -> Tensor:
        """Squared distance of the root to the target."""
        # The root has no derivative at 0; there the gradient of the norm is taken as 0.
        positive = total > 0
        norm = torch.where(positive, torch.where(positive, total, 1).sqrt(), 0)
        distance = norm - self.norm
        return (distance.clamp(min=0) if self.one_sided else distance) ** 2


@dataclass(frozen=True)
class DistanceToGradients(Magnitude):
    """Squared L2 distance of the projected Jacobian to a given one: ``||w^T (J - G)||^2``.

    Args:
        gradients: ``gradients(x, y)`` returns G of shape (B, *z.shape[1:], *x.shape[1:]): a teacher's Jacobian or an
            oracle's derivatives; one tensor as site. y is None for a batch without labels, such as the ``unlabeled``
            inputs of an `Objective`.

    Example:
        >>> slope = lambda x, y: 5 * torch.cos(5 * x)[:, None]      # the derivative of sin(5x), z and x of shape (B, 1)
        >>> gr.JacobianPenalty(0.1, projection=gr.Full(), magnitude=gr.DistanceToGradients(slope))

    Source: Czarnecki et al. 2017 (Sobolev training); the paper's section 3.
    """

    gradients: Reference

    def reference(self, x: Any, y: Any) -> Tensor:
        """G for this batch, without a graph."""
        return self.gradients(x, y).detach()

    def finish(self, total: Tensor) -> Tensor:
        """The sum of squares itself."""
        return total


@dataclass(frozen=True, eq=False)
class Masked(Magnitude):
    """Squared L2 norm of the entries that a mask lets through: ``sum_d (A_d * row_d)^2``.

    Args:
        mask: A, a tensor that broadcasts to the site's tensor (B, ...), such as (1, H, W) for images; or a function
            ``mask(x, y)`` of the batch that returns one; y is None for a batch without labels, such as the
            ``unlabeled`` inputs of an `Objective`. 1 where the model must not look, 0 where it may.

    Raises:
        ValueError: a site of several tensors, or a mask of another shape.

    Example:
        >>> border = torch.ones(8)                                   # inputs (B, 8): the first two may matter
        >>> border[:2] = 0
        >>> gr.JacobianPenalty(1.0, magnitude=gr.Masked(border))(model, x).backward()

    Source: the annotation matrix A of Ross et al. 2017 (right for the right reasons).
    """

    mask: Tensor | Reference
    of_rows = True

    def of_batch(self, x: Any, y: Any) -> "Masked":
        """With the mask of this batch."""
        return Masked(self.mask(x, y).detach()) if callable(self.mask) else self

    def measure(self, row: Parts) -> Tensor:
        """Sum of squares of what the mask lets through, (B,)."""
        return super().measure([self._through(row)])

    def direction(self, row: Parts) -> Parts:
        """``A * A * row / ||A * row||``: along it the derivative is the norm of what the mask lets through."""
        through = super().direction([self._through(row)])
        return [self._through(through)]

    def finish(self, total: Tensor) -> Tensor:
        """The sum of squares itself."""
        return total

    def _through(self, row: Parts) -> Tensor:
        assert isinstance(self.mask, Tensor)
        if len(row) != 1:
            raise ValueError(f"Masked needs a site of one tensor, got {len(row)}; name it: site=gr.Input('image').")
        given = row[0]
        try:
            fits = torch.broadcast_shapes(self.mask.shape, given.shape) == given.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"Masked got a mask of shape {tuple(self.mask.shape)} for inputs of shape {tuple(given.shape)}; "
                f"expected {tuple(given.shape[1:])}, one for all examples, or {tuple(given.shape)}, one for each."
            )
        return given * self.mask.to(given)

    def __repr__(self) -> str:
        shown = f"of shape {tuple(self.mask.shape)}" if isinstance(self.mask, Tensor) else repr(self.mask)
        return f"Masked({shown})"


def wide(tensor: Tensor) -> Tensor:
    """At least float32: squares of half-precision gradients under- and overflow."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def flat(tensor: Tensor) -> Tensor:
    """(B, ...) as (B, n), also for (B,)."""
    return tensor.reshape(tensor.shape[0], -1)


def norms(parts: Parts) -> Tensor:
    """L2 norm of each example over all parts together, (B,)."""
    return _add([(flat(wide(part)) ** 2).sum(1) for part in parts]).sqrt()


def along(per_example: Tensor, part: Tensor) -> Tensor:
    """(B,) shaped so that it multiplies (B, ...), in the latter's dtype."""
    return per_example.to(part.dtype).reshape(-1, *[1] * (part.ndim - 1))


def _add(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
