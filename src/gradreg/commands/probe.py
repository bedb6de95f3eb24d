"""`gradreg probe`: which engines work on one's own model, how exact they are, what they cost, and which to take."""

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from gradreg.commands.common import check_device, positive
from gradreg.commands.given import example, shape_of, tensors, using_threads
from gradreg.study.config import StudyError
from gradreg.study.environment import environment
from gradreg.study.store import write_atomically

if TYPE_CHECKING:
    from torch import nn

    from gradreg import ProbeReport


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Try each engine on a model: which work, what stops the others, how exact they are and what they cost.

    Says also whether the examples of a batch are coupled, by how much and by which layers, and recommends an engine.
    See gr.probe for the same in Python.
    """

    model: tyro.conf.Positional[str]
    """lenet5, small-cnn, convnet, resnet, mlp; or module:factory, a function or a class that gives a network."""
    shape: tuple[int, ...] | None = None
    """Of one input, as in --shape 3 32 32. Default: what the built-in network takes, or the --example's."""
    batch: int = 8
    """Examples in a batch of random inputs."""
    example: str | None = None
    """module:function that returns a batch, x or (x, y), in place of random inputs."""
    site: tuple[str, ...] = ()
    """Submodules at whose activations to differentiate, as in --site embedding. Default: the input."""
    output: str | None = None
    """Which of the model's outputs, where it returns an object or a dict, as in --output logits."""
    classes: int = 10
    """For built-in networks and for a factory that takes classes; others have the outputs that they have."""
    evaluation: bool = False
    """Probe in evaluation mode; by default in training mode."""
    threads: int | None = None
    """Threads of this process. Default: as torch finds them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: forward pass and penalty under autocast."""
    device: str = "cpu"
    """Where to run: cpu, cuda."""
    repeats: int = 5
    """How often each step is timed; 0 to leave costs out."""
    json: Path | None = None
    """File for all that was found, with the environment."""


def run_probe(options: Probe) -> None:
    """Probes the model and prints what was found.

    Raises:
        StudyError: options that cannot be met, a model that cannot be made, run or differentiated.
    """
    for value, name in ((options.batch, "--batch"), (options.classes, "--classes")):
        positive(value, name)
    if options.repeats < 0:
        raise StudyError(f"--repeats got {options.repeats}; expected a whole number >= 0.")
    check_device(options.device)
    with using_threads(options.threads) as threads:
        model, x, y = _given(options)
        report = _probed(options, model, x, y)
    print(report)
    if options.json is not None:
        content = {
            "network": options.model,
            "dtype": options.dtype,
            "threads": threads,
            "repeats": options.repeats,
            "date": date.today().isoformat(),
            "environment": environment(options.device),
            **report.record(),
        }
        write_atomically(options.json, json.dumps(content, indent=1) + "\n")
        print(f"\nwritten to {options.json}")


def _given(options: Probe) -> "tuple[nn.Module, Any, Any]":
    """The model on its device, a batch, and its labels if there are any."""
    import torch

    from gradreg.study.networks import untried
    from gradreg.study.steps import moved

    x, y = example(options.example) if options.example is not None else (None, None)
    shape = shape_of("probe", options.model, options.shape, x)
    model = untried(options.model, shape, options.classes).to(options.device).train(not options.evaluation)
    if x is None:
        x = torch.randn(options.batch, *shape)
    return model, moved(x, options.device), moved(y, options.device)


def _probed(options: Probe, model: "nn.Module", x: Any, y: Any) -> "ProbeReport":
    import torch

    import gradreg as gr

    precision: AbstractContextManager[Any] = nullcontext()
    if options.dtype == "bfloat16":
        precision = torch.autocast(torch.device(options.device).type, torch.bfloat16)
    try:
        with precision:
            return gr.probe(
                model,
                x,
                y,
                target=None if options.output is None else _output(options.output),
                site=gr.Hidden(*options.site) if options.site else None,
                repeats=options.repeats,
            )
    except Exception as error:
        arrived = ", ".join(str(tuple(tensor.shape)) for tensor in tensors(x))
        raise StudyError(
            f"the network {options.model!r} cannot be probed on inputs of shape {arrived}: {type(error).__name__}: "
            f"{error}\nWrite --shape for one input's shape without the batch, or --example module:function for a whole "
            "batch; --site NAME for activations in place of the input, --output NAME for one of several outputs."
        ) from error


def _output(name: str) -> Any:
    def target(outputs: Any) -> Any:
        return outputs[name] if isinstance(outputs, dict) else getattr(outputs, name)

    return target
