"""One training run: from its description to plain numbers, with checkpoints to go on from."""

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import gradreg as gr
from gradreg import _random
from gradreg._types import LossFunction
from gradreg.data.dataset import Dataset
from gradreg.data.loaders import LOADERS
from gradreg.data.own import load_pack
from gradreg.data.splits import Split, split
from gradreg.study.batches import Unlabelled, batches
from gradreg.study.compiled_steps import compiled_step
from gradreg.study.config import Run, StudyError, Technique
from gradreg.study.function import learned_function
from gradreg.study.metric import ACCURACY
from gradreg.study.networks import network
from gradreg.study.profile import profile
from gradreg.study.scores import accuracy, score
from gradreg.study.source import code_hash
from gradreg.study.suggest import unknown
from gradreg.study.terms import build_penalties

# By the key of the metric.
LOSSES: dict[str, LossFunction] = {"accuracy": cross_entropy, "mse": mse_loss}

# Every so many steps the loss is looked at; about so many of these looks are noted, and so many take the metric on at
# most so many validation points. None of this changes what comes out.
LOOK_EVERY = 20
LINES, CURVE_POINTS, CURVE_SIZE = 200, 10, 1000
# `gradreg.AutoWeight` looks at so many training and validation points, evenly from all, which may be in order of class.
AUTO_POINTS = 500


class StoppedError(RuntimeError):
    """The run was asked to stop; its checkpoint is kept."""


class Keeper(Protocol):
    """Where a run's state goes while it trains: `gradreg.study.store.RunFiles`, or its proxy on another machine."""

    def note(self, line: dict[str, Any]) -> None:
        """A line of metrics."""

    def beat(self, step: int, steps: int) -> None:
        """A sign of life."""

    def save_checkpoint(self, content: bytes) -> None:
        """Keeps the training state."""


@dataclass
class Watch:
    """What goes on beside the training.

    Attributes:
        keeper: where metrics and checkpoints go; None keeps nothing.
        checkpoint_seconds: time between checkpoints.
        beat_seconds: time between signs of life.
        stop: asked before each step; True ends the run with a checkpoint.
    """

    keeper: Keeper | None = None
    checkpoint_seconds: float = 20.0
    beat_seconds: float = 2.0
    stop: Callable[[], bool] = field(default=lambda: False)


@cache
def dataset(name: str, pack: Path | None = None) -> Dataset:
    """The data set of a name, read once per process.

    Args:
        name: of a built-in data set.
        pack: the user's own data, as kept in the store.
    """
    if pack is not None:
        return load_pack(pack)
    if name not in LOADERS:
        raise StudyError(f"there is no data set of that name: {unknown(name, LOADERS)}.")
    return LOADERS[name]()


def divide(run: Run, data: Dataset) -> Split:
    """The points of a run; test points only where it measures them."""
    return split(
        data,
        train_size=run.split.train_size,
        validation_size=run.split.validation_size,
        test_size=run.split.test_size,
        seed=run.seed,
        balanced=run.split.balanced,
        with_test=run.protocol.measure == "test",
        test_points=run.protocol.test_points,
        unlabelled=run.split.unlabelled,
    )


