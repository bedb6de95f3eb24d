"""Short trainings on scikit-learn's digits under the settings of real training: what accuracy each ends with.

    python tests/trainings_for_tests.py

prints the table of docs/compatibility.md.
"""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradreg as gr
from gradreg.data import digits

EXACT, DIFFERENCE = gr.DoubleBackward(), gr.FiniteDifference(0.5, central=True)
STEPS, BATCH, LABELLED = 300, 20, 200


class Perceptron(nn.Module):
    """A small net; the hidden layers can be checkpointed."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.checkpointed = nn.Linear(64, 32), nn.Linear(32, 10), checkpointed

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.layers, x, use_reentrant=False) if self.checkpointed else self.layers(x)

    def layers(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x.flatten(1))))


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 10))


@dataclass(frozen=True)
class Setting:
    """What differs from a plain loop in float32.

    Attributes:
        model: makes the net.
        engine: of the penalty.
        dtype: of autocast.
        scale: whether a GradScaler is used.
        parts: into how many the batch is cut, whose gradients are accumulated.
        largest: norm of the gradient; None: not clipped.
        channels_last: the memory format.
        compiled: whether the net is, with the buffers kept that penalties need.
    """

    model: Callable[[], nn.Module] = Perceptron
    engine: gr.Engine = EXACT
    dtype: torch.dtype | None = None
    scale: bool = False
    parts: int = 1
    largest: float | None = None
    channels_last: bool = False
    compiled: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype is None else torch.autocast("cpu", self.dtype)

    def called(self, model: nn.Module) -> Any:
        """What is called in place of the net."""
        return torch.compile(model, backend="aot_eager") if self.compiled else model

    def keeping(self) -> AbstractContextManager[Any]:
        return import_module("torch._functorch.config").patch(donated_buffer=False) if self.compiled else nullcontext()


def data() -> tuple[Tensor, Tensor]:
    """Standardized images and labels; the first are for training."""
    found = digits.load_digits()
    order = torch.randperm(len(found.y), generator=Generator().manual_seed(0))
    x, y = found.x[order], found.y[order]
    return (x - x[:LABELLED].mean()) / x[:LABELLED].std(), y


@cache
def train(setting: Setting, seed: int) -> float:
    """Test accuracy in percent after `STEPS` steps of Adam with SpectReg."""
    torch.manual_seed(seed)
    x, y = data()
    model = setting.model()
    if setting.channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=setting.scale)
    penalty = gr.SpectReg(0.1, engine=setting.engine)
    objective = gr.Objective(F.cross_entropy, penalty, generator=Generator().manual_seed(100 * seed))
    called = setting.called(model)
    for step in range(STEPS):
        chosen = torch.randint(LABELLED, (BATCH,), generator=Generator().manual_seed(step))
        for index in chosen.chunk(setting.parts):
            with setting.autocast(), setting.keeping():
                result = objective(called, x[index], y[index])
            scaler.scale(result.total / setting.parts).backward()
        if setting.largest is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), setting.largest)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    with torch.no_grad():
        right = model(x[LABELLED:]).argmax(1) == y[LABELLED:]
    return 100 * right.double().mean().item()


SETTINGS: dict[str, Setting] = {
    "float32": Setting(),
    "autocast, bfloat16": Setting(dtype=torch.bfloat16),
    "autocast, bfloat16, ForwardMode": Setting(dtype=torch.bfloat16, engine=gr.ForwardMode()),
    "autocast, float16, GradScaler, clipped to 2": Setting(dtype=torch.float16, scale=True, largest=2.0),
    "gradient accumulation": Setting(parts=2),
    "gradient clipping to 2": Setting(largest=2.0),
    "activation checkpointing": Setting(model=lambda: Perceptron(checkpointed=True)),
    "FiniteDifference(0.5, central=True)": Setting(engine=DIFFERENCE),
    "the same, `torch.compile(model)`": Setting(engine=DIFFERENCE, compiled=True),
    "convolutions": Setting(model=cnn),
    "convolutions, channels last": Setting(model=cnn, channels_last=True),
}


def ends(setting: Setting, seeds: int) -> list[float]:
    """The accuracies of several seeds."""
    return [train(setting, seed) for seed in range(seeds)]


def row(name: str, found: list[float]) -> str:
    """Of the table: mean and sample standard deviation."""
    return f"| {name} | {statistics.mean(found):.2f} ({statistics.stdev(found):.2f}) |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"| {STEPS} steps | test accuracy |\n|---|---:|")
    for name, setting in SETTINGS.items():
        print(row(name, ends(setting, 5)), flush=True)
