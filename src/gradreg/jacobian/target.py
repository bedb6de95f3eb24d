"""Target slot: which function of the model's outputs is differentiated."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradreg import _checks
from gradreg._types import Labels, LossFunction


class Target(ABC):
    """What z is in J = dz/dx: a tensor (B, ...) made from the outputs, row i from example i alone."""

    needs_labels = False

    @abstractmethod
    def __call__(self, outputs: Any, y: Labels) -> Tensor:
        """z of shape (B, ...), differentiable in the outputs."""


@dataclass(frozen=True)
class Logits(Target):
    """The outputs as they are: logits of a classifier, predictions of a regressor; any shape (B, ...).

    Raises:
        TypeError: the model returns something other than a tensor; say which tensor with a function target.

    Example:
        >>> gr.JacobianPenalty(0.03, target=gr.Logits(), projection=gr.Normal())  # SpectReg

    Source: the paper's J_g, section 2.
    """

    def __call__(self, outputs: Any, y: Labels) -> Tensor:
        """The outputs themselves."""
        return _checks.outputs_tensor(outputs, "Logits")


@dataclass(frozen=True)
class Probabilities(Target):
    """``softmax(outputs)``, shape (B, C, ...).

    Args:
        class_dim: the dimension of the classes; by default 1, except that 3-dimensional outputs ask for it.

    Example:
        >>> gr.JacobianPenalty(1.0, target=gr.Probabilities())(model, x).backward()    # JacReg

    Source: the paper's J_f, section 2; equation (1) relates it to J_g.
    """

    class_dim: int | None = None

    def __call__(self, outputs: Any, y: Labels) -> Tensor:
        """Probabilities that sum to 1 along the class dimension."""
        z = _checks.outputs_tensor(outputs, "Probabilities")
        return torch.softmax(z, _checks.class_dimension(z, self.class_dim, "Probabilities"))


@dataclass(frozen=True)
class LogProbabilities(Target):
    """``log_softmax(outputs)``, shape (B, C, ...).

    Args:
        class_dim: the dimension of the classes; by default 1, except that 3-dimensional outputs ask for it.

    Example:
        >>> gr.JacobianPenalty(0.03, target=gr.LogProbabilities(), projection=gr.Normal())(model, x).backward()
    """

    class_dim: int | None = None

    def __call__(self, outputs: Any, y: Labels) -> Tensor:
        """Log-probabilities along the class dimension."""
        z = _checks.outputs_tensor(outputs, "LogProbabilities")
        return torch.log_softmax(z, _checks.class_dimension(z, self.class_dim, "LogProbabilities"))


@dataclass(frozen=True)
class Loss(Target):
    """The loss of each example, shape (B,); never averaged over the batch before it is differentiated.

    Averaging first would shrink a squared gradient by B^2. A loss with several terms per example (pixels, tokens,
    outputs) is averaged over these, so that the mean of z is the loss with ``reduction="mean"`` (but for class weights
    and ``ignore_index``, by which torch divides in another way); with "sum" or "batchmean" they are added.

    Args:
        function: ``loss(outputs, y)``: a function of `torch.nn.functional` or another one with a ``reduction``
            argument, a loss module such as `torch.nn.CrossEntropyLoss`, or a function of your own that returns one
            loss per example.

    Raises:
        ValueError: the function averages over the batch, or labels are missing or of the wrong shape.

    Example:
        >>> gr.JacobianPenalty(50, target=gr.Loss(torch.nn.functional.cross_entropy))  # DoubleBack

    Source: the paper's section 2.1, L_DG; equations (2) to (5).
    """

    function: LossFunction
    needs_labels = True

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"Loss got {self.function!r}; expected a function loss(outputs, y).")

    def __call__(self, outputs: Any, y: Labels) -> Tensor:
        """One loss per example, (B,)."""
        _checks.labels_given(y, "Loss")
        if isinstance(outputs, Tensor):
            _checks.label_batch(y, outputs.shape[0])
        batch = _checks.batch_size(outputs, "outputs") if isinstance(outputs, Tensor) else None
        name = loss_name(self.function)
        losses = call_loss(unreduced(self.function), outputs, y, name)
        if losses.ndim == 0 or (batch is not None and losses.shape[0] != batch):
            raise ValueError(
                f"the loss {name} returned shape {tuple(losses.shape)}; expected one loss per example. Averaging "
                "before differentiating shrinks the squared gradient by B^2. Give the penalty a loss that does not, "
                "gr.DoubleBack(50, loss=lambda out, y: cross_entropy(out, y, reduction='none')), or one with an "
                "argument named reduction."
            )
        if losses.ndim == 1:
            return losses
        return losses.flatten(1).sum(1) if reduction_of(self.function) != "mean" else losses.flatten(1).mean(1)


@dataclass(frozen=True)
class FunctionOf(Target):
    """A function of the outputs (and labels) of your own; plain functions in the target slot become this.

    Args:
        function: ``function(outputs)`` or ``function(outputs, y)`` that returns a tensor (B, ...).

    Example:
        >>> gr.JacobianPenalty(0.03, target=lambda outputs: outputs["logits"], projection=gr.Normal())
    """

    function: Callable[..., Tensor]

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Where the function takes them."""
        return _takes_two(self.function)

    def __call__(self, outputs: Any, y: Labels) -> Tensor:
        """The function's value."""
        z = self.function(outputs, y) if _takes_two(self.function) else self.function(outputs)
        if not isinstance(z, Tensor):
            raise TypeError(f"the target function returned {type(z).__name__}; expected a tensor (B, ...).")
        return z


