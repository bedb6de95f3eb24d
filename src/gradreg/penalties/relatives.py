"""The relatives of gradient regularization: each a docstring over a composition of the five slots."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gradreg import _checks, _random, _tree
from gradreg._types import Model, Parts
from gradreg.jacobian.engine import Engine, FiniteDifference
from gradreg.jacobian.forward import ForwardPass
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import L1, DistanceToGradients, Masked, Reference, TargetNorm, along, norms
from gradreg.jacobian.projection import Projection
from gradreg.jacobian.site import Input, Site
from gradreg.jacobian.target import Logits, LogProbabilities, Target, as_target
from gradreg.jacobian.teacher import DistanceToTeacher
from gradreg.penalties.base import model_of
from gradreg.penalties.jacobian import JacobianPenalty
from gradreg.penalties.passes import Seen
from gradreg.penalties.presets import DoubleBack
from gradreg.penalties.schedule import Factor


class L1DoubleBack(DoubleBack):
    """``weight * mean_i ||d L_i / d x_i||_1``: the L1 norm of the gradient of each example's loss.

    The dual of perturbations that are bounded in each pixel. Its derivative does not vanish where the gradient is
    small, so let its weight rise slowly: ``ramp=1000``.

    Args:
        weight: multiplies the mean.
        loss, site, engine, every, fraction, ramp, name: see `DoubleBack`.

    Example:
        >>> objective = gr.Objective(torch.nn.functional.cross_entropy, gr.L1DoubleBack(0.3, ramp=1000))

    Cost: 2.0x a plain step at the floor.

    Source: Seck et al. 2019 (L1-norm double backpropagation).
    """

    def __init__(self, weight: float, **others: Any):
        super().__init__(weight, **others)
        self.magnitude = L1()


class DataGrad(DoubleBack):
    """The loss's gradient by a finite difference along the adversarial direction: first-order differentiation only.

    With g_i = d L_i / d x_i, held fixed, and p the distance in each pixel, or in all together:

        norm="l1"    weight * mean_i |L_i(x_i + p sign(g_i)) - L_i(x_i)| / p             about ||g_i||_1
        norm="l2"    weight * mean_i ((L_i(x_i + p g_i / ||g_i||) - L_i(x_i)) / p)^2     about ||g_i||^2

    With "l1" this is adversarial training by the fast gradient sign method, up to the loss of the clean inputs.

    Args:
        weight: multiplies the mean.
        norm: which.
        step: p, in units of the inputs: in each entry for "l1", as an L2 distance for "l2". It is the scale at which
            the loss is made flat: see docs/engines.md on why it should not be small on nets with kinks.
        loss, every, fraction, ramp, name: see `DoubleBack`.

    Raises:
        ValueError: an unknown norm, or a step that is not > 0.
        TypeError: an engine; it is a finite difference.

    Example:
        >>> objective = gr.Objective(torch.nn.functional.cross_entropy, gr.DataGrad(0.3, step=0.1))

    Cost: 2.33x a plain step at the floor: forward, gradient, forward, and the backward pass of both.

    Source: Ororbia et al. 2016 (DataGrad), whose L2 form moves along g_i itself; the paper's section 3.
    """

    def __init__(self, weight: float, *, norm: Literal["l1", "l2"] = "l1", step: float = 0.1, **others: Any):
        _checks.choice(norm, ("l1", "l2"), "norm", "DataGrad")
        _refuse_engine(others, "DataGrad")
        super().__init__(weight, engine=_PerEntry(step) if norm == "l1" else FiniteDifference(step), **others)
        if norm == "l1":
            self.magnitude = L1()


class _PerEntry(FiniteDifference):
    """Finite differences whose step is the distance in each entry of the input, along signs."""

    def _factors(self, at: Linearization, direction: Parts) -> Tensor:
        assert self.step is not None
        return torch.full_like(norms(direction), self.step)

    def explain(self, error: Exception, suspects: Sequence[str] = ()) -> Exception:
        return FiniteDifference(self.step).explain(error, suspects)

    def __repr__(self) -> str:
        return f"FiniteDifference({self.step:g} in each entry)"


def _refuse_engine(others: dict[str, Any], owner: str) -> None:
    """For penalties that are a finite difference by their formula."""
    if "engine" in others:
        raise TypeError(
            f"{owner} got engine={others['engine']!r}, but it is a finite difference and takes a step alone: "
            f"gr.{owner}(0.3, step=0.1). With a choice of engines write gr.DoubleBack(0.3, engine=...)."
        )


class ScaleableDoubleBack(DoubleBack):
    """``weight * mean_i ((L_i(x_i + h u_i) - L_i(x_i)) / h)^2``, u_i the unit vector along d L_i / d x_i, held fixed.

    `DoubleBack` by first-order differentiation, for networks whose double backward pass does not fit or does not exist:
    `DoubleBack` with ``engine=FiniteDifference(step=h)``.

    Args:
        weight: multiplies the mean.
        step: h, an L2 distance in units of the inputs; see docs/engines.md.
        loss, every, fraction, ramp, name: see `DoubleBack`.

    Raises:
        ValueError: a step that is not > 0.
        TypeError: an engine; it is a finite difference.

    Example:
        >>> objective = gr.Objective(torch.nn.functional.cross_entropy, gr.ScaleableDoubleBack(1.0, step=0.5))

    Cost: 2.33x a plain step at the floor.

    Source: Finlay & Oberman 2021, whose weight carries a 1/2.
    """

    def __init__(self, weight: float, *, step: float = 0.5, **others: Any):
        _refuse_engine(others, "ScaleableDoubleBack")
        super().__init__(weight, engine=FiniteDifference(step), **others)


class RightReasons(JacobianPenalty):
    """``weight * mean_i sum_d (A_id * d/dx_id sum_k log p_ik)^2``: the gradient of the summed log-probabilities.

    Makes explanations by input gradients sparse and smooth, or, with a mask A, keeps a network from looking at inputs
    that are known not to matter. It needs no labels.

    Args:
        weight: multiplies the mean; the source sums over examples.
        mask: A, 1 where the network must not look; see `Masked`. Default: everywhere.
        class_dim: the dimension of the classes; by default 1, except that 3-dimensional outputs ask for it.
        site, engine, every, fraction, ramp, name: see `JacobianPenalty`.

    Example:
        >>> border = torch.ones(8)
        >>> border[:2] = 0
        >>> gr.RightReasons(0.1, mask=border)(model, x).backward()

    Cost: 2.0x a plain step at the floor.

    Source: Ross et al. 2017 (right for the right reasons); without a mask Ross & Doshi-Velez 2018, whose other form,
    the gradient of the cross-entropy, is `DoubleBack`.
    """

    def __init__(
        self, weight: float, *, mask: Tensor | Reference | None = None, class_dim: int | None = None, **others: Any
    ):
        log_probabilities = LogProbabilities(class_dim)

        def summed(outputs: Any) -> Tensor:
            return log_probabilities(outputs, None).flatten(1).sum(1)

        super().__init__(weight, target=summed, magnitude=None if mask is None else Masked(mask), **others)


class Sobolev(JacobianPenalty):
    """``weight * mean_i ||w^T (J(x_i) - G(x_i))||^2``: teaches the derivatives of a teacher, or of an oracle.

    The outputs themselves are taught by the task's loss, as ever.

    Args:
        weight: multiplies the mean.
        teacher: a model in evaluation mode; G is its Jacobian, taken along the rows alone.
        oracle: in its place ``oracle(x, y)`` that returns G, (B, *z.shape[1:], *x.shape[1:]).
        target: what is differentiated, of model and teacher. Default: `Logits()`.
        projection: which rows; `Sphere()`, say, for the stochastic form, which for a teacher costs one row whatever the
            number of outputs. Default: `Full()`.
        site: with respect to what, of model and teacher; `Hidden` names submodules of both. Default: `Input()`.
        engine, every, fraction, ramp, name: see `JacobianPenalty`.

    Raises:
        TypeError: neither a teacher nor an oracle, or both.
        ValueError: see `DistanceToTeacher` and `DistanceToGradients`.

    Example:
        >>> teacher = torch.nn.Linear(8, 3).eval()
        >>> gr.Sobolev(0.1, teacher=teacher, projection=gr.Sphere())(model, x).backward()

    Cost: with one row 2.0x a plain step at the floor, and a forward and a backward pass of the teacher.

    Source: Czarnecki et al. 2017 (Sobolev training); the paper's section 3.
    """

    def __init__(
        self,
        weight: float,
        *,
        teacher: Model | None = None,
        oracle: Reference | None = None,
        target: Target | Callable[..., Tensor] | None = None,
        projection: Projection | None = None,
        site: Site | None = None,
        **others: Any,
    ):
        if (teacher is None) == (oracle is None):
            raise TypeError(
                "Sobolev needs either a teacher or an oracle: write gr.Sobolev(0.1, teacher=model), or "
                "gr.Sobolev(0.1, oracle=lambda x, y: jacobian_of_the_truth)."
            )
        goal = as_target(target if target is not None else Logits())
        place = site if site is not None else Input()
        magnitude = DistanceToGradients(oracle) if oracle is not None else DistanceToTeacher(teacher, goal, place)  # type: ignore[arg-type]
        super().__init__(weight, target=goal, site=place, projection=projection, magnitude=magnitude, **others)


class GradientPenalty(JacobianPenalty):
    """``weight * mean_i (||w^T J(m_i)|| - norm)^2`` at points m_i between examples: ``m_i = e_i x_i + (1 - e_i) x'_i``.

    e_i is uniform in [0, 1]. x' are the examples of the batch in random order, or what ``others`` gives: the generated
    ones, for the critic of a GAN. The network runs once more, on the points between; what needs labels is refused, for
    they have none. Layers of batch normalization see them as a batch of its own, and move their running averages.

    Args:
        weight: multiplies the mean; 10 in the source.
        norm: the target norm.
        one_sided: leave gradients shorter than that alone.
        others: ``others(x)`` returns the other ends x', shaped as x.
        target, projection, engine, every, fraction, ramp, name: see `JacobianPenalty`. For a critic with one output the
            default is the gradient itself; for a classifier `TopK()` is that of its highest score.

    Raises:
        ValueError: a target or a projection that needs labels; inputs that are not floating-point numbers.

    Example:
        >>> critic = torch.nn.Linear(8, 1)
        >>> generated = torch.randn(4, 8)
        >>> gr.GradientPenalty(10, others=lambda real: generated)(critic, x).backward()

    Cost: 3.0x a plain step at the floor: a forward pass on other points, its gradient, and the backward pass of both.

    Source: Gulrajani et al. 2017 (WGAN-GP), also one-sided; the paper's section 3.
    """

    apart = False

    def __init__(
        self,
        weight: float,
        *,
        norm: float = 1.0,
        one_sided: bool = False,
        others: Callable[[Any], Any] | None = None,
        target: Target | Callable[..., Tensor] | None = None,
        projection: Projection | None = None,
        engine: Engine | Literal["auto"] | None = None,
        every: int = 1,
        fraction: float = 1.0,
        ramp: Factor | int | None = None,
        name: str | None = None,
    ):
        super().__init__(
            weight,
            target=target,
            projection=projection,
            engine=engine,
            magnitude=TargetNorm(norm, one_sided),
            every=every,
            fraction=fraction,
            ramp=ramp,
            name=name,
        )
        self.others = others
        if self.needs_labels:
            slot = self.target if self.target.needs_labels else self.projection
            raise ValueError(
                f"GradientPenalty got {slot!r}, which needs labels, but points between examples have none. Write "
                "projection=gr.TopK(), the gradient of the highest score."
            )
        self.sites = ()

    @property
    def repeats(self) -> bool:
        """Of the forward pass of the task never, for it is not differentiated."""
        return False

    def _linearize(self, seen: Seen) -> Linearization:
        model = model_of(seen, self)
        between = self._between(seen)
        forward = ForwardPass(model, between, [self.site], repeatable=self.engine.repeats)
        return Linearization.of_pass(forward, self.target, None, self.site)

    def _between(self, seen: Seen) -> Any:
        """The points between examples, drawn."""
        found = dict(_tree.tensors(seen.x))
        for path, tensor in found.items():
            _checks.real_tensor(tensor, f"x[{path!r}]" if path else "x", _checks.BETWEEN)
        first = next(iter(found.values()), None)
        if first is None:
            raise TypeError(f"GradientPenalty got inputs of type {type(seen.x).__name__}; expected tensors.")
        batch = _checks.batch_size(first, "x")
        order = _random.normal((batch,), first.detach(), seen.generator).argsort()
        # Uniform, from the normal numbers that all draws are made of.
        part = 0.5 * (1 + torch.erf(_random.normal((batch,), first.detach(), seen.generator) / 2**0.5))
        ends = dict(_tree.tensors(self.others(seen.x))) if self.others is not None else {}

        def mixed(path: str, tensor: Tensor) -> Tensor:
            other = ends[path] if self.others is not None else tensor[order]
            if other.shape != tensor.shape:
                raise ValueError(
                    f"GradientPenalty got other ends of shape {tuple(other.shape)} for inputs of shape "
                    f"{tuple(tensor.shape)}; expected the same."
                )
            e = along(part, tensor)
            return (e * tensor + (1 - e) * other).detach()

        return _tree.replace(seen.x, mixed)
