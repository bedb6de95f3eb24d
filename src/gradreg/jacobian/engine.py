"""Engine slot: how products with the Jacobian are differentiated with respect to the parameters.

| engine           | row w^T J on the output side     | probe J v on the input side    | the model must have    |
|------------------|----------------------------------|--------------------------------|------------------------|
| DoubleBackward   | a backward pass with a graph:    | two such passes: exact         | double backward        |
|                  | exact                            |                                |                        |
| ForwardMode      | g = J^T w without a graph, then  | a forward pass with a tangent: | forward-mode rules and |
|                  | a tangent along g/||g||: exact   | exact                          | their backward         |
| FiniteDifference | the same with a second, shifted  | a second, shifted forward pass | nothing more than a    |
|                  | forward pass                     |                                | first derivative       |

The last two see J only along a direction u in the input. With g = J^T w and u = g/||g|| held fixed, (w^T J u)^2 has
the value and the parameter gradient of ||J^T w||^2, since the derivative of a norm is the derivative along it.

Batch normalization in training mode couples examples. DoubleBackward differentiates through the batch statistics, as
the paper's code does; ForwardMode and FiniteDifference hold them fixed.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradreg import _checks
from gradreg._types import Parts
from gradreg.jacobian._refusals import translated
from gradreg.jacobian.forward import shift
from gradreg.jacobian.linearization import Linearization, dot
from gradreg.jacobian.magnitude import Magnitude, along, norms, wide


class Engine(ABC):
    """Measures rows ``w^T J`` and columns ``J v`` of the Jacobian, differentiably in the parameters."""

    repeats = False
    """Whether the engine runs the model again."""

    @abstractmethod
    def measure_row(self, at: Linearization, row: Tensor, magnitude: Magnitude, given: Parts | None) -> Tensor:
        """The magnitude's measure of ``J^T row - given``, (B,)."""

    @abstractmethod
    def column(self, at: Linearization, direction: Parts) -> Tensor:
        """``J direction``, shaped as z, differentiable in the parameters."""

    def explain(self, error: Exception, suspects: Sequence[str] = ()) -> Exception:
        """The error to show for one that torch raised while this engine differentiated.

        Args:
            error: torch's.
            suspects: operations that are known to lack what the engine needs, for an error that names none.
        """
        if "fabric.backward(" in str(error):  # from a hook of Lightning Fabric on what its modules return
            error.add_note("Under Fabric's precision penalties work by gradreg.integrations.fabric.RegularizedStep.")
        if (known := translated(error, f"{type(self).__name__}()")) is not None:
            return known
        if isinstance(error, _checks.UnsupportedOperationError) or not _checks.speaks_of_missing_derivative(error):
            return error
        return _checks.unsupported(error, f"{type(self).__name__}()", self._others(), suspects)

    def _others(self) -> str:
        return "engine=gr.FiniteDifference(), which needs first-order differentiation only"


@dataclass(frozen=True)
class DoubleBackward(Engine):
    """Reverse mode over reverse mode: exact, one extra backward pass per row; works from outputs alone.

    Example:
        >>> gr.SpectReg(0.03, engine=gr.DoubleBackward())(model, x).backward()

    Cost: a step with one row takes 2.0x the floating-point operations of a plain step.

    Raises:
        UnsupportedOperationError: an operation without a double backward, named; at the first call.

    Source: Drucker & LeCun 1991; the paper's appendix A.
    """

    def measure_row(self, at: Linearization, row: Tensor, magnitude: Magnitude, given: Parts | None) -> Tensor:
        """See `Engine.measure_row`."""
        return magnitude.measure(_minus(at.gradient(row, create_graph=True), given))

    def column(self, at: Linearization, direction: Parts) -> Tensor:
        """``J v`` as the derivative of ``u -> J^T u`` along v."""
        probe, gradient = at.transposed
        reached = [(g, v) for g, v in zip(gradient, direction, strict=True) if g.requires_grad]
        with at.of_rows():
            grads = torch.autograd.grad([g for g, _ in reached], probe, [v for _, v in reached], create_graph=True)
        return grads[0]


