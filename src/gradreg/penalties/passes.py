"""The forward passes of one call: the whole batch at once, or in two parts where a penalty wants only a part."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from gradreg import _checks, _random, _tree
from gradreg._types import InputTree, Labels, LossFunction, Model
from gradreg.jacobian._state import normalizes_batches
from gradreg.jacobian.forward import ForwardPass
from gradreg.jacobian.site import Site
from gradreg.penalties.schedule import Schedule


@dataclass(frozen=True)
class Seen:
    """What a penalty sees of one batch.

    Attributes:
        outputs: what the model returned.
        x, y: inputs and labels (None without).
        generator: where random projections are drawn; None for torch's global one.
        forward: the forward pass, which can be run again; None where the caller ran the model.
        loss: the task's loss, where an `Objective` holds the penalty.
        step: the number of the training step, for lazy penalties and ramps; None: every penalty counts as it is.
        model: what was run; None where the caller ran it.
    """

    outputs: Any
    x: InputTree
    y: Labels
    generator: Generator | None = None
    forward: ForwardPass | None = None
    loss: LossFunction | None = None
    step: int | None = None
    model: Model | None = None


class Term(Protocol):
    """A penalty that is no sum; see `gradreg.penalties.base.Penalty`."""

    sites: Sequence[Site]
    schedule: Schedule

    @property
    def repeats(self) -> bool:
        """Whether the model is run again."""
        ...

    def is_due(self, step: int | None) -> bool:
        """Whether the penalty counts at a step."""
        ...

    def weighted(self, seen: Seen) -> Tensor:
        """The weighted penalty."""
        ...


class Passes:
    """What the penalties of one call see.

    With a penalty of ``fraction=p`` that is due, the model runs on the part p of the batch, drawn at random, and on the
    rest, so that only the part pays for the penalty: at the floor 1 + p times a plain step.

    Args:
        parts: share of the batch, and what is seen of it; one entry with share 1, or two.
        whole: outputs and labels of the whole batch, in its order.
        batch: its number of examples.
    """

    def __init__(self, parts: Sequence[tuple[float, Seen]], whole: Seen, batch: int):
        self.parts, self.whole, self.batch = parts, whole, batch

    @classmethod
    def of_batch(
        cls,
        model: Model,
        x: InputTree,
        y: Labels,
        terms: Sequence[Term],
        generator: Generator | None,
        step: int | None,
        loss: LossFunction | None = None,
    ) -> "Passes":
        """Runs the model on every example.

        Args:
            model, x, y: see `Objective`.
            terms: penalties without sums; those that are not due are left out.
            generator: of random projections, and of the part.
            step: of the schedules.
            loss: the task's.

        Raises:
            ValueError: two parts of different size; a model that couples examples; inputs that cannot be divided.
        """
        due = [term for term in terms if term.is_due(step)]
        fraction = _fraction(due, step)
        if fraction == 1:
            seen = _see(model, x, y, due, generator, step, loss)
            return cls([(1.0, seen)], seen, _size(seen))
        first, rest = _divide(model, x, fraction, generator)
        everywhere = [term for term in due if term.schedule.fraction == 1]
        groups = [(first, due), (rest, everywhere)] if len(rest) else [(first, due)]
        size = len(first) + len(rest)
        parts = [
            (len(index) / size, _see(model, _cut(x, index), _cut(y, index), terms, generator, step, loss))
            for index, terms in groups
        ]
        back = torch.cat([index for index, _ in groups]).argsort()
        outputs = _joined([seen.outputs for _, seen in parts], [len(index) for index, _ in groups], back)
        return cls(parts, Seen(outputs, x, y, generator, loss=loss, step=step, model=model), size)

    @classmethod
    def of_terms(
        cls,
        model: Model,
        x: InputTree,
        y: Labels,
        terms: Sequence[Term],
        generator: Generator | None,
        step: int | None,
    ) -> "Passes":
        """Runs the model only on those examples that the penalties look at; see `of_batch`."""
        due = [term for term in terms if term.is_due(step)]
        if not due:
            return cls([], Seen(None, x, y), 0)
        fraction = _fraction(due, step)
        if fraction == 1 or any(term.schedule.fraction == 1 for term in due):
            return cls.of_batch(model, x, y, terms, generator, step)
        first, rest = _divide(model, x, fraction, generator)
        seen = _see(model, _cut(x, first), _cut(y, first), due, generator, step, None)
        return cls([(1.0, seen)], seen, len(first) + len(rest))

    def weighted(self, term: Term) -> Tensor:
        """The weighted penalty of the batch, estimated on its part where it has a fraction."""
        if not term.sites and term.schedule.fraction == 1:
            return term.weighted(self.whole)
        if len(self.parts) == 1 or term.schedule.fraction < 1:
            return term.weighted(self.parts[0][1])
        return torch.stack([share * term.weighted(seen) for share, seen in self.parts]).sum()


def _see(
    model: Model,
    x: InputTree,
    y: Labels,
    due: Sequence[Term],
    generator: Generator | None,
    step: int | None,
    loss: LossFunction | None,
) -> Seen:
    sites = [site for term in due for site in term.sites]
    forward = ForwardPass(model, x, sites, repeatable=any(term.repeats for term in due))
    return Seen(forward.outputs, x, y, generator, forward, loss=loss, step=step, model=model)


def _size(seen: Seen) -> int:
    assert seen.forward is not None
    return seen.forward.batch


def _fraction(due: Sequence[Term], step: int | None) -> float:
    """The part that is asked for; without a step to speak of, the whole."""
    asked = sorted({term.schedule.fraction for term in due if term.schedule.fraction < 1})
    if step is None or not asked:
        return 1.0
    if len(asked) > 1:
        raise ValueError(
            f"penalties ask for the parts {' and '.join(map(str, asked))} of one batch; expected the same part for all "
            "that have one. Write the same fraction, or every=k for some of them."
        )
    return asked[0]


def _divide(model: Model, x: InputTree, fraction: float, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Positions of a random part of the batch, and of the rest."""
    if normalizes_batches(model):
        raise ValueError(
            f"fraction={fraction:g} runs the model on two parts of the batch, but its batch normalization is in "
            f"training mode and would normalize each by itself. Write every={round(1 / fraction)}, which costs the "
            "same, or call eval() on those layers."
        )
    tensors = [tensor for _, tensor in _tree.tensors(x)]
    sizes = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(
            f"fraction={fraction:g} divides the batch, but the input's tensors have the shapes "
            f"{', '.join(str(tuple(t.shape)) for t in tensors)}; expected the batch first in each. Write "
            f"every={round(1 / fraction)}, which costs the same."
        )
    size = sizes.pop()
    first = max(1, math.floor(fraction * size + 0.5))
    numbers = _random.normal((size,), torch.empty(0, device=tensors[0].device), generator)
    order = numbers.argsort()
    return order[:first], order[first:]


def _cut(tree: Any, index: Tensor) -> Any:
    """The examples at these positions; labels may be a plain list."""
    if isinstance(tree, (list, tuple)) and not list(_tree.tensors(tree)):
        return [tree[i] for i in index.tolist()]
    return _tree.replace(tree, lambda _, tensor: tensor[index.to(tensor.device)])


def _joined(outputs: Sequence[Any], sizes: Sequence[int], back: Tensor) -> Any:
    """Outputs of the parts as those of the batch, in its order."""
    found = [dict(_tree.tensors(tree)) for tree in outputs]
    for tensors, size in zip(found, sizes, strict=True):
        for path, tensor in tensors.items():
            _checks.same_batch(
                tensor,
                size,
                f"outputs[{path!r}]" if path else "the output",
                "fraction=... joins the outputs of two parts of the batch; write every=k, which costs the same.",
            )
    if len(found) == 1:
        return _tree.replace(outputs[0], lambda path, tensor: tensor[back])
    return _tree.replace(outputs[0], lambda path, tensor: torch.cat([tensors[path] for tensors in found])[back])
