"""A model may be run at will, and is afterwards as it was."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradreg import _random


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Within, the model has copies of its buffers; afterwards its own, its attributes and all random states are back.

    The buffers themselves are exchanged, not their contents: writing into them would spoil graphs that hold them.
    Gradients are not put back: within, nothing may call ``backward()``. Nor is what a run changes in place within
    attributes, such as a list that ``forward`` appends to.

    Raises:
        TypeError: a scripted module, which hides its state.
        ValueError: a lazy module, which its first run changes for good.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError(
            "the model holds a scripted module, whose state a probe cannot put back; probe it as it was before "
            "torch.jit.script."
        )
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "the model has lazy modules, whose parameters are made in their first run; run it once before: model(x)."
        )
    modules = list(model.modules())
    attributes = [dict(module.__dict__) for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    copies: dict[int, Tensor] = {}  # one for each buffer, also where modules share it
    numbers = random.getstate()
    try:
        for module, before in zip(modules, buffers, strict=True):
            for name, buffer in before.items():
                if buffer is not None:
                    module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
        with _random.untouched(None, [parameter.device for parameter in model.parameters()]):
            yield
    finally:
        random.setstate(numbers)
        for module, own, before in zip(modules, attributes, buffers, strict=True):
            module.__dict__.clear()
            module.__dict__.update(own)
            module._buffers.clear()
            module._buffers.update(before)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(parameter.device for parameter in model.parameters())
