"""What a penalty is: a weight times a mean over the batch, alone, on given outputs, or in a sum."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import torch
from torch import Generator, Tensor

from gradreg import _checks
from gradreg._types import InputTree, Labels, LossFunction, Model
from gradreg.jacobian.forward import ForwardPass
from gradreg.jacobian.site import Site


@dataclass(frozen=True)
class Seen:
    """What a penalty sees of one batch.

    Attributes:
        outputs: what the model returned.
        x, y: inputs and labels (None without).
        generator: where random projections are drawn; None for torch's global one.
        forward: the forward pass, which can be run again; None where the caller ran the model.
        loss: the task's loss, where an `Objective` holds the penalty.
    """

    outputs: Any
    x: InputTree
    y: Labels
    generator: Generator | None = None
    forward: ForwardPass | None = None
    loss: LossFunction | None = None


class Penalty(ABC):
    """``weight * mean over the batch of a per-example quantity``; no hidden factor.

    Subclasses implement `value`, the unweighted mean.

    Args:
        weight: finite and >= 0; it multiplies the mean.
        name: the key in ``result.terms``.

    Example:
        >>> penalty = gr.SpectReg(0.03) + gr.ConfidencePenalty(0.5)
        >>> loss = torch.nn.functional.cross_entropy(model(x), y) + penalty(model, x)
    """

    def __init__(self, weight: float, name: str):
        _checks.weight(weight, type(self).__name__)
        self.weight = float(weight)
        self.name = name

    needs_labels: bool = False
    repeats: bool = False
    sites: Sequence[Site] = ()

    @abstractmethod
    def value(self, seen: Seen) -> Tensor:
        """The unweighted penalty of a batch, a 0-dimensional tensor in float32 or better."""

    def weighted(self, seen: Seen) -> Tensor:
        """The penalty of a batch, times its weight."""
        return self.weight * self.value(seen)

    def __call__(self, model: Model, x: InputTree, y: Labels = None, *, generator: Generator | None = None) -> Tensor:
        """Runs the model on x and returns the weighted penalty.

        Args:
            model: a module or a function of x.
            x: inputs (B, ...), or a tree of them; `Args` for models of several arguments.
            y: labels, where the penalty needs them.
            generator: draws the random projections; torch's global random state is then left as found.

        Returns:
            A 0-dimensional tensor; without a graph where the caller is under `torch.no_grad`.
        """
        recording = torch.is_grad_enabled()
        with _checks.grad_enabled():
            forward = ForwardPass(model, x, self.sites, repeatable=self.repeats)
            result = self.weighted(Seen(forward.outputs, x, y, generator, forward))
        return result if recording else result.detach()

    def of(self, outputs: Any, x: Any, y: Labels = None, *, generator: Generator | None = None) -> Tensor:
        """The weighted penalty for outputs that you computed from x.

        Args:
            outputs: what the model returned.
            x: the tensor, or tree of tensors, to differentiate with respect to: inputs or activations that required
                grad before the outputs were computed from them.
            y: labels, where the penalty needs them.
            generator: draws the random projections.

        Raises:
            ValueError: x does not require grad, the outputs do not depend on it, the site is a submodule, or the
                engine would have to run the model again.

        Example:
            >>> x.requires_grad_()
            >>> outputs = model(x)
            >>> loss = cross_entropy(outputs, y) + gr.FrobReg(0.01).of(outputs, x)
        """
        if self.repeats:
            raise ValueError(
                f"{self!r} has to run the model again, which of(outputs, x) cannot. Write penalty(model, x), or use "
                "engine=gr.DoubleBackward()."
            )
        return self.weighted(Seen(outputs, x, y, generator))

    def __add__(self, other: object) -> "PenaltySum":
        """A sum, which runs the model once for all of its penalties."""
        if not isinstance(other, Penalty):
            return NotImplemented
        return PenaltySum([*parts_of(self), *parts_of(other)])

    def __radd__(self, other: object) -> "Penalty":
        """So that ``sum(penalties)`` works, which starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: object) -> Self:
        """The same penalty with its weight multiplied."""
        if not isinstance(factor, Real):
            return NotImplemented
        scaled = copy.copy(self)
        Penalty.__init__(scaled, self.weight * float(factor), self.name)
        return scaled

    __rmul__ = __mul__


class PenaltySum(Penalty):
    """A weighted sum of penalties that shares one forward pass; written ``a + b``.

    Args:
        penalties: the terms.
        weight: multiplies them all.

    Example:
        >>> (gr.SpectReg(0.03) + 2 * gr.ConfidencePenalty(0.25))(model, x).backward()
    """

    def __init__(self, penalties: Sequence[Penalty], weight: float = 1.0):
        if isinstance(penalties, Penalty) or not penalties:
            raise ValueError("PenaltySum needs a list of one penalty or more: gr.PenaltySum([gr.SpectReg(0.03)]).")
        for penalty in penalties:
            _checks.instance(penalty, Penalty, "PenaltySum", "gr.SpectReg(0.03)")
        super().__init__(weight, "sum")
        self.penalties = tuple(penalties)
        self.needs_labels = any(p.needs_labels for p in penalties)
        self.repeats = any(p.repeats for p in penalties)
        self.sites = [site for p in penalties for site in p.sites]

    def value(self, seen: Seen) -> Tensor:
        """The sum of the weighted terms."""
        return torch.stack([p.weighted(seen) for p in self.penalties]).sum()

    def __repr__(self) -> str:
        terms = " + ".join(map(repr, self.penalties))
        return terms if self.weight == 1 else f"{self.weight:g} * ({terms})"


def parts_of(penalty: Penalty) -> Iterator[Penalty]:
    """The terms of a sum with their final weights; a penalty itself is its only term."""
    if not isinstance(penalty, PenaltySum):
        yield penalty
        return
    for part in penalty.penalties:
        yield from (term * penalty.weight for term in parts_of(part))
