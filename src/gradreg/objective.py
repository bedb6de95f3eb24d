"""`Objective`: the task's loss and penalties on one shared forward pass."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from gradreg import _checks, _tree
from gradreg._types import InputTree, Labels, LossFunction, Model
from gradreg.jacobian.target import call_loss, loss_name
from gradreg.penalties.base import Penalty, next_step, parts_of
from gradreg.penalties.passes import Passes


@dataclass(frozen=True)
class Result:
    """What an `Objective` found on one batch.

    Attributes:
        total: what to call ``backward()`` on: ``task + sum of terms``, 0-dimensional.
        task: the task's loss.
        terms: what each penalty adds to the total, by name: 0 where it is not due at this step.
        outputs: what the model returned for x.
    """

    total: Tensor
    task: Tensor
    terms: dict[str, Tensor]
    outputs: Any


class Objective:
    """A task's loss plus any number of penalties: ``loss(model(x), y) + sum of weighted penalties``.

    The model runs once and the penalties differentiate that forward pass (engines other than `DoubleBackward` run it
    once more, with the same dropout mask).

    Args:
        loss: ``loss(outputs, y)`` that returns the mean over the batch, a 0-dimensional tensor.
        penalties: any number, also none; sums are taken apart. Penalties of weight 0 cost nothing.
        generator: draws the random projections of every call, unless the call brings its own.

    Attributes:
        step: number of the next step, for penalties with ``every`` or ``ramp``; each call with gradients on counts.
            Set it where training goes on from a checkpoint.

    Example:
        >>> objective = gr.Objective(torch.nn.functional.cross_entropy, gr.SpectReg(0.03))
        >>> for x, y in loader:
        ...     result = objective(model, x, y)
        ...     result.total.backward()
        ...     optimizer.step(); optimizer.zero_grad()

    Source: L + lambda * penalty of the paper's section 2.1.
    """

    def __init__(self, loss: LossFunction, *penalties: Penalty, generator: Generator | None = None):
        if isinstance(loss, Penalty):
            raise TypeError(
                f"Objective got the penalty {loss!r} in place of the task's loss. Write gr.Objective(loss, penalty), "
                "as in gr.Objective(torch.nn.functional.cross_entropy, gr.SpectReg(0.03))."
            )
        if not callable(loss):
            raise TypeError(f"Objective got loss={loss!r}; expected a function loss(outputs, y).")
        for penalty in penalties:
            _checks.instance(penalty, Penalty, "penalty", "gr.SpectReg(0.03)")
        self.loss = loss
        self.generator = generator
        self.step = 0
        self.penalties = _named([part for penalty in penalties for part in parts_of(penalty)])

    def __call__(
        self,
        model: Model,
        x: InputTree,
        y: Labels,
        *,
        unlabeled: InputTree | None = None,
        generator: Generator | None = None,
        step: int | None = None,
    ) -> Result:
        """Runs the model and returns the loss with its penalties.

        Args:
            model: a module or a function of x.
            x: inputs (B, ...), or a tree of them; `Args` for models of several arguments.
            y: labels.
            unlabeled: further inputs. Penalties that need no labels are then means over labelled and unlabelled
                examples together; this takes a second forward pass. Masks and oracles that are functions get y=None
                for these.
            generator: draws the random projections; torch's global random state is then left as found.
            step: number of the training step, for lazy penalties and ramps; by default the calls are counted. Under
                `torch.no_grad` every penalty is taken as a whole, whatever its schedule.
        """
        generator = generator or self.generator
        recording = torch.is_grad_enabled()
        step = next_step(self, step)
        due = self.due(step)
        with _checks.grad_enabled():
            passes = Passes.of_batch(model, x, y, list(due.values()), generator, step, self.loss)
            task = self._task(passes.whole.outputs, y)
            terms = {name: passes.weighted(p) for name, p in due.items()}
            free = {name: p for name, p in due.items() if not p.needs_labels}
            if unlabeled is not None and free:
                more = Passes.of_terms(model, unlabeled, None, list(free.values()), generator, step)
                share = more.batch / (more.batch + passes.batch)
                for name, penalty in free.items():
                    terms[name] = (1 - share) * terms[name] + share * more.weighted(penalty)
            terms = {name: terms[name] if name in terms else task.new_zeros(()) for name in self.penalties}
            total = torch.stack([task, *(t.to(task.dtype) for t in terms.values())]).sum() if terms else task
        result = Result(total, task, terms, passes.whole.outputs)
        return result if recording else _detached(result)

    def due(self, step: int | None) -> dict[str, Penalty]:
        """The penalties that count at a step, by name."""
        return {name: p for name, p in self.penalties.items() if p.is_due(step)}

    def _task(self, outputs: Any, y: Labels) -> Tensor:
        task = call_loss(self.loss, outputs, y)
        if task.ndim != 0:
            raise ValueError(
                f"the loss {loss_name(self.loss)} returned shape {tuple(task.shape)}; expected the mean over the "
                "batch, a 0-dimensional tensor: use reduction='mean', or average it yourself."
            )
        return task

    def __repr__(self) -> str:
        return f"Objective({', '.join([loss_name(self.loss), *map(repr, self.penalties.values())])})"


def _named(penalties: list[Penalty]) -> dict[str, Penalty]:
    """Penalties by name; a name that comes again gets a number."""
    named: dict[str, Penalty] = {}
    for penalty in penalties:
        name, count = penalty.name, 2
        while name in named:
            name, count = f"{penalty.name}_{count}", count + 1
        named[name] = penalty
    return named


def _detached(result: Result) -> Result:
    return replace(
        result,
        total=result.total.detach(),
        task=result.task.detach(),
        terms={name: term.detach() for name, term in result.terms.items()},
        outputs=_tree.replace(result.outputs, lambda path, tensor: tensor.detach()),
    )
