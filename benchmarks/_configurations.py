"""Which models and which kinds of steps are timed."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from _recipes import WEIGHT, has_peer, peer, textbook_doubleback, textbook_spectreg
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from vit import ViT

import gradreg as gr
from gradreg.models import MLP, LeNet5, ResNet
from gradreg.study.steps import PLAIN, Configuration, Total, accepts, penalized, plain

STEP = 0.1


@dataclass(frozen=True)
class Subject:
    """A model and the batch that it is trained on.

    Attributes:
        make: gives the network, for a device ("cpu", "cuda").
        shape: of an input.
        outputs: number of classes.
        batch: examples.
        formats: the memory formats it is timed in: whether channels_last.
    """

    make: Callable[[str], nn.Module]
    shape: tuple[int, ...]
    outputs: int
    batch: int
    formats: tuple[bool, ...] = (False,)

    def data(self, device: str, batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Fixed random inputs and labels."""
        generator = torch.Generator().manual_seed(0)
        number = batch or self.batch
        x = torch.randn(number, *self.shape, generator=generator)
        y = torch.randint(self.outputs, (number,), generator=generator)
        return x.to(device), y.to(device)


def _mlp(outputs: int) -> Subject:
    return Subject(lambda device: MLP(784, outputs, width=256, hidden=2), (784,), outputs, 128)


SUBJECTS: dict[str, Subject] = {
    "lenet5": Subject(lambda device: LeNet5(), (1, 28, 28), 10, 50, (False, True)),
    "resnet": Subject(
        lambda device: ResNet(width=48 if device.startswith("cuda") else 16), (3, 32, 32), 10, 128, (False, True)
    ),
    "vit": Subject(lambda device: ViT(), (3, 32, 32), 10, 64),
    "mlp10": _mlp(10),
    "mlp200": _mlp(200),
    "mlp1000": _mlp(1000),
}


def configurations(
    outputs: int, *, formats: Sequence[bool] = (False,), patterns: Sequence[str] = ("*",), most_outputs: int = 10
) -> list[Configuration]:
    """All kinds of steps whose names match; the plain ones always.

    Args:
        outputs: m, the model's number of outputs.
        formats: memory formats: whether channels_last.
        patterns: of names, as for files: ``"SpectReg*"``.
        most_outputs: penalties on the whole Jacobian are timed up to so many outputs; they take 1 + m plain steps.

    Raises:
        ValueError: no name matches.
    """
    kinds = [*_kinds(outputs, outputs <= most_outputs)]
    chosen = [kind for kind in kinds if kind[0] == PLAIN or any(fnmatch(kind[0], p) for p in patterns)]
    if not any(fnmatch(name, pattern) for name, *_ in kinds for pattern in patterns):
        names = ", ".join(repr(name) for name, *_ in kinds)
        raise ValueError(f"no configuration is named {' or '.join(map(repr, patterns))}; expected some of {names}.")
    return [
        Configuration(name, total, floor, last, period) for last in formats for name, total, floor, period in chosen
    ]


def _kinds(outputs: int, whole: bool) -> Iterator[tuple[str, Total, float, int]]:
    """Name, total, floor and period."""
    yield PLAIN, plain(cross_entropy), 1.0, 1
    yield "textbook SpectReg", textbook_spectreg, 2.0, 1
    yield "textbook DoubleBack", textbook_doubleback, 2.0, 1
    for name, penalty, floor in _ours():
        yield name, penalized(cross_entropy, penalty), floor, 1
    yield from _lazy()
    if whole:
        yield "FrobReg", penalized(cross_entropy, gr.FrobReg(WEIGHT)), 1.0 + outputs, 1
        yield "JacReg", penalized(cross_entropy, gr.JacReg(WEIGHT)), 1.0 + outputs, 1
    if has_peer():
        yield "jacobian_regularizer, 1 row", peer(1), 2.0, 1
        if whole:
            yield "jacobian_regularizer, all rows", peer(-1), 1.0 + outputs, 1


def _ours() -> Iterator[tuple[str, gr.Penalty, float]]:
    difference = gr.FiniteDifference(STEP)
    # F is a forward pass, a plain step 3 F. A row by double backward is a gradient to the input and its backward pass,
    # 3 F more. The other engines need F for the row, without a graph, and run the model again along it.
    yield "SpectReg", gr.SpectReg(WEIGHT), 2.0
    yield f"SpectReg, FiniteDifference({STEP:g})", gr.SpectReg(WEIGHT, engine=difference), 7 / 3
    yield "SpectReg, ForwardMode", gr.SpectReg(WEIGHT, engine=gr.ForwardMode()), 3.0
    probe = gr.Normal(side="input")
    yield f"probe, FiniteDifference({STEP:g})", gr.JacobianPenalty(WEIGHT, projection=probe, engine=difference), 2.0
    yield "probe, ForwardMode", gr.JacobianPenalty(WEIGHT, projection=probe, engine=gr.ForwardMode()), 2.0
    yield "DoubleBack", gr.DoubleBack(WEIGHT), 2.0


def _lazy() -> Iterator[tuple[str, Total, float, int]]:
    """SpectReg on some of the steps, or of the examples, where this version of the library has it."""
    forms: list[tuple[str, float, float, int]] = [
        ("every", 4, 1 + 1 / 4, 4),
        ("every", 8, 1 + 1 / 8, 8),
        ("fraction", 0.5, 1 + 0.5, 1),
    ]
    for option, value, floor, period in forms:
        if accepts(gr.SpectReg, option):
            given: dict[str, Any] = {option: value}
            yield f"SpectReg, {option}={value:g}", penalized(cross_entropy, gr.SpectReg(WEIGHT, **given)), floor, period


def parameters(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(math.prod(p.shape) for p in model.parameters())
