"""`gradreg bench`: what a penalty costs for one's own model, each engine and memory format beside the plain step."""

import json
import math
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradreg.commands.common import check_device, positive
from gradreg.commands.given import example, shape_of, tensors, using_threads
from gradreg.study.config import StudyError
from gradreg.study.environment import environment
from gradreg.study.store import write_atomically

if TYPE_CHECKING:
    from torch import nn

    from gradreg._types import LossFunction
    from gradreg.study.steps import Configuration, Measured, Row

_EVERY = 8


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time training steps of a model with and without a penalty, by each engine and memory format.

    A step is a forward pass, loss, penalty, backward pass, Adam and zero_grad, on random data. All kinds of steps are
    timed in turn in one process, so that a busy moment falls on all alike. Nothing is kept but what --json asks for.
    """

    model: tyro.conf.Positional[str]
    """lenet5, small-cnn, convnet, resnet, mlp; or module:factory, a function or a class that gives a network."""
    shape: tuple[int, ...] | None = None
    """Of one input, as in --shape 3 32 32. Default: what the built-in network takes, or the --example's."""
    batch: int = 64
    """Examples in a batch of random inputs."""
    example: str | None = None
    """module:function that returns a batch, x or (x, y), in place of random inputs."""
    classes: int = 10
    """For built-in networks and for a factory that takes classes; others have the outputs that they have."""
    threads: int | None = None
    """Threads of this process. Default: as torch finds them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: forward pass and penalty under autocast."""
    device: str = "cpu"
    """Where to train: cpu, cuda."""
    repeats: int = 15
    """How often each step is timed."""
    json: Path | None = None
    """File for all that was measured, with the environment."""


def run_bench(options: Bench) -> None:
    """Times the steps and prints them.

    Raises:
        StudyError: options that cannot be met, a model that cannot be made or trained.
    """
    for value, name in ((options.batch, "--batch"), (options.classes, "--classes"), (options.repeats, "--repeats")):
        positive(value, name)
    check_device(options.device)
    console = Console()
    with using_threads(options.threads) as threads:
        model, x, y, loss = _given(options)
        with console.status("timing training steps"):
            measured = _measured(options, model, x, y, loss)
    batch = next(len(tensor) for tensor in tensors(x))
    place = f"{threads} thread{'s' if threads > 1 else ''}" if options.device == "cpu" else options.device
    console.print(
        f"[bold]{options.model}[/bold]: {_count(model):,} parameters, batch {batch}, {options.dtype}, {place}, "
        f"median of {options.repeats} steps in turn",
        highlight=False,
    )
    console.print(_table(measured.rows), crop=False)
    console.print(
        "ratios: to the plain step of the same memory format, to the fastest plain step, and the least by "
        "the number of floating-point operations",
        style="dim",
        highlight=False,
    )
    for (name, memory_format), reason in measured.failed.items():
        console.print(Text(f"{name}, {memory_format}: does not work here: {reason}"))
    console.print(f"\n{recommendation(measured.rows)}", style="bold green", highlight=False)
    if options.json is not None:
        content = {
            "model": options.model,
            "parameters": _count(model),
            "batch": batch,
            "dtype": options.dtype,
            "threads": threads,
            "repeats": options.repeats,
            "date": date.today().isoformat(),
            "environment": environment(options.device),
            "rows": [row.record() for row in measured.rows],
            "failed": [{"name": n, "format": f, "reason": reason} for (n, f), reason in measured.failed.items()],
            "recommendation": recommendation(measured.rows),
        }
        write_atomically(options.json, json.dumps(content, indent=1) + "\n")
        console.print(f"written to {options.json}", highlight=False)


# --- what is timed ----------------------------------------------------------------------------------------------------


def _given(options: Bench) -> "tuple[nn.Module, Any, Any, LossFunction]":
    """The model on its device, a batch, its labels, and the loss that these call for."""
    import torch
    from torch import Tensor
    from torch.nn import functional

    from gradreg.study.networks import untried
    from gradreg.study.steps import labels_for, moved, outputs_of

    x, y = example(options.example) if options.example is not None else (None, None)
    shape = shape_of("bench", options.model, options.shape, x)
    model = untried(options.model, shape, options.classes).to(options.device)
    if not any(p.requires_grad for p in model.parameters()):
        raise StudyError(f"the network {options.model!r} has no parameters that require grad: nothing to train.")
    if x is None:
        x = torch.randn(options.batch, *shape)
    x, y = moved(x, options.device), moved(y, options.device)
    try:
        z = outputs_of(model, x)
    except Exception as error:
        arrived = ", ".join(str(tuple(tensor.shape)) for tensor in tensors(x))
        raise StudyError(
            f"the network {options.model!r} fails on inputs of shape {arrived}: {type(error).__name__}: {error}\n"
            "Write --shape for one input's shape without the batch, or --example module:function for a whole batch."
        ) from error
    if y is None:
        if not isinstance(z, Tensor) or z.ndim < 2:
            arrived = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"type {type(z).__name__}"
            raise StudyError(
                f"the network {options.model!r} gave an output of {arrived}; expected class scores (B, C, ...). For "
                "others write --example module:function that returns (x, y), with y floating point for a regression."
            )
        y = labels_for(z)
    regression = isinstance(y, Tensor) and y.is_floating_point() and isinstance(z, Tensor) and y.shape == z.shape
    return model, x, y, functional.mse_loss if regression else functional.cross_entropy


