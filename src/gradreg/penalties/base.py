"""What a penalty is: a weight times a mean over the batch, alone, on given outputs, or in a sum."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from gradreg import _checks, _tree
from gradreg._types import InputTree, Labels, Model
from gradreg.jacobian.site import Site
from gradreg.penalties.passes import Passes, Seen
from gradreg.penalties.schedule import Factor, Schedule


class Penalty(ABC):
    """``weight * mean over the batch of a per-example quantity``; no hidden factor.

    Subclasses implement `value`, the unweighted mean.

    Args:
        weight: finite and >= 0; it multiplies the mean.
        name: the key in ``result.terms``.
        every: k > 1 takes the penalty at every k-th step alone, with k times the weight.
        fraction: p < 1 takes it on a random part p of each batch.
        ramp: a factor of the weight by step; a number n lets it rise in n steps: see `Ramp`.

    Attributes:
        step: how often the penalty was called by itself, with gradients on: the number of its next step. Within an
            `Objective` that one counts.

    Example:
        >>> penalty = gr.SpectReg(0.03) + gr.ConfidencePenalty(0.5)
        >>> loss = torch.nn.functional.cross_entropy(model(x), y) + penalty(model, x)
    """

    def __init__(
        self,
        weight: float,
        name: str,
        *,
        every: int = 1,
        fraction: float = 1.0,
        ramp: Factor | int | None = None,
    ):
        _checks.weight(weight, type(self).__name__)
        self.weight = float(weight)
        self.name = name
        self.schedule = Schedule(every, fraction, ramp, type(self).__name__)
        self.step = 0

    needs_labels: bool = False
    sites: Sequence[Site] = ()
    apart: bool = True
    """Whether each example is measured by itself, by outputs and derivatives at its own input; then the examples of
    several runs, or of a part of the batch, can be measured together."""

    @property
    def repeats(self) -> bool:
        """Whether the model may be run again."""
        return False

    @abstractmethod
    def value(self, seen: Seen) -> Tensor:
        """The unweighted penalty of a batch, a 0-dimensional tensor in float32 or better."""

    def per_example(self, seen: Seen) -> Tensor:
        """What `value` is the mean of, (B,); for batches that hold the examples of several runs.

        Raises:
            NotImplementedError: the penalty has no such form.
        """
        raise NotImplementedError(
            f"{type(self).__name__} gives the mean over a batch alone; write a method per_example(seen) that returns "
            "one value per example (B,), and let value(seen) return its mean."
        )

    def is_due(self, step: int | None) -> bool:
        """Whether the penalty counts at a step; without a step, whether its weight does."""
        return self.weight > 0 and self.schedule.factor(step) > 0

    def weighted(self, seen: Seen) -> Tensor:
        """The penalty of a batch, times its weight and what its schedule makes of that at this step."""
        factor = self.schedule.factor(seen.step)
        return self.weight * factor * self.value(seen)

    def __call__(
        self,
        model: Model,
        x: InputTree,
        y: Labels = None,
        *,
        generator: Generator | None = None,
        step: int | None = None,
    ) -> Tensor:
        """Runs the model on x and returns the weighted penalty.

        Args:
            model: a module or a function of x.
            x: inputs (B, ...), or a tree of them; `Args` for models of several arguments.
            y: labels, where the penalty needs them.
            generator: draws the random projections; torch's global random state is then left as found.
            step: number of the training step, for lazy penalties and ramps; by default the calls are counted.

        Returns:
            A 0-dimensional tensor; without a graph where the caller is under `torch.no_grad`, where it is also the
            whole penalty, whatever its schedule.
        """
        step = next_step(self, step)
        recording = torch.is_grad_enabled()
        with _checks.grad_enabled():
            terms = list(parts_of(self))
            passes = Passes.of_terms(model, x, y, terms, generator, step)
            values = [passes.weighted(term) for term in terms if term.is_due(step)]
            result = torch.stack(values).sum() if values else zero_like(x)
        return result if recording else result.detach()

    def of(
        self,
        outputs: Any,
        x: Any,
        y: Labels = None,
        *,
        generator: Generator | None = None,
        step: int | None = None,
    ) -> Tensor:
        """The weighted penalty for outputs that you computed from x.

        Args:
            outputs: what the model returned.
            x: the tensor, or tree of tensors, to differentiate with respect to: inputs or activations that required
                grad before the outputs were computed from them.
            y: labels, where the penalty needs them.
            generator: draws the random projections.
            step: see `__call__`.

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
        terms = list(parts_of(self))
        for term in terms:
            if term.schedule.fraction < 1:
                raise ValueError(
                    f"{term!r} runs the model on a part of the batch, which of(outputs, x) cannot. Write "
                    f"penalty(model, x), or every={round(1 / term.schedule.fraction)} in place of the fraction."
                )
        step = next_step(self, step)
        values = [term.weighted(Seen(outputs, x, y, generator, step=step)) for term in terms if term.is_due(step)]
        return torch.stack(values).sum() if values else zero_like(x)

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
        scaled.weight, scaled.step = self.weight * float(factor), 0
        _checks.weight(scaled.weight, type(self).__name__)
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
        self.sites = [site for p in penalties for site in p.sites]
        self.apart = all(p.apart for p in penalties)

    @property
    def repeats(self) -> bool:
        """Whether one of the terms may run the model again."""
        return any(p.repeats for p in self.penalties)

    def value(self, seen: Seen) -> Tensor:
        """The sum of the weighted terms that are due."""
        values = [p.weighted(seen) for p in self.penalties if p.is_due(seen.step)]
        return torch.stack(values).sum() if values else zero_like(seen.outputs)

    def __repr__(self) -> str:
        terms = " + ".join(map(repr, self.penalties))
        return terms if self.weight == 1 else f"{self.weight:g} * ({terms})"


def model_of(seen: Seen, penalty: Penalty) -> Model:
    """The model, for penalties that look at more than its outputs.

    Raises:
        ValueError: the caller ran it, and its outputs alone are known.
    """
    if seen.model is None:
        raise ValueError(
            f"{penalty!r} needs the model itself, which of(outputs, x) does not have. Write penalty(model, x)."
        )
    return seen.model


def module_of(seen: Seen, penalty: Penalty) -> nn.Module:
    """The model, where it has to be a module with layers.

    Raises:
        TypeError: it is a function.
        ValueError: see `model_of`.
    """
    model = model_of(seen, penalty)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{penalty!r} looks at the layers of a torch.nn.Module, but the model is {type(model).__name__}. Pass the "
            "module itself."
        )
    return model


def parts_of(penalty: Penalty) -> Iterator[Penalty]:
    """The terms of a sum with their final weights; a penalty itself is its only term."""
    if not isinstance(penalty, PenaltySum):
        yield penalty
        return
    for part in penalty.penalties:
        yield from (term * penalty.weight for term in parts_of(part))


def next_step(counter: Any, given: int | None) -> int | None:
    """The step of a call: the one that is given, or else the next of ``counter.step``.

    Calls without gradients, such as those that measure, are no steps: None, for the whole penalty.
    """
    if given is not None:
        _checks.step(given)
        return given
    if not torch.is_grad_enabled():
        return None
    counter.step += 1
    return counter.step - 1


def zero_like(tree: Any) -> Tensor:
    """A penalty that is not due, on the device of the first tensor; its ``backward()`` does nothing."""
    device = next((tensor.device for _, tensor in _tree.tensors(tree)), None)
    return torch.zeros((), device=device, requires_grad=torch.is_grad_enabled())
