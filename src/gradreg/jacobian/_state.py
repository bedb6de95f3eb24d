"""What layers take from a batch or keep between batches, recorded in one run and given to the others.

Batch normalization takes means and variances from the batch; these, running averages, power iterations of a spectral
norm and the like are kept in buffers. A second run must find all of them as the first one did, and leave no trace.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.modules.batchnorm import _BatchNorm


class LayerState:
    """Buffers of every layer that a run calls, and batch statistics of batch normalization in training mode.

    The layers of a function are found as they are called. The statistics keep their graph: the parameters in front of
    a layer shape them, and a difference of two runs must hold the same term twice for it to cancel.
    """

    def __init__(self, model: Any) -> None:
        self._layers = list(model.modules()) if isinstance(model, nn.Module) else None
        self._statistics: dict[nn.Module, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self._buffers: dict[nn.Module, dict[str, Tensor]] = {}

    @property
    def couples_examples(self) -> bool:
        """Whether a layer made the outputs of an example depend on the others."""
        return bool(self._statistics)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keeps the buffers from before a layer's first call, and computes the statistics of each call."""
        if self._layers is None:
            handles = self._watch_all()
        else:
            for layer in self._layers:
                self._keep(layer)
            normalizing = [layer for layer in self._layers if isinstance(layer, _BatchNorm) and uses_batch(layer)]
            handles = [layer.register_forward_pre_hook(self._measure, with_kwargs=True) for layer in normalizing]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch_all(self) -> list[Any]:
        """Hooks on every layer of the process; not for modules, whose compiled form warns of them."""
        thread, met = threading.get_ident(), set[nn.Module]()

        def watch(layer: nn.Module, args: tuple[Any, ...]) -> None:
            if threading.get_ident() != thread:
                return
            if layer not in met:
                met.add(layer)
                self._keep(layer)
            if isinstance(layer, _BatchNorm) and uses_batch(layer):
                if not args:  # such hooks see positional arguments alone
                    raise ValueError(
                        f"{type(layer).__name__} is called with its input by name, within a function as the model, "
                        "where its batch statistics cannot be seen. Pass the torch.nn.Module itself as the model."
                    )
                self._measure(layer, args)

        return [hooks.register_module_forward_pre_hook(watch)]

    def _keep(self, layer: nn.Module) -> None:
        buffers = {name: buffer.clone() for name, buffer in layer._buffers.items() if buffer is not None}
        if buffers:
            self._buffers[layer] = buffers

    def _measure(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> None:
        x = args[0] if args else (kwargs or {})["input"]
        over = [d for d in range(x.ndim) if d != 1]
        # Kept out of what a checkpoint around the layer counts: when it runs the layer again, nobody measures.
        with torch.autograd.graph.saved_tensors_hooks(_itself, _itself):
            variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
        self._statistics[layer].append((mean, variance))

    @contextmanager
    def reused(self) -> Iterator[None]:
        """Runs the layers with what was recorded; afterwards their buffers are those that they had before."""
        forwards = {layer: layer.__dict__.get("forward") for layer in self._statistics}
        # The tensors themselves are exchanged: writing into them would spoil the graph of the first run.
        buffers = {layer: dict(layer._buffers) for layer in self._buffers}
        for layer, kept in self._buffers.items():
            layer._buffers.update({name: buffer.clone() for name, buffer in kept.items()})
        for layer, calls in self._statistics.items():
            layer.forward = _fixed(layer, calls)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer, before in buffers.items():
                layer._buffers.update(before)
            for layer, forward in forwards.items():
                if forward is None:
                    del layer.__dict__["forward"]
                else:
                    layer.forward = forward  # type: ignore[method-assign]


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def normalizes_batches(model: Any) -> bool:
    """Whether a module holds batch normalization by the statistics of the batch, which couples examples."""
    return isinstance(model, nn.Module) and any(
        isinstance(layer, _BatchNorm) and uses_batch(layer) for layer in model.modules()
    )


def uses_batch(layer: _BatchNorm) -> bool:
    """Whether a layer normalizes by the statistics of the batch."""
    return layer.training or layer.running_mean is None


def _fixed(layer: nn.Module, calls: list[tuple[Tensor, Tensor]]) -> Any:
    remaining = iter(calls)

    def forward(input: Tensor) -> Tensor:
        mean, variance = next(remaining)
        y = (input - mean) * torch.rsqrt(variance + layer.eps)  # type: ignore[operator]
        if layer.weight is None:
            return y
        shape = [1, -1, *[1] * (input.ndim - 2)]
        return y * layer.weight.reshape(shape) + layer.bias.reshape(shape)  # type: ignore[operator, union-attr]

    return forward