def _configurations(loss: "LossFunction", *, formats: tuple[bool, ...]) -> "list[Configuration]":
    import gradreg as gr
    from gradreg.study.steps import PLAIN, Configuration, accepts, penalized, plain

    engines: dict[str, tuple[gr.Engine, float]] = {
        "SpectReg": (gr.DoubleBackward(), 2.0),
        "SpectReg, ForwardMode": (gr.ForwardMode(), 3.0),
        "SpectReg, FiniteDifference": (gr.FiniteDifference(), 7 / 3),
    }
    found = []
    for last in formats:
        found.append(Configuration(PLAIN, plain(loss), channels_last=last))
        for name, (engine, floor) in engines.items():
            found.append(Configuration(name, penalized(loss, gr.SpectReg(0.03, engine=engine)), floor, last))
        if accepts(gr.SpectReg, "every"):
            lazy: dict[str, Any] = {"every": _EVERY}
            total = penalized(loss, gr.SpectReg(0.03, **lazy))
            found.append(Configuration(f"SpectReg, every={_EVERY}", total, 1 + 1 / _EVERY, last, _EVERY))
        found.append(Configuration("DoubleBack", penalized(loss, gr.DoubleBack(1.0)), 2.0, last))
    return found


def _measured(options: Bench, model: "nn.Module", x: Any, y: Any, loss: "LossFunction") -> "Measured":
    from gradreg.study.steps import four_dimensional, measure

    formats = (False, True) if four_dimensional(x) else (False,)
    configurations = _configurations(loss, formats=formats)
    try:
        return measure(model, x, y, configurations, repeats=options.repeats, bf16=options.dtype == "bfloat16")
    except Exception as error:
        raise StudyError(
            f"a plain training step of {options.model!r} fails: {type(error).__name__}: {error}"
        ) from error


# --- what is said -----------------------------------------------------------------------------------------------------


def _table(rows: "tuple[Row, ...]") -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("step", "memory format"):
        table.add_column(name, no_wrap=True)
    for name in ("ms", "quartiles", "of\nplain", "of the\nfastest", "floor"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        low, high = 1000 * row.seconds.low, 1000 * row.seconds.high
        table.add_row(
            row.name.replace("SpectReg, ", "  "),
            row.format,
            f"{1000 * row.seconds.median:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{row.ratio:.2f}x",
            f"{row.to_fastest:.2f}x",
            f"{row.floor:.2f}x",
        )
    return table


def recommendation(rows: "tuple[Row, ...]") -> str:
    """One sentence: the fastest exact SpectReg, and what a lazy one costs.

    Args:
        rows: what was measured.
    """

    def fastest(*names: str) -> "Row | None":
        return min((row for row in rows if row.name in names), key=lambda row: row.to_fastest, default=None)

    exact = fastest("SpectReg", "SpectReg, ForwardMode")
    if exact is None:
        other = fastest("SpectReg, FiniteDifference")
        if other is None:
            return "No engine works for this model; the reasons above say what to change."
        return (
            "No exact engine works for this model; gr.SpectReg(weight, engine=gr.FiniteDifference()) costs "
            f"{other.to_fastest:.2f}x the fastest plain step ({_where(other, rows)})."
        )
    engine = ", engine=gr.ForwardMode()" if exact.name.endswith("ForwardMode") else ""
    text = (
        f"Fastest exact form: gr.SpectReg(weight{engine}) costs {exact.to_fastest:.2f}x the fastest plain step "
        f"({_where(exact, rows)})"
    )
    if (lazy := fastest(f"SpectReg, every={_EVERY}")) is not None:
        text += f"; with every={_EVERY} it is {lazy.to_fastest:.2f}x"
    return text + "."


def _where(row: "Row", rows: "tuple[Row, ...]") -> str:
    """In which memory format, if there was a choice."""
    if len({other.format for other in rows}) == 1:
        return f"{1000 * row.seconds.median:.2f} ms"
    how = "model.to(memory_format=torch.channels_last), and x as well" if row.format == "channels_last" else row.format
    return f"{how}, {1000 * row.seconds.median:.2f} ms"


def _count(model: "nn.Module") -> int:
    return sum(math.prod(p.shape) for p in model.parameters())
