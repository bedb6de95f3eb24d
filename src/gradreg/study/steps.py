"""Training steps that are timed beside each other: a plain one, and others with a penalty."""

import copy
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import gradreg as gr
from gradreg import _tree
from gradreg._peak import clock_of, peak_bytes
from gradreg._timing import Spread, in_turn, spread
from gradreg._types import LossFunction

Total = Callable[[nn.Module, Any, Any], Tensor]
"""What is minimized: ``total(model, x, y)``."""

PLAIN = "plain"


@dataclass(frozen=True)
class Configuration:
    """A kind of step.

    Attributes:
        name: what tables call it; `PLAIN` is what the others are compared with.
        total: the loss with its penalty.
        floor: floating-point operations relative to a plain step, at the least: a plain step is three forward passes
            (3 F), one with a row by double backward 6 F, so 2.0.
        channels_last: the memory format of the model and of its inputs.
        period: a lazy penalty is worked out once in so many steps; a step's time is then the mean over them.
    """

    name: str
    total: Total
    floor: float = 1.0
    channels_last: bool = False
    period: int = 1

    @property
    def format(self) -> str:
        """The memory format in words."""
        return "channels_last" if self.channels_last else "contiguous"


@dataclass(frozen=True)
class Row:
    """What was measured of a configuration.

    Attributes:
        name, format, floor: the configuration's.
        seconds: of a step.
        ratio: of the medians, to the plain step of the same memory format.
        to_fastest: to the fastest plain step of either format.
        least: the same of the least times in place of the medians, which others on the machine disturb least.
        peak_bytes: the most that lives at once during a step beyond what lived before it; None if not measured.
        memory: that, relative to the plain step of the same format.
    """

    name: str
    format: str
    floor: float
    seconds: Spread
    ratio: float
    to_fastest: float
    least: float
    peak_bytes: int | None = None
    memory: float | None = None

    @property
    def to_floor(self) -> float:
        """How many times the floor: the ratio to the fastest plain step over the floor."""
        return self.to_fastest / self.floor

    def record(self) -> dict[str, Any]:
        """The row for JSON."""
        return {**asdict(self), "to_floor": self.to_floor}


@dataclass(frozen=True)
class Measured:
    """The rows, and the configurations that failed at their first step (by name and format) with the error."""

    rows: tuple[Row, ...]
    failed: dict[tuple[str, str], str]


class TrainingStep:
    """Forward pass, loss, penalty, backward pass, a step of Adam (fused) and zero_grad, on fixed data.

    Args:
        model: copied, so that configurations do not train each other's.
        x, y: the batch.
        total: what is minimized.
        channels_last: the memory format; x is then one tensor of four dimensions.
        bf16: whether the loss and the penalty are worked out under autocast to bfloat16.

    Example:
        >>> loss = plain(nn.functional.mse_loss)
        >>> TrainingStep(nn.Linear(3, 2), torch.ones(4, 3), torch.zeros(4, 2), loss)()
    """

    def __init__(
        self, model: nn.Module, x: Any, y: Any, total: Total, *, channels_last: bool = False, bf16: bool = False
    ):
        self.model = copy.deepcopy(model).train()
        if channels_last:
            # torch's types know no keyword memory_format of Module.to
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            x = x.to(memory_format=torch.channels_last)
        self.x, self.y, self.total, self.bf16 = x, y, total, bf16
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.device = parameters[0].device
        self.optimizer = torch.optim.Adam(parameters, lr=1e-5, fused=True)

    def __call__(self) -> None:
        """One step."""
        self._total().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _total(self) -> Tensor:
        with self._precision():
            return self.total(self.model, self.x, self.y)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()


def plain(loss: LossFunction) -> Total:
    """The loss alone, as anyone writes it."""

    def total(model: nn.Module, x: Any, y: Any) -> Tensor:
        return loss(model(*x.args, **x.kwargs) if isinstance(x, gr.Args) else model(x), y)

    return total


def penalized(loss: LossFunction, penalty: gr.Penalty) -> Total:
    """The loss and a penalty, by an `Objective`."""
    objective = gr.Objective(loss, penalty)
    return lambda model, x, y: objective(model, x, y).total


