"""The paper's regularizers: each a docstring over a composition of the five slots."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from gradreg._types import LossFunction
from gradreg.jacobian.engine import Engine
from gradreg.jacobian.projection import Full, Normal, Sphere
from gradreg.jacobian.site import Site
from gradreg.jacobian.target import Loss, Probabilities, Target
from gradreg.penalties.jacobian import JacobianPenalty
from gradreg.penalties.passes import Seen
from gradreg.penalties.schedule import Factor


class DoubleBack(JacobianPenalty):
    """Double backpropagation: ``weight * mean_i ||d L_i / d x_i||^2``, L_i the loss of example i alone.

    The oldest gradient regularizer, and the paper's best on MNIST (the paper also calls it DataGrad; `DataGrad` here is
    the form by finite differences). On cross-entropy it measures J_g along p - y, so it fades as the network grows sure
    of its training labels and its best weight is large: 50 on small MNIST (standardized inputs). The loss is never
    averaged over the batch before it is differentiated.

    Args:
        weight: multiplies the mean; no hidden 1/2.
        loss: the loss to differentiate; by default that of the `Objective`, and cross-entropy for class indices where
            the penalty stands alone.
        site, engine, every, fraction, ramp, name: see `JacobianPenalty`.

    Raises:
        ValueError: no labels; or no loss where labels are not class indices.

    Example:
        >>> objective = gr.Objective(torch.nn.functional.cross_entropy, gr.DoubleBack(50))

    Cost: 2.0x a plain step at the floor.

    Source: Drucker & LeCun 1991; the paper's section 2.1 (L_DG), equations (2) to (5), appendix A.
    """

    def __init__(
        self,
        weight: float,
        *,
        loss: LossFunction | None = None,
        site: Site | None = None,
        engine: Engine | Literal["auto"] | None = None,
        every: int = 1,
        fraction: float = 1.0,
        ramp: Factor | int | None = None,
        name: str | None = None,
    ):
        self.loss = loss
        super().__init__(
            weight,
            target=Loss(loss or cross_entropy),
            site=site,
            projection=Full(),
            engine=engine,
            every=every,
            fraction=fraction,
            ramp=ramp,
            name=name,
        )

    def _target(self, seen: Seen) -> Target:
        if self.loss is not None:
            return self.target
        if seen.loss is not None:
            return Loss(seen.loss)
        if isinstance(seen.y, Tensor) and seen.y.is_floating_point():
            raise ValueError(
                f"DoubleBack got labels of dtype {seen.y.dtype} and no loss, and would guess one. Write "
                f"gr.DoubleBack({self.weight:g}, loss=torch.nn.functional.mse_loss), or give it to an Objective."
            )
        return self.target


class JacReg(JacobianPenalty):
    """``weight * mean_i ||J_f(x_i)||_F^2``: squared Frobenius norm of the Jacobian of the probabilities.

    J_f = J_softmax J_g vanishes as the probabilities become sure (equation 1), so this regularizer fades in training.

    Args:
        weight: multiplies the mean; no hidden 1/2.
        class_dim: the dimension of the classes; by default 1, except that 3-dimensional outputs ask for it.
        memory: GiB that rows may hold at one time; see `Full`.
        site, engine, every, fraction, ramp, name: see `JacobianPenalty`.

    Example:
        >>> gr.JacReg(1.0)(model, x)

    Cost: (1 + C)x a plain step for C classes.

    Source: Sokolic et al. 2017; the paper's section 2.1.
    """

    def __init__(
        self,
        weight: float,
        *,
        memory: float = 4.0,
        class_dim: int | None = None,
        site: Site | None = None,
        engine: Engine | Literal["auto"] | None = None,
        every: int = 1,
        fraction: float = 1.0,
        ramp: Factor | int | None = None,
        name: str | None = None,
    ):
        super().__init__(
            weight,
            target=Probabilities(class_dim),
            site=site,
            projection=Full(memory),
            engine=engine,
            every=every,
            fraction=fraction,
            ramp=ramp,
            name=name,
        )


class FrobReg(JacobianPenalty):
    """``weight * mean_i ||J_g(x_i)||_F^2``: squared Frobenius norm of the Jacobian of the logits.

    For a linear layer this is the squared norm of its weights. Twice what `JacobianReg(n=-1)` of Hoffman et al. gives,
    which carries a 1/2: see `gradreg.convert`.

    Args:
        weight: multiplies the mean; no hidden 1/2.
        memory: GiB that rows may hold at one time; see `Full`.
        target, site, engine, every, fraction, ramp, name: see `JacobianPenalty`.

    Example:
        >>> gr.FrobReg(0.03)(model, x)

    Cost: (1 + m)x a plain step for m outputs; `SpectReg` estimates the same for 2x.

    Source: the paper's section 2.1; Jakubovitz & Giryes 2018.
    """

    def __init__(
        self,
        weight: float,
        *,
        memory: float = 4.0,
        target: Target | Callable[..., Tensor] | None = None,
        site: Site | None = None,
        engine: Engine | Literal["auto"] | None = None,
        every: int = 1,
        fraction: float = 1.0,
        ramp: Factor | int | None = None,
        name: str | None = None,
    ):
        super().__init__(
            weight,
            target=target,
            site=site,
            projection=Full(memory),
            engine=engine,
            every=every,
            fraction=fraction,
            ramp=ramp,
            name=name,
        )


class SpectReg(JacobianPenalty):
    """``weight * mean_i ||J_g(x_i)^T r||^2``, r ~ N(0, I): the paper's own regularizer, for any number of outputs.

    An unbiased estimate of `FrobReg` at the cost of one row. It needs no labels and does not fade in training, so one
    weight serves widely: 0.03 on small MNIST and CIFAR-10 (standardized inputs).

    Args:
        weight: multiplies the mean; no hidden 1/2.
        sphere: draw r on the sphere of radius sqrt(m) in place of N(0, I) (spherical SpectReg, unbiased as well).
        samples: number of rows for each example, averaged.
        per: "example" draws r for each example; "batch" one for all, as the paper's appendix A. Where batch
            normalization in training mode stands directly in front of the last, linear layer, one for all makes the
            penalty 0.
        side: "output" for rows of J; "input" for probes J v, v ~ N(0, I_n), with the same expectation.
        target, site, engine, every, fraction, ramp, name: see `JacobianPenalty`.

    Example:
        >>> objective = gr.Objective(torch.nn.functional.cross_entropy, gr.SpectReg(0.03))
        >>> result = objective(model, x, y)
        >>> result.total.backward()

    Cost: (1 + samples)x a plain step at the floor.

    Source: the paper's sections 2.1 and 2.4 (Claim 1), appendix A.
    """

    def __init__(
        self,
        weight: float,
        *,
        sphere: bool = False,
        samples: int = 1,
        per: Literal["example", "batch"] = "example",
        side: Literal["output", "input"] = "output",
        target: Target | Callable[..., Tensor] | None = None,
        site: Site | None = None,
        engine: Engine | Literal["auto"] | None = None,
        every: int = 1,
        fraction: float = 1.0,
        ramp: Factor | int | None = None,
        name: str | None = None,
    ):
        kind = Sphere if sphere else Normal
        super().__init__(
            weight,
            target=target,
            site=site,
            projection=kind(samples, per, side),
            engine=engine,
            every=every,
            fraction=fraction,
            ramp=ramp,
            name=name,
        )
