"""A dense layer on the input of a model, whose backward pass to the parameters leaves the input's gradient out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradreg.jacobian._fast_convolution import Phase


def linear(phase: Phase, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x weight^T + bias`` for an x (B, ..., n) whose gradient only rows of J ask for.

    Args:
        phase: of the forward pass.
        x, weight, bias: (B, ..., n), (m, n), (m,).
    """
    if torch.is_autocast_enabled(x.device.type):
        lower = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(lower), weight.to(lower)
        bias = None if bias is None else bias.to(lower)
    return _Linear.apply(x, weight, bias, phase)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, phase: Phase):
        ctx.save_for_backward(x, weight)
        ctx.phase, ctx.leaf = phase, weight.is_leaf
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        _, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        gx = gy.matmul(weight) if ctx.phase.input_wanted else None
        if ctx.phase.rows and ctx.leaf:
            return gx, None, None, None
        rows = gy.reshape(-1, gy.shape[-1])
        gweight = rows.t().mm(x.reshape(-1, x.shape[-1])) if needs_weight else None
        return gx, gweight, rows.sum(0) if needs_bias else None, None
