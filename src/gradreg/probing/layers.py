"""Which layers of a model have a fault: each call of a submodule is looked at by itself."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradreg import _checks, _tree
from gradreg.jacobian._composed import SecondRun, refuse_marked
from gradreg.jacobian._fast_modes import suits


@dataclass(frozen=True)
class Call:
    """A call of a submodule within one run of the model.

    Attributes:
        name: as in ``model.named_modules()``; empty for the model itself.
        module: the submodule.
        inputs: its arguments.
        outputs: what it returned.
    """

    name: str
    module: nn.Module
    inputs: _tree.Args
    outputs: Any


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Call]]:
    """Collects the calls of all submodules; those within another come before it. Of a compiled model only its own.

    Hooks within a compiled model would have it compiled anew.
    """
    calls: list[Call] = []
    handles = []
    for name, module in model.named_modules() if suits(model) else [("", model)]:

        def note(module: nn.Module, args: Any, kwargs: Any, outputs: Any, name: str = name) -> None:
            calls.append(Call(name, module, _tree.Args(*args, **kwargs), outputs))

        handles.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


Fault = Callable[[Call], bool]
"""Whether a call has a fault; it may raise an error of torch about a missing derivative."""


def blamed(calls: Sequence[Call], fails: Fault, operation: str | None = None) -> tuple[str, ...]:
    """The names of the innermost submodules that fail; the empty name is the model's own ``forward``.

    Args:
        calls: as recorded.
        fails: whether a call has the fault.
        operation: what an error about a missing derivative must name to count, if it is not about an autograd.Function.
    """

    def has_fault(call: Call) -> bool:
        try:
            return fails(call)
        except Exception as error:  # others tell nothing
            named = _checks.operation_in(str(error))
            own = named is None and "autograd.Function" in str(error)
            return _checks.speaks_of_missing_derivative(error) and (named == operation or own)

    found: list[str] = []
    for call in calls:
        within = f"{call.name}." if call.name else ""
        if not any(name == call.name or name.startswith(within) for name in found) and has_fault(call):
            found.append(call.name)
    return tuple(found)


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names of submodules in words, shortened."""
    words = [name or "the model's own forward" for name in names[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(words) + more


def lacks_double_backward(call: Call) -> bool:
    """Raises torch's error if a call cannot be differentiated twice, within the graph of the run that was recorded."""
    inputs, outputs = _differentiable(call.inputs), _differentiable(call.outputs)
    if not inputs or not outputs:
        return False
    parameters = [parameter for parameter in call.module.parameters() if parameter.requires_grad]
    rows = [torch.randn_like(output, requires_grad=True) for output in outputs]  # what comes from behind has a graph
    found = torch.autograd.grad(outputs, inputs, rows, create_graph=True, allow_unused=True)
    squares = [g.square().sum() for g in found if g is not None and g.requires_grad]
    if squares:
        value = torch.stack(squares).sum()
        torch.autograd.grad(value, [*inputs, *rows, *parameters], retain_graph=True, allow_unused=True)
        refuse_marked(value, outputs[0])
    return False


def lacks_forward_mode(call: Call) -> bool:
    """Raises torch's error if a call, made again, cannot carry tangents, or these cannot be differentiated.

    Leaves batch normalization in evaluation mode.
    """
    for layer in call.module.modules():
        if isinstance(layer, _BatchNorm):
            layer.training = False  # running averages cannot be moved within forward mode
    parameters = [parameter for parameter in call.module.parameters() if parameter.requires_grad]

    def moved(distance: Tensor) -> tuple[Tensor, ...]:
        def shifted(_: str, tensor: Tensor) -> Tensor:
            return tensor.detach() + distance.to(tensor.dtype) if tensor.is_floating_point() else tensor

        inputs = _tree.replace(call.inputs, shifted)
        with SecondRun(tangents=True):
            outputs = call.module(*inputs.args, **inputs.kwargs)
        return tuple(tensor for _, tensor in _tree.tensors(outputs) if tensor.is_floating_point())

    device = next((tensor.device for _, tensor in _tree.tensors(call.inputs)), None)
    zero = torch.zeros((), device=device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script`", category=DeprecationWarning)
        tangents: Any = torch.func.jvp(moved, (zero,), (torch.ones_like(zero),))[1]
    squares = [tangent.square().sum() for tangent in tangents if tangent.requires_grad]
    if squares and parameters:
        torch.autograd.grad(torch.stack(squares).sum(), parameters, allow_unused=True)
    return False


def _differentiable(tree: Any) -> list[Tensor]:
    return [tensor for _, tensor in _tree.tensors(tree) if tensor.is_floating_point() and tensor.requires_grad]