class Training:
    """The state of a run: network, objective, optimizer, schedule, random generators, step.

    `gradreg.study.distributed` has one of several processes, each of which sees a share of every batch.

    Args:
        run: what to train.
        parts: its points.
        outputs: how many numbers the network gives for an input: one for each class.
        device: where to train.
    """

    def __init__(self, run: Run, parts: Split, outputs: int, device: str = "cpu"):
        self.run, self.parts, self.device = run, parts, torch.device(device)
        self.x, self.y = parts.x.to(self.device), parts.y.to(self.device)
        if self.x.dtype != torch.uint8:  # of which `inputs` lays out each batch, to have one copy of them all
            self.x = channels_last(self.x)
        self.unlabelled = Unlabelled(run, parts, self.device)
        torch.manual_seed(_random.generator_for(run.seed, "initialization").initial_seed())
        self.model = build_model(run, tuple(parts.x.shape[1:]), outputs).to(self.device)
        self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # What the objective calls: the network, or a wrapper around it.
        self.called: nn.Module = self.model
        self.objective = gr.Objective(LOSSES[run.metric.key], *build_penalties(run))
        self.auto_weight: gr.AutoWeight | None = None
        self._gradients = self._technique(run.technique, outputs)
        self.compiled: gr.CompiledObjective | None = None
        self.optimizer = build_optimizer(run, self.model)
        self.scheduler = build_scheduler(run, self.optimizer)
        self.projections = _random.generator_for(run.seed, "projections")
        torch.manual_seed(_random.generator_for(run.seed, "dropout").initial_seed())
        self.step, self.seconds = 0, 0.0
        # Step and loss of the last looks.
        self.recent: list[tuple[int, float]] = []

    def advance(self, chosen: Tensor) -> gr.Result:
        """One step on the examples at these positions."""
        chosen = self.share_of(chosen).to(self.device)
        x, y, more = self.inputs(chosen), self.y[chosen], self.unlabelled.take()
        more = None if more is None else channels_last(self.parts.prepared(more))
        if self.compiled is not None:
            result = self.compiled(x, y, unlabeled=more, generator=self.projections, step=self.step)
        else:
            result = self._gradients(x, y, more)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.step += 1
        return result

    def _technique(self, technique: Technique, outputs: int) -> Callable[[Tensor, Tensor, Tensor | None], gr.Result]:
        """What gives the parameters their gradients for a batch and unlabelled inputs; returns the result."""
        factor = self.run.loss_factor  # the penalties' weights are parts of the task's, so what is noted is a mean loss
        mixed = gr.Mixup(self.objective, technique.mixup, classes=outputs) if technique.mixup > 0 else None
        if technique.sam > 0:
            sam = gr.SAM(mixed or self.objective, self.model, technique.sam)
            return lambda x, y, more: sam(
                x, y, unlabeled=more, generator=self.projections, step=self.step, factor=factor
            )

        if technique.auto_weight > 0:
            self.auto_weight = self._auto_weight(mixed or self.objective)

        def gradients(x: Tensor, y: Tensor, more: Tensor | None) -> gr.Result:
            # The objective and what it calls may have been exchanged since: `gradreg.study.distributed`.
            objective = self.auto_weight or mixed or self.objective
            result = objective(self.called, x, y, unlabeled=more, generator=self.projections, step=self.step)
            (factor * result.total).backward()
            return result

        return gradients

    def _auto_weight(self, objective: gr.Objective | gr.Mixup) -> gr.AutoWeight:
        """The objective whose weights move by some of the training and validation points."""
        run, parts, points = self.run, self.parts, []
        for x, y in ((parts.x, parts.y), (parts.validation_x, parts.validation_y)):
            if not len(y):
                raise StudyError("technique.auto_weight needs validation points; write split.validation_size=500.")
            chosen = torch.linspace(0, len(y) - 1, min(AUTO_POINTS, len(y)), dtype=torch.float64).round().long()
            points.append((channels_last(parts.prepared(x[chosen])).to(self.device), y[chosen].to(self.device)))
        return gr.AutoWeight(objective, *points, steps=run.schedule.steps, ratio=run.technique.auto_weight)

    def inputs(self, chosen: Tensor) -> Tensor:
        """The examples at these positions, as the network takes them."""
        x = self.x[chosen]
        return channels_last(self.parts.prepared(x)) if x.dtype == torch.uint8 else x

    def share_of(self, chosen: Tensor) -> Tensor:
        """Those positions of a batch that this process trains on."""
        return chosen

    def whole(self, result: gr.Result) -> gr.Result:
        """The result of the whole batch, from that of this process's share."""
        return result

    def state(self) -> bytes:
        """All that the next step depends on."""
        kept = {
            "step": self.step,
            "seconds": self.seconds,
            "recent": self.recent,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "projections": self.projections.get_state(),
            "auto_weight": self.auto_weight and self.auto_weight.state_dict(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        buffer = io.BytesIO()
        torch.save(kept, buffer)
        return buffer.getvalue()

    def restore(self, content: bytes) -> None:
        """Puts a state back."""
        kept = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.scheduler.load_state_dict(kept["scheduler"])
        self.projections.set_state(kept["projections"])
        if self.auto_weight is not None:
            self.auto_weight.load_state_dict(kept["auto_weight"])
        torch.set_rng_state(kept["torch"])
        if kept["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(kept["cuda"], self.device)
        self.step, self.seconds = kept["step"], kept["seconds"]
        self.unlabelled.start(self.step)
        # A run that stopped earlier looked at its last step, where this one may not.
        self.recent = [(s, v) for s, v in kept["recent"] if s % LOOK_EVERY == 0 or s == self.run.steps]


def train(
    run: Run, data: Dataset, *, device: str = "cpu", start: bytes | None = None, watch: Watch | None = None
) -> "tuple[dict[str, Any], Training]":
    """Trains one network and measures it.

    Args:
        run: what to train.
        data: its data set.
        device: where.
        start: a checkpoint of the same run, or of the same run that stopped earlier (``schedule.until``), to go on
            from; what comes out is the same bit for bit as without a stop, on one device and one version of torch; with
            compiled steps (on a GPU) to rounding.
        watch: where metrics and checkpoints go.

    Returns:
        ``validation_accuracy`` in percent, ``train_loss`` of the last steps, ``steps``, ``seconds``; where test points
        are measured also ``test_accuracy`` in percent (and ``test_top5_accuracy``, where `Protocol.top_k` is 5),
        ``jacobian_norm``, the mean of ||J_g||_F over the first test points (not of a network that normalizes by the
        batch there too, which has none), and ``half_squared_norm`` of the weights,
        and with `Protocol.profile_points` what `gradreg.study.profile.profile` measures.
        Of a regression ``validation_mse`` and ``test_mse`` in place of accuracies, and where its inputs and outputs are
        single numbers also ``function``; see `gradreg.study.function`. And the training with its network, and with the
        state after the last step.

    Raises:
        StudyError: the loss is not finite; names the step.
        StoppedError: `Watch.stop` said so.

    Source: the paper's appendix B.1, in the reading of its published scripts.
    """
    torch.set_num_threads(1)
    training = Training(run, divide(run, data), data.outputs, device)
    training.compiled = compiled_step(run, training.objective, training.model, training.device)
    return finish(training, start, watch or Watch()), training


def finish(training: Training, start: bytes | None, watch: Watch) -> dict[str, Any]:
    """Takes the steps that are left, from a checkpoint where there is one, and measures; see `train`."""
    if start is not None:
        training.restore(start)
    _loop(training, watch)
    return measure(training)


def measure(training: Training) -> dict[str, Any]:
    """What a run has come to after its last step; see `train`.

    Raises:
        StudyError: a number is not finite.
    """
    run, parts, model, metric = training.run, training.parts, training.model, training.run.metric
    measured = partial(score, metric, model, prepare=parts.prepared)
    found: dict[str, Any] = {
        "steps": run.steps,
        "seconds": training.seconds,
        "train_loss": sum(loss for _, loss in training.recent) / len(training.recent),
        f"validation_{metric.key}": measured(parts.validation_x, parts.validation_y),
    }
    if training.auto_weight is not None:
        found["weight_factor"] = training.auto_weight.factor
    if parts.test_x is not None and parts.test_y is not None:
        found[f"test_{metric.key}"] = measured(parts.test_x, parts.test_y)
        if (top := run.protocol.top_k) > 1:
            found[f"test_top{top}_accuracy"] = accuracy(
                model, parts.test_x, parts.test_y, top=top, prepare=parts.prepared
            )
        if not (coupled := gr.metrics.coupling_layers(model)):
            points = parts.prepared(parts.test_x[: run.protocol.norm_points].to(training.device))
            found["jacobian_norm"] = gr.metrics.jacobian_norms(model, points).mean().item()
        found["half_squared_norm"] = half_squared_norm(model)
        if (count := run.protocol.profile_points) > 0:
            points = parts.prepared(parts.test_x[:count].to(training.device))
            found |= profile(model, points, parts.test_y[:count], norm_points=run.protocol.norm_points)
        if not coupled and metric is not ACCURACY and parts.x.shape[1:] == parts.y.shape[1:] == (1,):
            found["function"] = learned_function(model, parts)
    lost = [name for name, value in found.items() if isinstance(value, float) and not math.isfinite(value)]
    if lost:
        raise StudyError(f"{lost[0]} is {found[lost[0]]} after the last step; use a smaller weight or step size.")
    return found


def half_squared_norm(model: nn.Module) -> float:
    """Half the squared L2 norm of the weight matrices and filters: what weight decay multiplies.

    Source: the "weight loss" of the paper's appendix D, figure 5.
    """
    return 0.5 * sum(p.detach().double().square().sum().item() for p in _matrices(model))


def _matrices(model: nn.Module, leading: int = 0) -> list[nn.Parameter]:
    """The parameters that weight decay holds for: not biases, not those of normalization."""
    return [p for p in model.parameters() if p.ndim > 1 + leading]


def _loop(training: Training, watch: Watch) -> None:
    """The steps that are left, with signs of life and checkpoints by the clock."""
    run, keeper = training.run, watch.keeper
    marks = marks_of(run)
    before = training.seconds
    begin = saved = beaten = time.monotonic()
    if keeper is not None:
        keeper.beat(training.step, run.steps)
    for chosen in islice(batches(len(training.y), run), training.step, None):
        if watch.stop():
            training.seconds = before + time.monotonic() - begin
            if keeper is not None:
                keeper.save_checkpoint(training.state())
            raise StoppedError(f"stopped after step {training.step} of {run.steps}; its state is kept")
        result = training.advance(chosen)
        step, now = training.step, time.monotonic()
        training.seconds = before + now - begin
        if step % LOOK_EVERY == 0 or step == run.steps:
            look(training, result, keeper, marks)
        if keeper is not None and now - beaten >= watch.beat_seconds:
            keeper.beat(step, run.steps)
            beaten = now
        if keeper is not None and now - saved >= watch.checkpoint_seconds and step < run.steps:
            keeper.save_checkpoint(training.state())
            saved = now


def marks_of(run: Run) -> tuple[set[int], set[int]]:
    """The steps that are noted, and those of them where the metric is taken."""
    looks = [*range(LOOK_EVERY, run.steps, LOOK_EVERY), run.steps]
    noted = set(looks[:: max(1, len(looks) // LINES)]) | {run.steps}
    measured = {
        looks[len(looks) * i // CURVE_POINTS - 1] for i in range(1, CURVE_POINTS + 1) if len(looks) * i >= CURVE_POINTS
    }
    return noted | measured, measured


def look(training: Training, result: gr.Result, keeper: Keeper | None, marks: tuple[set[int], set[int]]) -> None:
    """Looks at the loss, and notes what is due.

    Args:
        training: whose step is looked at.
        result: of that step.
        keeper: where a line of metrics goes; None keeps nothing.
        marks: of `marks_of`.

    Raises:
        StudyError: the loss is not finite.
    """
    step = training.step
    result = training.whole(result)
    total = result.total.item()
    if not math.isfinite(total):
        raise StudyError(f"the loss became {total} by step {step}; use a smaller weight or step size.")
    task = result.task.item()
    training.recent = [*training.recent[-4:], (step, task)]
    if keeper is None or step not in marks[0]:
        return
    line: dict[str, Any] = {
        "step": step,
        "seconds": round(training.seconds, 3),
        "learning_rate": training.scheduler.get_last_lr()[0],
        "total": total,
        "task": task,
        **{name: value.item() for name, value in result.terms.items()},
    }
    if step in marks[1]:
        x, y = training.parts.validation_x[:CURVE_SIZE], training.parts.validation_y[:CURVE_SIZE]
        metric = training.run.metric
        line[f"validation_{metric.key}"] = score(metric, training.model, x, y, prepare=training.parts.prepared)
    keeper.note(line)


def build_model(run: Run, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The network, drawn from torch's global generator."""
    if code_hash(run.model.name) != run.model.code:
        raise StudyError(
            f"the source of {run.model.name} has changed since the run was described; give the command again, so that "
            "the new network gets runs of its own."
        )
    return network(run.model.name, shape, outputs)


def channels_last(images: Tensor) -> Tensor:
    """Images with the channels last, which torch's convolutions are faster on: docs/performance.md."""
    return images.to(memory_format=torch.channels_last) if images.ndim == 4 else images


def build_optimizer(run: Run, model: nn.Module, leading: int = 0) -> torch.optim.Optimizer:
    """The optimizer, with weight decay on matrices and filters alone.

    Args:
        run: which optimizer.
        model: whose parameters.
        leading: how many dimensions each parameter has in front of its own.
    """
    # weight_decay of the first two adds weight_decay * w to the gradient, as decay * ||w||^2 / 2 in the loss does.
    matrices = _matrices(model, leading)
    others = [p for p in model.parameters() if p.ndim <= 1 + leading]
    given = run.optimizer
    groups = [{"params": matrices, "weight_decay": given.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if given.name == "sgd":
        nesterov = given.momentum > 0
        return torch.optim.SGD(groups, lr=given.learning_rate, momentum=given.momentum, nesterov=nesterov)
    if given.name == "adamw":
        return torch.optim.AdamW(groups, lr=given.learning_rate, fused=True)
    return torch.optim.Adam(groups, lr=given.learning_rate, fused=True)


def build_scheduler(run: Run, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.MultiStepLR:
    """The fall of the learning rate."""
    schedule = run.schedule
    milestones = [int(part * schedule.steps) for part in schedule.milestones]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=schedule.factor)
