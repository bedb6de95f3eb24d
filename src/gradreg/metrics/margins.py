"""How far a decision is from another one, in the scores and, to first order, in the inputs; and where it looks."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from gradreg import _checks
from gradreg._types import Labels, Model
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import flat, wide
from gradreg.jacobian.target import Target, as_target
from gradreg.metrics._chunks import class_indices, class_scores, in_chunks, linearized

Norm = Literal["l2", "linf"]


def logit_margins(z: Tensor, y: Tensor | None = None) -> Tensor:
    """``z_y - max over k != y of z_k``: positive where the label's score is the highest.

    Args:
        z: class scores (N, C).
        y: class indices (N,); None for the predicted class, whose margin is never negative.

    Returns:
        (N,) in units of the scores.

    Raises:
        ValueError: scores or labels of other shapes.

    Example:
        >>> gr.metrics.logit_margins(torch.tensor([[2.0, 5.0, 1.0]]), torch.tensor([0]))
        tensor([-3.])
    """
    scores = class_scores(z, "logit_margins").detach()
    labels = scores.argmax(1) if y is None else class_indices(y, scores, "logit_margins")
    return _of(scores, labels) - _without(scores, labels).amax(1)


def input_margins(
    model: Model,
    x: Tensor,
    y: Labels = None,
    *,
    norm: Norm = "l2",
    every_class: bool = False,
    chunk: int = 256,
) -> Tensor:
    """First-order distance to the decision boundary: ``M / ||dM/dx||`` with the logit margin ``M = z_y - z_k``.

    For the class k with the highest score but y, or the smallest over all k. Of a linear model that is right at x the
    latter is the distance in the norm, of others where the boundary of the linear model that touches it in x is: a net
    that is curved, or has kinks, near x can be fooled closer than that.

    Args:
        model: a module (its mode is put back afterwards) or a function, run as it is; gives class scores (B, C).
        x: inputs (N, ...), one tensor.
        y: class indices (N,); None for the predicted class.
        norm: "l2" or "linf", in which distance is measured; the gradient's norm is the dual one (L2, L1).
        every_class: the smallest over all k, at C backward passes in place of one.
        chunk: number of examples at a time.

    Returns:
        (N,) in units of x; negative where the model is wrong, infinite where the margin has no gradient.

    Raises:
        ValueError: outputs or labels of other shapes, batch normalization without running statistics.

    Example:
        >>> gr.metrics.input_margins(model, x_test, every_class=True).median()

    Source: Moosavi-Dezfooli et al. 2016 (the first step of DeepFool); Elsayed et al. 2018.
    """
    _checks.choice(norm, ("l2", "linf"), "norm", "input_margins")

    def measure(points: Tensor, labels: Labels) -> Tensor:
        at = linearized(model, points, None, as_target(_scores), None)
        scores = at.z.detach()
        own = scores.argmax(1) if labels is None else class_indices(labels, scores, "input_margins")
        found = [_distance(at, own, other, norm) for other in _others(scores, own, every_class)]
        return torch.stack(found).amin(0)

    return in_chunks(model, x, y, chunk, measure)


def saliency(
    model: Model,
    x: Tensor,
    y: Labels = None,
    *,
    target: Target | Callable[..., Tensor] | None = None,
    chunk: int = 256,
) -> Tensor:
    """The gradient of one number per example with respect to the input: which entries the decision hangs on.

    Args:
        model: a module (its mode is put back afterwards) or a function, run as it is.
        x: inputs (N, ...), one tensor.
        y: class indices (N,), or what the target needs.
        target: one value for each example, such as ``gr.Loss(cross_entropy)``. By default the score of the class y, or
            of the predicted class.
        chunk: number of examples at a time.

    Returns:
        As x, with signs; pictures mostly show the absolute value, of colours the largest.

    Raises:
        ValueError: a target of several values per example, batch normalization without running statistics.

    Example:
        >>> gr.metrics.saliency(model, x).shape
        torch.Size([4, 8])

    Source: Simonyan et al. 2014, section 3; Ross & Doshi-Velez 2018.
    """

    def of_label(outputs: Any, labels: Any) -> Tensor:
        z = class_scores(outputs, "saliency")
        return _of(z, class_indices(labels, z, "saliency"))

    def of_predicted(outputs: Any) -> Tensor:
        return class_scores(outputs, "saliency").amax(1)

    chosen = as_target(target or (of_predicted if y is None else of_label))

    def measure(points: Tensor, labels: Labels) -> Tensor:
        at = linearized(model, points, labels, chosen, None)
        if at.z[0].numel() != 1:
            raise ValueError(
                f"saliency got a target of shape {tuple(at.z.shape)}; expected one value per example (N,), such as "
                "target=gr.Loss(cross_entropy) or target=lambda z: z[:, 0]."
            )
        return at.gradient(torch.ones_like(at.z))[0]

    return in_chunks(model, x, y, chunk, measure)


def _scores(outputs: Any) -> Tensor:
    return class_scores(outputs, "input_margins")


def _others(scores: Tensor, own: Tensor, every_class: bool) -> Iterator[Tensor]:
    """Classes other than the own one, (B,) each: the highest, or all in turn."""
    if not every_class:
        yield _without(scores, own).argmax(1)
        return
    for shift in range(1, scores.shape[1]):
        yield (own + shift) % scores.shape[1]


def _distance(at: Linearization, own: Tensor, other: Tensor, norm: Norm) -> Tensor:
    row = torch.zeros_like(at.z).detach()
    row.scatter_(1, own[:, None], 1).scatter_(1, other[:, None], -1)
    gradient = flat(wide(at.gradient(row)[0]))
    scores = wide(at.z.detach())
    dual = torch.linalg.vector_norm(gradient, 2 if norm == "l2" else 1, dim=1)
    margins = _of(scores, own) - _of(scores, other)
    return torch.where(margins == 0, 0, margins / dual)


def _of(scores: Tensor, index: Tensor) -> Tensor:
    return scores.gather(1, index[:, None])[:, 0]


def _without(scores: Tensor, index: Tensor) -> Tensor:
    return scores.scatter(1, index[:, None], float("-inf"))
