"""Points moved to fool a model, within a distance, and what accuracy is left there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gradreg import _checks, _random
from gradreg._types import Labels, Model
from gradreg.jacobian.magnitude import along, flat, norms
from gradreg.metrics._chunks import class_indices, class_scores, in_chunks
from gradreg.metrics.margins import Norm

Bounds = tuple[float, float]


class Attack(ABC):
    """Moves points; `GaussianNoise`, `FGSM`, `PGD`, or a subclass of your own."""

    bounds: Bounds | None

    def __call__(
        self, model: Model, x: Tensor, y: Labels, *, generator: Generator | None = None, chunk: int = 256
    ) -> Tensor:
        """The moved points.

        Args:
            model: a module (in evaluation mode meanwhile) or a function, run as it is; gives class scores (B, C).
            x: points (N, ...), one tensor.
            y: class indices (N,).
            generator: draws what is random.
            chunk: number of points at a time.

        Returns:
            As x, without a graph.

        Raises:
            ValueError: points outside the attack's bounds; outputs or labels of other shapes; no gradient.
        """
        _checks.labels_given(y, type(self).__name__)

        def measure(points: Tensor, labels: Labels) -> Tensor:
            _checks.real_tensor(points, "x")
            self._check_bounds(points)
            return self.moved(model, points.detach(), labels, generator)

        return in_chunks(model, x, y, chunk, measure)

    @abstractmethod
    def moved(self, model: Model, x: Tensor, y: Tensor, generator: Generator | None) -> Tensor:
        """The moved points of one chunk; autograd records and the model is in evaluation mode."""

    def clipped(self, x: Tensor) -> Tensor:
        """Within the bounds, where there are any."""
        return x if self.bounds is None else x.clamp(*self.bounds)

    @property
    def within(self) -> str:
        """The bounds in words, empty if there are none."""
        return "" if self.bounds is None else f" in [{self.bounds[0]:g}, {self.bounds[1]:g}]"

    def _check_bounds(self, x: Tensor) -> None:
        if self.bounds is None:
            return
        low, high = self.bounds
        least, most = float(x.min()), float(x.max())
        slack = 1e-5 * (high - low)  # what standardizing and back may round
        if least < low - slack or most > high + slack:
            raise ValueError(
                f"{type(self).__name__} got points from {least:.4g} to {most:.4g}, outside bounds={self.bounds}. "
                "Bounds are in units of x; for standardized inputs put the standardization into the model: "
                "model.eval(), then lambda x: model((x - mean) / std)."
            )


@dataclass(frozen=True)
class GaussianNoise(Attack):
    """``clip(x + deviation * N(0, I))``: not an attack but noise, which needs no gradient.

    Args:
        deviation: standard deviation of each entry, in units of x.
        bounds: lowest and highest value of an entry; None for any.

    Raises:
        ValueError: a negative deviation, bounds that are none.

    Example:
        >>> gr.metrics.robust_accuracy(model, x, y, gr.metrics.GaussianNoise(0.3))
    """

    deviation: float
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        _checks.not_negative(self.deviation, "deviation", "GaussianNoise")
        _check(self.bounds, "GaussianNoise")

    def __str__(self) -> str:
        return f"noise {self.deviation:g}{self.within}"

    def moved(self, model: Model, x: Tensor, y: Tensor, generator: Generator | None) -> Tensor:
        """See `Attack.moved`."""
        return self.clipped(x + self.deviation * _random.normal(x.shape, x, generator))


@dataclass(frozen=True)
class FGSM(Attack):
    """One step against the label: ``clip(x + radius * sign(grad))``, or along ``grad / ||grad||`` for "l2".

    The gradient's direction is that of the cross-entropy, see `PGD`.

    Args:
        radius: length of the step in the norm, in units of x.
        norm: "linf" (the fast gradient sign method) or "l2" (the fast gradient method).
        bounds: lowest and highest value of an entry; None for any.

    Raises:
        ValueError: a negative radius, another norm, bounds that are none.

    Example:
        >>> gr.metrics.robust_accuracy(model, x, y, gr.metrics.FGSM(0.1))

    Source: Goodfellow et al. 2015.
    """

    radius: float
    norm: Norm = "linf"
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        _checks.not_negative(self.radius, "radius", "FGSM")
        _checks.choice(self.norm, ("l2", "linf"), "norm", "FGSM")
        _check(self.bounds, "FGSM")

    def __str__(self) -> str:
        return f"FGSM {self.norm} {self.radius:g}{self.within}"

    def moved(self, model: Model, x: Tensor, y: Tensor, generator: Generator | None) -> Tensor:
        """See `Attack.moved`."""
        step = PGD(self.radius, self.norm, steps=1, step_size=self.radius, random_start=False, bounds=self.bounds)
        return step.moved(model, x, y, generator)


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent: ``x' <- clip(project(x' + step_size * direction(grad)))``.

    The direction is the sign of the gradient for "linf" and the gradient over its norm for "l2"; the projection goes
    back to the ball of the radius around x. Followed is ``l = log sum over k != y of exp(z_k) - z_y``. The
    cross-entropy is ``log(1 + exp(l))``, so the directions are the same, but l keeps its gradient where that of the
    cross-entropy is rounded off: a model that is very sure would otherwise look robust.

    Args:
        radius: largest distance from x in the norm, in units of x.
        norm: "linf" or "l2".
        steps: number of steps.
        step_size: length of a step; None for ``2.5 * radius / steps``.
        random_start: begin at a uniform draw from the ball; else in x, where a gradient may be zero.
        bounds: lowest and highest value of an entry; None for any.

    Raises:
        ValueError: numbers out of their range, another norm, bounds that are none.

    Example:
        >>> gr.metrics.robust_accuracy(model, x, y, gr.metrics.PGD(0.5, "l2", steps=20))

    Source: Madry et al. 2018; Kurakin et al. 2017 without a random start.
    """

    radius: float
    norm: Norm = "linf"
    steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        _checks.not_negative(self.radius, "radius", "PGD")
        _checks.choice(self.norm, ("l2", "linf"), "norm", "PGD")
        _checks.positive_integer(self.steps, "steps", "PGD")
        if self.step_size is not None:
            _checks.not_negative(self.step_size, "step_size", "PGD")
        _check(self.bounds, "PGD")

    def __str__(self) -> str:
        return f"PGD {self.norm} {self.radius:g} ({self.steps} steps){self.within}"

    def moved(self, model: Model, x: Tensor, y: Tensor, generator: Generator | None) -> Tensor:
        """See `Attack.moved`."""
        length = 2.5 * self.radius / self.steps if self.step_size is None else self.step_size
        found = self.clipped(x + self._start(x, generator)) if self.random_start else x
        for _ in range(self.steps):
            step = length * self._direction(_gradient(model, found, y))
            found = self.clipped(x + self._projected(found + step - x))
        return found

    def _direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign() if self.norm == "linf" else _scaled_to(1.0, gradient)

    def _projected(self, change: Tensor) -> Tensor:
        if self.norm == "linf":
            return change.clamp(-self.radius, self.radius)
        factor = (self.radius / norms([change])).clamp(max=1)  # infinite for no change, then 1
        return along(factor.nan_to_num(1), change) * change

    def _start(self, x: Tensor, generator: Generator | None) -> Tensor:
        """Uniform in the ball."""
        if self.norm == "linf":
            return self.radius * (2 * _uniform(x.shape, x, generator) - 1)
        direction = _scaled_to(self.radius, _random.normal(x.shape, x, generator))
        # The part of the ball within a share r of its radius is r^n.
        share = _uniform((x.shape[0],), x, generator) ** (1 / flat(x).shape[1])
        return along(share, direction) * direction


