"""A convolution whose second derivative is two convolutions of the usual kind.

With y = w * x and the backward pass gx = w^T gy, the second backward pass along v = d/d gx is

    d/d gy = w * v            a forward convolution
    d/d w  = gradient of a filter, with v in place of x and the same gy
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

_backward = torch.ops.aten.convolution_backward


class Phase(Protocol):
    """See `gradreg.jacobian._fast_modes.Phase`."""

    rows: bool

    @property
    def input_wanted(self) -> bool:
        """Whether somebody may ask for the gradient of a private input."""
        ...


def convolution(
    phase: Phase,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    *,
    private: bool,
) -> Tensor:
    """``torch.convolution`` (not transposed).

    Args:
        phase: of the forward pass.
        x, weight, bias: (B, C, ...), (O, C/groups, ...), (O,).
        stride, padding, dilation, groups: as in torch, one entry for each dimension.
        private: whether x is an input whose gradient only rows of J ask for.
    """
    leaf = weight.is_leaf
    if torch.is_autocast_enabled(x.device.type):
        lower = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(lower), weight.to(lower)
        bias = None if bias is None else bias.to(lower)
    settings = (stride, padding, dilation, False, [0] * len(stride), groups)
    return _Convolution.apply(x, weight, bias, settings, phase, private, leaf)


class _Convolution(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Any, phase: Phase, private: bool, leaf: bool
    ):
        ctx.save_for_backward(x, weight)
        ctx.settings, ctx.phase, ctx.private = settings, phase, private
        ctx.leaf = leaf
        ctx.bias = None if bias is None else list(bias.shape)
        return torch.convolution(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        if ctx.phase.rows and ctx.leaf:
            gx = _InputGradient.apply(gy, weight, x.detach(), ctx.settings, ctx.phase) if needs_x else None
            return gx, *(None,) * 6
        wanted = [needs_x and (ctx.phase.input_wanted or not ctx.private), needs_weight, needs_bias]
        return (*_backward(gy, x, weight, ctx.bias, *ctx.settings, wanted), *(None,) * 4)


class _InputGradient(Function):
    """gx from gy, where the weight is a leaf; x says its shape alone."""

    @staticmethod
    def forward(ctx: Any, gy: Tensor, weight: Tensor, x: Tensor, settings: Any, phase: Phase):
        ctx.save_for_backward(gy, weight)
        ctx.settings, ctx.phase = settings, phase
        return _backward(gy, x, weight, None, *settings, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:  # type: ignore[override]
        gy, weight = ctx.saved_tensors
        needs_gy, needs_weight = ctx.needs_input_grad[:2]
        ggy = torch.convolution(v, weight, None, *ctx.settings) if needs_gy else None
        gweight = None
        if needs_weight and not ctx.phase.rows:
            gweight = _backward(gy, v, weight, None, *ctx.settings, [False, True, False])[1]
        return ggy, gweight, None, None, None