@dataclass(frozen=True)
class ForwardMode(Engine):
    """Forward mode inside a backward pass: exact, and needs no double backward.

    Example:
        >>> gr.SpectReg(0.03, engine=gr.ForwardMode())(model, x).backward()

    Cost: a probe on the input side 2.0x a plain step at the floor, a row on the output side 3x. The model is run once
    more, with the same dropout mask; batch statistics are held fixed.

    Raises:
        UnsupportedOperationError: an operation without a forward-mode rule, named.

    Source: Pearlmutter 1994 (the R-operator).
    """

    repeats = True

    def measure_row(self, at: Linearization, row: Tensor, magnitude: Magnitude, given: Parts | None) -> Tensor:
        """See `Engine.measure_row`."""
        return _measure_along(self, at, row, magnitude, given)

    def column(self, at: Linearization, direction: Parts) -> Tensor:
        """The tangent of z when the site's tangent is the direction."""
        return self.along(at, direction)[1]

    def along(self, at: Linearization, direction: Parts) -> tuple[Tensor, Tensor]:
        """z of a run that carries the direction as a tangent, and the tangent of z."""

        def moved(distance: Tensor) -> Tensor:
            return at.elsewhere(lambda x, v: x + distance.to(v.dtype) * v, direction, tangents=True).z

        # torch.func.jvp, not torch.autograd.forward_ad: the latter's softmax overwrites what its backward needs
        # (pytorch issue 162350).
        zero = torch.zeros((), dtype=at.z.dtype, device=at.z.device)
        with warnings.catch_warnings():
            # torch's own rules are compiled at the first call with a function that torch deprecates.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.script`", category=DeprecationWarning)
            return torch.func.jvp(moved, (zero,), (torch.ones_like(zero),))  # type: ignore[return-value]


@dataclass(frozen=True)
class FiniteDifference(Engine):
    """Differences of two forward passes a short step apart: first-order differentiation only.

    ``J v ~ (z(x + t v) - z(x)) / t`` (error of order t), or ``(z(x + t v) - z(x - t v)) / 2t`` (order t^2), with
    ``t = step / ||v||`` for each example. Both passes share the dropout mask and the batch statistics.

    On nets with kinks (ReLU, max pooling) the value is right to a few percent but the parameter gradient is not: each
    kink between the two points adds a term of order 1/step that the exact derivative lacks. It is then a smoothness
    penalty at the scale ``step``: choose that scale (0.1 to 1 on standardized images of 28 x 28), do not shrink it,
    prefer smooth activations, and prefer the exact engines where they work. See docs/engines.md.

    Args:
        step: distance between the two points in L2 norm, in units of the site. None: the cube root of the rounding
            error of z times the root mean square norm of the batch: 0.005 ||x|| in float32, 0.14 on standardized
            MNIST. That is the best step of the central difference on a smooth net; the one-sided one would be a little
            more accurate with a smaller step, but on nets with kinks such a step costs the gain in accuracy.
        central: the symmetric difference, at one more forward and backward pass.

    Example:
        >>> gr.SpectReg(0.03, engine=gr.FiniteDifference(step=0.3))(model, x).backward()

    Cost: a row on the output side 2.33x a plain step at the floor, a probe on the input side 2.0x.

    Source: design of DataGrad in Ororbia et al. 2017; the paper's section 3.
    """

    step: float | None = None
    central: bool = False
    repeats = True

    def __post_init__(self) -> None:
        if self.step is not None:
            _checks.not_negative(self.step, "step", "FiniteDifference")
            if self.step == 0:
                raise ValueError(
                    "FiniteDifference got step=0; write a distance > 0, or None for one that suits the dtype."
                )

    def measure_row(self, at: Linearization, row: Tensor, magnitude: Magnitude, given: Parts | None) -> Tensor:
        """See `Engine.measure_row`."""
        return _measure_along(self, at, row, magnitude, given)

    def column(self, at: Linearization, direction: Parts) -> Tensor:
        """The difference quotient along the direction."""
        t = self._factors(at, direction)
        ahead = at.elsewhere(shift, [along(t, v) * v for v in direction]).z
        behind = at.elsewhere(shift, [along(-t, v) * v for v in direction]).z if self.central else at.z
        difference = wide(ahead) - wide(behind)
        return difference / along(2 * t if self.central else t, difference)

    def _factors(self, at: Linearization, direction: Parts) -> Tensor:
        """What the direction of each example is multiplied by, (B,)."""
        length = norms(direction)
        return torch.where(length > 0, self._distance(at) / length, 1)

    def _distance(self, at: Linearization) -> Tensor | float:
        if self.step is not None:
            return self.step
        scale = norms([tensor.detach() for tensor in at.tensors]).square().mean().sqrt()
        # z is rounded to its own dtype (bfloat16 under autocast), whatever the input's.
        rounding = max(torch.finfo(t.dtype).eps for t in (at.z, *at.tensors))
        return torch.where(scale > 0, scale, 1) * rounding ** (1 / 3)

    def _others(self) -> str:
        return "another model: this one has no first derivative either"


def _measure_along(engine: Engine, at: Linearization, row: Tensor, magnitude: Magnitude, given: Parts | None) -> Tensor:
    """Measures a row through the derivative of z along the row's own direction."""
    gradient = _minus(at.uncoupled.gradient(row.detach()), given)
    direction = [part.detach() for part in magnitude.direction(gradient)]
    derivative = dot([row], [engine.column(at, direction)])
    if given is not None:
        derivative = derivative - dot(direction, given)
    return magnitude.measure_derivative(derivative)


def _minus(row: Parts, given: Parts | None) -> Parts:
    return row if given is None else [part - other for part, other in zip(row, given, strict=True)]