def robust_accuracy(
    model: Model, x: Tensor, y: Tensor, attack: Attack, *, generator: Generator | None = None, chunk: int = 256
) -> float:
    """Percentage of points that the model gets right where an attack moves them to.

    An upper bound of the accuracy at the worst points within the radius: a stronger attack finds more of them.

    Args:
        model: a module (its mode is put back afterwards) or a function, run as it is; gives class scores (B, C).
        x: points (N, ...), one tensor.
        y: class indices (N,).
        attack: `GaussianNoise`, `FGSM` or `PGD`.
        generator: draws what is random.
        chunk: number of points at a time; no more moved points are held.

    Raises:
        TypeError: what is no attack.
        ValueError: as the attack does.

    Example:
        >>> gr.metrics.robust_accuracy(model, x, y, gr.metrics.PGD(0.0)) == gr.metrics.accuracy(model(x), y)
        True

    Source: Madry et al. 2018.
    """
    _checks.instance(attack, Attack, "attack", "gr.metrics.PGD(0.1)")
    _checks.labels_given(y, "robust_accuracy")

    def right(points: Tensor, labels: Tensor) -> Tensor:
        moved = attack(model, points, labels, generator=generator, chunk=chunk)
        with torch.no_grad():
            z = class_scores(model(moved), "robust_accuracy")
        return z.argmax(1) == class_indices(labels, z, "robust_accuracy")

    return 100 * float(in_chunks(model, x, y, chunk, right).double().mean())


def _gradient(model: Model, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    z = class_scores(model(x), "attacks")
    labels = class_indices(y, z, "attacks")
    own = z.gather(1, labels[:, None])
    others = z.scatter(1, labels[:, None], float("-inf"))
    error = torch.logsumexp(others, 1) - own[:, 0]
    if not error.requires_grad:
        raise _checks.independent_of_site("the input")
    (found,) = torch.autograd.grad(error.sum(), x, allow_unused=True)
    if found is None:
        raise _checks.independent_of_site("the input")
    return found


def _scaled_to(length: float, change: Tensor) -> Tensor:
    norm = norms([change])
    return along(torch.where(norm > 0, length / norm, 0), change) * change


def _uniform(shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def _check(bounds: Bounds | None, owner: str) -> None:
    if bounds is not None and (len(bounds) != 2 or not bounds[0] < bounds[1]):
        raise ValueError(
            f"{owner} got bounds={bounds!r}; expected (lowest, highest), as in {owner}(0.1, bounds=(0, 1))."
        )
