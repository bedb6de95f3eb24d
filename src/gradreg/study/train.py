"""One training run: from its description to plain numbers."""

import math
import time
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg import _random
from gradreg.data.dataset import Dataset
from gradreg.data.digits import load_digits
from gradreg.data.mnist import load_mnist
from gradreg.data.splits import Split, split
from gradreg.models import LeNet5, SmallCNN
from gradreg.study.config import NORM_POINTS, Run, StudyError

LOADERS = {"digits": load_digits, "mnist": load_mnist}
MODELS = {"small-cnn": SmallCNN, "lenet5": LeNet5}


@cache
def dataset(name: str) -> Dataset:
    """The data set of a name, read once per process."""
    if name not in LOADERS:
        raise StudyError(f"there is no data set {name!r}; expected {' or '.join(map(repr, LOADERS))}.")
    return LOADERS[name]()


def train(run: Run) -> dict[str, Any]:
    """Trains one network and measures it.

    Returns:
        ``validation_accuracy`` in percent, ``train_loss`` of the last steps, ``seconds``; with ``report="test"`` also
        ``test_accuracy`` in percent and ``jacobian_norm``, the mean of ||J_g||_F over the first test points.

    Raises:
        StudyError: the loss is not finite; names the step.

    Source: the paper's appendix B.1, in the reading of its published scripts.
    """
    torch.set_num_threads(1)
    parts = _split(run)
    model, objective, optimizer = build(run)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [run.steps // 2, run.steps * 3 // 4])
    projections = _random.generator_for(run.seed, "projections")
    torch.manual_seed(_random.generator_for(run.seed, "dropout").initial_seed())
    begin = time.perf_counter()
    total = torch.zeros(())
    recent: list[float] = []
    for step, chosen in enumerate(_batches(len(parts.y), run)):
        result = objective(model, parts.x[chosen], parts.y[chosen], generator=projections)
        total = result.total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 20 == 19 or step == run.steps - 1:
            if not math.isfinite(total.item()):
                raise StudyError(
                    f"the loss became {total.item()} by step {step + 1}; use a smaller weight or step size."
                )
            recent.append(result.task.item())
    found = {
        "seconds": time.perf_counter() - begin,
        "train_loss": sum(recent[-5:]) / len(recent[-5:]),
        "validation_accuracy": accuracy(model, parts.validation_x, parts.validation_y),
    }
    if parts.test_x is not None and parts.test_y is not None:
        found["test_accuracy"] = accuracy(model, parts.test_x, parts.test_y)
        found["jacobian_norm"] = gr.metrics.jacobian_norms(model, parts.test_x[:NORM_POINTS]).mean().item()
    return found


def build(run: Run) -> tuple[nn.Module, gr.Objective, torch.optim.Optimizer]:
    """The network as initialized by the run's seed, its objective and its optimizer."""
    torch.manual_seed(_random.generator_for(run.seed, "initialization").initial_seed())
    model = MODELS[run.model]()
    penalties = [getattr(gr, preset)(weight) for preset, weight in run.penalties]
    # weight_decay of Adam adds weight_decay * w to the gradient, as decay * ||w||^2 / 2 in the loss does.
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": run.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return model, gr.Objective(cross_entropy, *penalties), torch.optim.Adam(groups, lr=run.learning_rate, fused=True)


def accuracy(model: nn.Module, x: Tensor, y: Tensor, chunk: int = 1000) -> float:
    """Percentage of right predictions, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(chunk), y.split(chunk), strict=True))
    model.train()
    return 100 * right / len(y)


def first_batch(run: Run) -> tuple[Tensor, Tensor]:
    """The first training batch, for timing."""
    parts = _split(run)
    chosen = next(iter(_batches(len(parts.y), run)))
    return parts.x[chosen], parts.y[chosen]


def _split(run: Run) -> Split:
    return split(
        dataset(run.data),
        train_size=run.train_size,
        validation_size=run.validation_size,
        test_size=run.test_size,
        seed=run.seed,
        with_test=run.report == "test",
    )


def _batches(size: int, run: Run) -> Any:
    """Positions of each step's examples: shuffled passes over the data, joined end to end."""
    generator = _random.generator_for(run.seed, "batches")
    queue = torch.empty(0, dtype=torch.int64)
    for _ in range(run.steps):
        while len(queue) < run.batch_size:
            queue = torch.cat([queue, torch.randperm(size, generator=generator)])
        yield queue[: run.batch_size]
        queue = queue[run.batch_size :]
