"""Batch normalization in training mode whose second derivative takes a few passes over the data.

With N entries of a channel, their mean m and r = 1/sqrt(variance + eps), h = r (x - m), the backward pass is

    gx = w r (gy - mean(gy) - h mean(gy h)),

which is symmetric: the second backward pass along v has d/d gy = the same with v in place of gy. With the sums
S_g = sum gy, S_gh = sum gy h, S_v = sum v, S_vh = sum v h, A = sum v gy and T = A - S_v S_g / N - S_vh S_gh / N,

    d/d w = r T
    d/d x = -w r^2 / N (h (T - 2 S_vh S_gh / N) + S_gh (v - S_v / N) + S_vh (gy - S_g / N)).

S_g and S_gh come with the first backward pass, S_v and S_vh with that for d/d gy.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradreg.jacobian._fast_convolution import Phase

_backward = torch.ops.aten.native_batch_norm_backward


def batch_norm(
    phase: Phase,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """``F.batch_norm`` with the statistics of the batch.

    Args:
        phase: of the forward pass.
        input: (B, C, ...).
        running_mean, running_var, weight, bias, training, momentum, eps: as in torch.

    Returns:
        None where torch's own has to serve: fixed statistics, mixed dtypes, one entry for each channel (an error).
    """
    given = [t for t in (running_mean, running_var, weight, bias) if t is not None]
    if not training or input.numel() == input.shape[1] or any(t.dtype != input.dtype for t in given):
        return None
    if weight is not None and bias is None:
        return None
    return _BatchNorm.apply(input, weight, bias, (running_mean, running_var), momentum, eps, phase)


class _BatchNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Any, bias: Any, running: tuple[Any, Any], momentum: float, eps: float, phase: Phase
    ):  # fmt: skip
        y, mean, scale = torch.native_batch_norm(x, weight, bias, *running, True, momentum, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.eps, ctx.phase = eps, phase
        ctx.leaf = weight is None or weight.is_leaf
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:  # type: ignore[override]
        x, weight, mean, scale = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[:3])
        rest = (None,) * 4
        if ctx.phase.rows and ctx.leaf:
            gx = _InputGradient.apply(gy, x, weight, mean, scale, ctx.eps) if needs[0] else None
            return gx, None, None, *rest
        return *_backward(gy, x, weight, None, None, mean, scale, True, ctx.eps, needs), *rest


class _InputGradient(Function):
    @staticmethod
    def forward(ctx: Any, gy: Tensor, x: Tensor, weight: Any, mean: Tensor, scale: Tensor, eps: float):
        gx, sum_gh, sum_g = _backward(gy, x, weight, None, None, mean, scale, True, eps, [True, True, True])
        ctx.save_for_backward(gy, x, weight, mean, scale, sum_g, sum_gh)
        ctx.eps = eps
        return gx

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:  # type: ignore[override]
        gy, x, weight, mean, scale, sum_g, sum_gh = ctx.saved_tensors
        rest = (None,) * 3
        if torch.is_grad_enabled():  # a third derivative
            return *_composed(gy, x, weight, ctx.eps, v), *rest
        ggy, sum_vh, sum_v = _backward(v, x, weight, None, None, mean, scale, True, ctx.eps, [True, True, True])
        over = [d for d in range(x.ndim) if d != 1]
        count = x.numel() // x.shape[1]
        total = (v * gy).sum(over) - (sum_v * sum_g + sum_vh * sum_gh) / count
        gain = scale if weight is None else scale * weight
        factor = -gain * scale / count
        of_v, of_gy = factor * sum_gh, factor * sum_vh
        of_x = factor * scale * (total - 2 * sum_vh * sum_gh / count)
        constant = -of_x * mean - (of_v * sum_v + of_gy * sum_g) / count
        shape = [1, -1, *[1] * (x.ndim - 2)]
        gx = torch.addcmul(constant.view(shape), x, of_x.view(shape))
        gx.addcmul_(v, of_v.view(shape)).addcmul_(gy, of_gy.view(shape))
        gweight = None if weight is None else scale * total
        return ggy, gx, gweight, *rest


def _composed(gy: Tensor, x: Tensor, weight: Tensor | None, eps: float, v: Tensor) -> tuple[Tensor | None, ...]:
    """The second backward pass by simple operations, which can be differentiated again."""
    # Views are variables of their own: gy depends on x too, by ways that are not this layer's.
    gy, x = gy.view_as(gy), x.view_as(x)
    weight = None if weight is None else weight.view_as(weight)
    over = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    scale = torch.rsqrt(variance + eps)
    h = (x - mean) * scale
    gain = scale if weight is None else scale * weight.view(shape)
    gx = gain * (gy - gy.mean(over, keepdim=True) - h * (gy * h).mean(over, keepdim=True))
    wanted = [t for t in (gy, x, weight) if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(gx, wanted, v, create_graph=True, allow_unused=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in (gy, x, weight))