def accepts(preset: Callable[..., Any], option: str) -> bool:
    """Whether a preset takes an option.

    Example:
        >>> accepts(gr.SpectReg, "samples"), accepts(gr.SpectReg, "colour")
        (True, False)
    """
    return option in inspect.signature(preset).parameters


def measure(
    model: nn.Module,
    x: Any,
    y: Any,
    configurations: Sequence[Configuration],
    *,
    repeats: int,
    warm: int = 3,
    bf16: bool = False,
    memory: bool = False,
) -> Measured:
    """Times the steps of all configurations, each once in every repeat.

    Args:
        model: the network, on its device; it is left as it is.
        x, y: a batch, on the same device.
        configurations: one of them a plain step that works.
        repeats, warm: see `in_turn`.
        bf16: autocast to bfloat16.
        memory: whether to measure the peak of memory too.

    Raises:
        Exception: what a plain step raised, when every plain step fails.
    """
    steps: dict[str, TrainingStep] = {}
    chosen: dict[str, Configuration] = {}
    failed: dict[tuple[str, str], str] = {}
    first: Exception | None = None
    for configuration in configurations:
        key = f"{configuration.name}, {configuration.format}"
        step = TrainingStep(model, x, y, configuration.total, channels_last=configuration.channels_last, bf16=bf16)
        try:
            for _ in range(configuration.period):
                step()
        except Exception as error:
            if configuration.name == PLAIN:
                first = first or error
            reason = str(error).strip().partition("\n")[0]
            failed[configuration.name, configuration.format] = f"{type(error).__name__}: {reason}"
            continue
        steps[key], chosen[key] = step, configuration
    if not any(configuration.name == PLAIN for configuration in chosen.values()):
        raise first or ValueError(f"measure got no configuration named {PLAIN!r}; expected one to compare with.")
    device = next(iter(steps.values())).device
    periods = {key: configuration.period for key, configuration in chosen.items()}
    seconds = in_turn(steps, repeats, warm=warm, periods=periods, clock=clock_of(device))
    peaks = {key: _peak(step, periods[key]) for key, step in steps.items()} if memory else {}
    return Measured(_rows(chosen, {key: spread(values) for key, values in seconds.items()}, peaks), failed)


def _peak(step: TrainingStep, period: int) -> int:
    def whole() -> None:
        for _ in range(period):
            step()

    return peak_bytes(whole, step.device)


def _rows(chosen: dict[str, Configuration], seconds: dict[str, Spread], peaks: dict[str, int]) -> tuple[Row, ...]:
    plains = {configuration.format: key for key, configuration in chosen.items() if configuration.name == PLAIN}
    fastest = min(seconds[key].median for key in plains.values())
    least = min(seconds[key].least for key in plains.values())
    rows = []
    for key, configuration in chosen.items():
        # a format whose plain step fails has the other's to be compared with
        same = plains.get(configuration.format, next(iter(plains.values())))
        rows.append(
            Row(
                configuration.name,
                configuration.format,
                configuration.floor,
                seconds[key],
                seconds[key].median / seconds[same].median,
                seconds[key].median / fastest,
                seconds[key].least / least,
                peaks.get(key),
                peaks[key] / peaks[same] if peaks else None,
            )
        )
    return tuple(rows)


def four_dimensional(x: Any) -> bool:
    """Whether x is one tensor (B, C, H, W), which has a channels_last format."""
    return isinstance(x, Tensor) and x.ndim == 4


def outputs_of(model: nn.Module, x: Any) -> Any:
    """What the model returns for a batch, in evaluation mode; it is left as it was."""
    trial = copy.deepcopy(model).eval()
    with torch.no_grad():
        return plain(lambda outputs, _: outputs)(trial, x, None)


def labels_for(outputs: Tensor) -> Tensor:
    """Random classes for outputs (B, C, ...): one for each example and position."""
    return torch.randint(outputs.shape[1], (len(outputs), *outputs.shape[2:]), device=outputs.device)


def moved(tree: Any, device: str) -> Any:
    """A tree of tensors on a device."""
    return _tree.replace(tree, lambda _, tensor: tensor.to(device))
