"""Batch statistics shared between runs: recorded in the first, put in place of new ones in the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchStatistics:
    """Means and variances of every batch-normalization layer that uses those of the batch.

    They keep their graph: the parameters in front of a layer shape its statistics, and a difference of two runs must
    hold the same term twice for it to cancel.
    """

    def __init__(self, model: nn.Module):
        self._layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and _uses_batch(m)]
        self._recorded: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in self._layers}

    @property
    def found(self) -> bool:
        """Whether there is such a layer."""
        return bool(self._layers)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Computes the statistics beside each call of a layer."""

        def record(layer: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            over = [d for d in range(x.ndim) if d != 1]
            variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
            self._recorded[layer].append((mean, variance))

        handles = [layer.register_forward_pre_hook(record) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def reused(self) -> Iterator[None]:
        """Runs the layers with the recorded statistics; their running averages stay as they are."""
        before = {layer: layer.__dict__.get("forward") for layer in self._layers}
        for layer in self._layers:
            layer.forward = _fixed(layer, list(self._recorded[layer]))  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer, forward in before.items():
                if forward is None:
                    del layer.__dict__["forward"]
                else:
                    layer.forward = forward  # type: ignore[method-assign]


def _uses_batch(layer: _BatchNorm) -> bool:
    return layer.training or layer.running_mean is None


def _fixed(layer: _BatchNorm, calls: list[tuple[Tensor, Tensor]]) -> Any:
    remaining = iter(calls)

    def forward(x: Tensor) -> Tensor:
        mean, variance = next(remaining)
        y = (x - mean) * torch.rsqrt(variance + layer.eps)
        if layer.weight is None:
            return y
        shape = [1, -1, *[1] * (x.ndim - 2)]
        return y * layer.weight.reshape(shape) + layer.bias.reshape(shape)

    return forward
