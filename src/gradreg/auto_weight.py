"""`AutoWeight`: an objective whose penalties set their own weight, by what training and held-out loss say."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradreg import _checks, _random, _tree
from gradreg._types import InputTree, Labels, Model
from gradreg.jacobian._refusals import refuse_sharded
from gradreg.jacobian.forward import call_model
from gradreg.jacobian.target import call_loss
from gradreg.metrics import evaluating
from gradreg.mixup import Mixup
from gradreg.objective import Objective, Result
from gradreg.penalties.base import Penalty, next_step
from gradreg.penalties.schedule import Schedule
from gradreg.sam import _same_buffers

Batches = tuple[InputTree, Labels] | list[tuple[InputTree, Labels]]
"""Points to measure on: ``(x, y)``, or a list of such batches where all at once are too many."""

# A training is cut into so many parts; a look between them multiplies or divides the weights by e^RATE at most, and
# divides them by e^FALL where the training loss is more than NO_FIT of the held-out one.
PARTS, RATE, FALL, NO_FIT = 50, 0.2, 0.5, 0.9
# The weights stay within this factor of where they begin.
FARTHEST = 1e4


class Adjustment(NamedTuple):
    """One look of `AutoWeight` at the losses.

    Attributes:
        step: of the training, counted from 0, before which it was.
        training: the task's loss at the training points.
        held_out: the task's loss at the points held out.
        factor: what multiplies the weights that were given, from then on.
    """

    step: int
    training: float
    held_out: float
    factor: float


class AutoWeight:
    """An `Objective` whose penalties have no weight to be searched: it moves while the model trains.

    A network that fits its training points much better than others gets a stronger penalty, one that fits neither a
    weaker one:

    - The first part of the training (`begin`) has no penalties: a network that has not begun to learn has derivatives
      near zero, and says nothing of how strong a penalty on them should be.
    - The weights then begin where the penalties' gradient is as long as the task's: with one common factor
      ``||grad L|| / ||grad R||`` on the batch at hand, R the weighted sum of the penalties. That makes up for the
      scales of inputs, losses and penalties; of a single penalty the weight that is given does not count. (Where one
      of the two has no gradient, as with a last layer of zeros, the weights begin as given.)
    - From then on, at looks after each fiftieth of the training (each step, in trainings of fewer than 50), the factor
      is multiplied by ``exp(0.2 c)``, ``c = log(ratio L_held_out / L_training)`` within -1 and 1; the losses are the
      task's, in evaluation mode. So the penalties grow as long as the training loss is less than ``ratio`` times the
      held-out one. Where it is more than 0.9 times the held-out one, the network still learns what all points have in
      common, and it is ``exp(0.5 c)``. The factor stays within 10000 times and a 10000th of where it began, and comes
      back from there more slowly than it fell: a training that overfits nothing at first, and much in its last half, is
      penalized too little.

    Args:
        objective: loss and penalties: an `Objective`, or `Mixup` around one. It is copied.
        training: some of the training points, ``(x, y)`` or a list of such batches: a few hundred, of all classes, on
            the model's device.
        held_out: points that are not trained on, likewise. Their labels are used, as those of a search would be: do
            not judge the model by them.
        steps: that the training takes in all.
        ratio: of the training loss to the held-out loss at which the weight stays, > 0 and < 1.
        begin: part of the training before the penalties begin, >= 0 and < 1; they do at the last step at the latest.

    Attributes:
        factor: what multiplies the weights that were given; 0 before they begin.
        history: an `Adjustment` before training, one where the penalties begin (the same with ``begin=0``), and one for
            each look.
        step: number of the next step; see `Objective`.

    Raises:
        TypeError: another objective; when called, a model on several processes.
        ValueError: no penalty of a weight > 0, no points, a ratio or begin out of its range; when called, a loss below
            0, which has no ratio.

    Example:
        >>> objective = gr.Objective(cross_entropy, gr.SpectReg(1.0))
        >>> objective = gr.AutoWeight(objective, (x[:500], y[:500]), (x_held_out, y_held_out), steps=2000)
        >>> for x, y in loader:
        ...     objective(model, x, y).total.backward()
        ...     optimizer.step(); optimizer.zero_grad()

    Cost: 49 forward passes (50 with ``begin=0``) over all of these points in a whole training, and two steps more.

    Source: this project; see docs/auto-weight.md for what it gains and loses.
    """

    def __init__(
        self,
        objective: Objective | Mixup,
        training: Batches,
        held_out: Batches,
        *,
        steps: int,
        ratio: float = 0.35,
        begin: float = 0.04,
    ):
        if not isinstance(objective, (Objective, Mixup)):
            raise TypeError(
                f"AutoWeight got objective={objective!r}; expected gr.Objective(cross_entropy, gr.SpectReg(1.0)), or "
                "gr.Mixup around one."
            )
        _checks.positive_integer(steps, "steps", "AutoWeight")
        if not (isinstance(ratio, (int, float)) and 0 < ratio < 1):
            raise ValueError(f"AutoWeight got ratio={ratio!r}; expected a number > 0 and < 1, such as 0.35.")
        if not (isinstance(begin, (int, float)) and 0 <= begin < 1):
            raise ValueError(f"AutoWeight got begin={begin!r}; expected a number >= 0 and < 1, such as 0.04.")
        self.objective = copy.copy(objective)
        if isinstance(self.objective, Mixup):
            self._whole = self.objective.objective = copy.copy(self.objective.objective)
        else:
            self._whole = self.objective
        self._given = {name: penalty for name, penalty in self._whole.penalties.items() if penalty.weight > 0}
        if not self._given:
            raise ValueError(
                f"AutoWeight got {objective!r}, which has no penalty of a weight > 0; write "
                "gr.Objective(loss, gr.SpectReg(1.0))."
            )
        self.training, self.held_out = _batches(training, "training"), _batches(held_out, "held_out")
        self.steps, self.ratio, self.begin = steps, float(ratio), float(begin)
        self._first = min(steps - 1, math.ceil(begin * steps - 1e-9))  # 0.07 of 100 is step 7
        self.step = 0
        self.history: list[Adjustment] = []
        self._start: float | None = None
        self._set(0.0)

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
        """Runs the model and returns the loss with its penalties, after a look at the losses where one is due.

        Before the penalties begin they are 0, also where gradients are switched off.

        Args:
            model, x, y, unlabeled, generator, step: see `Objective`.
        """
        step = next_step(self, step)
        if step is not None and torch.is_grad_enabled():
            _refuse_several_processes(model)
            if self._start is not None:
                if self._is_due(step):
                    self._look(model, step)
            elif not self.history or step >= self._first:
                self._begin(model, x, y, generator, step)
        return self.objective(model, x, y, unlabeled=unlabeled, generator=generator, step=step)

    @property
    def weights(self) -> dict[str, float]:
        """The penalties' present weights, by name."""
        return {name: self._whole.penalties[name].weight for name in self._given}

    def state_dict(self) -> dict[str, Any]:
        """What training goes on from, as plain numbers."""
        history = [list(adjustment) for adjustment in self.history]
        return {"step": self.step, "start": self._start, "factor": self.factor, "history": history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self.step, self._start = state["step"], state["start"]
        self.history = [Adjustment(*numbers) for numbers in state["history"]]
        self._set(state["factor"])

    def _set(self, factor: float) -> None:
        self.factor = factor
        self._whole.penalties = {
            name: penalty * factor if name in self._given else penalty
            for name, penalty in {**self._whole.penalties, **self._given}.items()
        }

    def _is_due(self, step: int) -> bool:
        """Whether a part of the training ends before this step; a step that comes twice counts once."""
        return step * PARTS // self.steps > (step - 1) * PARTS // self.steps and self.history[-1].step != step

    def _begin(self, model: Model, x: InputTree, y: Labels, generator: Generator | None, step: int) -> None:
        """The factor at which penalties and task pull alike; 1 where one of them does not pull at all.

        Also tried before the first step, so that what will not do is told then.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"AutoWeight got a model of type {type(model).__name__}; expected a torch.nn.Module, whose parameters' "
                "gradients it compares."
            )
        training, held_out = self.losses(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        objective = Objective(self._whole.loss, *map(_unscheduled, self._given.values()))
        generator = generator or self._whole.generator
        with _left_alone(model, generator):
            result = objective(model, x, self._labels(y), generator=generator, step=0)
            pull = _length(torch.stack([*result.terms.values()]).sum(), parameters)
            task = _length(result.task, parameters)
        if step >= self._first:
            matching = task / pull if pull > 0 else 1.0
            self._start = matching if math.isfinite(matching) and matching > 0 else 1.0
            self._set(self._start)
        self.history.append(Adjustment(step, training, held_out, self.factor))

    def _look(self, model: Model, step: int) -> None:
        training, held_out = self.losses(model)
        rate = RATE if training <= NO_FIT * held_out else FALL
        factor = self.factor * math.exp(rate * _change(self.ratio, training, held_out))
        assert self._start is not None
        self._set(min(FARTHEST * self._start, max(self._start / FARTHEST, factor)))
        self.history.append(Adjustment(step, training, held_out, self.factor))

    def losses(self, model: Model) -> tuple[float, float]:
        """The task's loss at the training points and at those held out, in evaluation mode.

        Args:
            model: a module or a function.

        Raises:
            ValueError: a loss below 0.
        """
        training, held_out = (self._loss(model, batches) for batches in (self.training, self.held_out))
        if min(training, held_out) < 0:
            raise ValueError(
                f"AutoWeight compares losses by their ratio, but the loss is {training:g} at the training points and "
                f"{held_out:g} at those held out; expected numbers >= 0, as of cross-entropy or a squared error."
            )
        return training, held_out

    def _labels(self, y: Labels) -> Labels:
        """Labels as the loss takes them."""
        if isinstance(self.objective, Mixup) and self.objective.alpha > 0:
            return self.objective.mixable(y)
        return y

    def _loss(self, model: Model, batches: list[tuple[InputTree, Labels]]) -> float:
        """The mean of the task's loss over points, in evaluation mode."""
        total = count = 0.0
        with _left_alone(model, None), evaluating(model), torch.no_grad():
            for x, y in batches:
                size = _points(x)
                total += size * float(call_loss(self._whole.loss, call_model(model, x), self._labels(y)))
                count += size
        return total / count

    def __repr__(self) -> str:
        return f"AutoWeight({self.objective!r}, steps={self.steps}, ratio={self.ratio:g}, begin={self.begin:g})"


def _batches(given: Batches, name: str) -> list[tuple[InputTree, Labels]]:
    """A list of batches, from one or several."""
    found: list[Any] = [given] if isinstance(given, tuple) else list(given) if isinstance(given, list) else []
    pairs = [batch for batch in found if isinstance(batch, (tuple, list)) and len(batch) == 2]
    if not found or len(pairs) < len(found) or not all(_points(x) for x, _ in pairs):
        raise ValueError(
            f"AutoWeight got {name}={_shown(given)}; expected a pair (x, y), or a list of such pairs, of one point or "
            "more each."
        )
    return [(x, y) for x, y in pairs]


def _points(x: InputTree) -> int:
    """How many examples an input tree holds."""
    return next((tensor.shape[0] if tensor.ndim else 0 for _, tensor in _tree.tensors(x)), 0)


def _shown(given: object) -> str:
    """A value by its type, and what it holds by shapes or types."""
    if not isinstance(given, (tuple, list)):
        return type(given).__name__
    parts = [str(tuple(item.shape)) if isinstance(item, Tensor) else type(item).__name__ for item in given]
    return f"{type(given).__name__}({', '.join(parts)})"


def _change(ratio: float, training: float, held_out: float) -> float:
    """By how much of the fastest change the weights are to move, from -1 to 1."""
    if not math.isfinite(training):
        return -1.0
    if held_out == 0 or math.isnan(held_out):
        return 0.0
    return 1.0 if training == 0 else min(1.0, max(-1.0, math.log(ratio) + math.log(held_out) - math.log(training)))


def _unscheduled(penalty: Penalty) -> Penalty:
    """The penalty taken as a whole at every step."""
    whole = copy.copy(penalty)
    whole.schedule = Schedule(owner=penalty.schedule.owner)
    return whole


@contextmanager
def _left_alone(model: Model, generator: Generator | None) -> Iterator[None]:
    """Afterwards random state and buffers are as before."""
    module = model if isinstance(model, nn.Module) else nn.Module()
    with _random.untouched(generator, [p.device for p in module.parameters()]), _same_buffers(module):
        yield


def _length(value: Tensor, parameters: list[nn.Parameter]) -> float:
    """The L2 norm of a value's gradient with respect to all parameters together."""
    if not value.requires_grad or not parameters:
        return 0.0
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(part.double().square().sum().item() for part in found if part is not None))


def _refuse_several_processes(model: Model) -> None:
    """Each process would find a weight of its own.

    Raises:
        TypeError: the model is wrapped for several processes.
    """
    wrapped = isinstance(model, DistributedDataParallel)
    try:
        refuse_sharded(model, tangents=False)
    except _checks.UnsupportedOperationError:
        wrapped = True
    if wrapped:
        raise TypeError(
            f"AutoWeight got a model on several processes ({type(model).__name__}), each of which would find another "
            "weight. Train on one process first, and give the last of its `weights` to the others."
        )