def as_target(target: Target | Callable[..., Tensor]) -> Target:
    """Accepts plain functions in the target slot."""
    if isinstance(target, Target):
        return target
    if callable(target) and not isinstance(target, (type, nn.Module)):
        return FunctionOf(target)
    _checks.instance(target, Target, "target", "gr.Logits()")
    raise AssertionError("unreachable")


def unreduced(function: LossFunction) -> LossFunction:
    """The same loss with one value per term in place of the mean over the batch, where the function offers it."""
    if isinstance(function, nn.Module) and hasattr(function, "reduction"):
        one_each = copy.copy(function)
        one_each.reduction = "none"  # type: ignore[assignment]
        return one_each
    try:
        reducible = "reduction" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        reducible = False
    if reducible:
        return lambda outputs, y: function(outputs, y, reduction="none")  # type: ignore[call-arg]
    return function


def reduction_of(function: LossFunction) -> str:
    """How the loss joins its terms: "mean", or "sum" and "batchmean", which add those of an example."""
    return str(getattr(function, "reduction", None) or getattr(function, "keywords", {}).get("reduction", "mean"))


# Losses that compare entry by entry and would broadcast a wrong shape in silence.
_ELEMENTWISE = frozenset(
    {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"}
    | {"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss", "BCEWithLogitsLoss"}
)


def call_loss(function: LossFunction, outputs: Any, y: Labels, name: str | None = None) -> Tensor:
    """``function(outputs, y)``, with the shapes in the error where the two do not fit each other."""
    name = name or loss_name(function)
    if isinstance(outputs, Tensor) and isinstance(y, Tensor):
        _checks.ordinary_tensor(y, "y")
        if name in _ELEMENTWISE and outputs.shape != y.shape:
            raise ValueError(
                f"{name} got {_checks.shapes(outputs, y)}; expected the same shape, or it compares every example "
                f"with every other. Write y.reshape({', '.join(map(str, outputs.shape))}) if they mean the same."
            )
    try:
        return function(outputs, y)
    except torch.OutOfMemoryError:
        raise
    except TypeError as error:
        if not isinstance(outputs, Tensor):
            error.add_note(
                f"gradreg calls the loss {name} with what the model returned, {type(outputs).__name__}. Say which "
                f"tensor you mean: lambda outputs, y: {name}(outputs.logits, y), or outputs.loss where the model "
                "computes it."
            )
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the loss {name} failed on {_checks.shapes(outputs, y)}: {error}. For cross_entropy write class indices "
            "(B,) of dtype int64 (y.squeeze(1) for (B, 1)), or class probabilities in the outputs' shape; for "
            "sequences (B, T, C) a loss that moves the classes: lambda z, y: cross_entropy(z.movedim(2, 1), y)."
        ) from error


def loss_name(function: object) -> str:
    """How a loss is called in messages."""
    if isinstance(function, nn.Module):
        return type(function).__name__
    return str(getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", function))


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(places) >= 2
