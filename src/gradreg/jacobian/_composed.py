"""Operations that a second run of a model must do in another way, or cannot do.

torch's forward-mode rules of some operations forget the graph of what they saved (means and deviations of a layer
norm, factors of a matrix): the tangent is right and its parameter gradient is silently wrong (torch 2.13). A layer norm
and an instance norm are therefore composed of simpler operations; the others are refused. Batch normalization called
as a function has no place to keep its statistics in, so no second run can hold them fixed.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradreg._checks import UnsupportedOperationError


class SecondRun(TorchFunctionMode):
    """The mode in which a model is run again.

    Args:
        tangents: whether the run carries tangents (forward mode).
    """

    def __init__(self, *, tangents: bool):
        super().__init__()
        self.tangents = tangents

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Exchanges or refuses an operation."""
        kwargs = kwargs or {}
        if func is F.batch_norm and _training(*args, **kwargs):
            raise UnsupportedOperationError(
                "the model calls batch_norm as a function with the statistics of the batch, which a second run cannot "
                "hold fixed. Use engine=gr.DoubleBackward(), the layer torch.nn.BatchNorm2d, or model.eval()."
            )
        if self.tangents:
            if func in _WRONG:
                raise UnsupportedOperationError(
                    f"{func.__name__} has a forward-mode rule whose parameter gradient is wrong in torch, which "
                    "engine=ForwardMode() needs. Use engine=gr.DoubleBackward() or engine=gr.FiniteDifference()."
                )
            func = _COMPOSED.get(func, func)
        return func(*args, **kwargs)


def _training(
    input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    *_: Any, **__: Any,
) -> bool:  # fmt: skip
    return training


def _layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    y = _normalized(input, range(-len(normalized_shape), 0), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _instance_norm(
    input: Tensor, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    y = _normalized(input, range(2, input.ndim), eps)
    shape = [1, -1, *[1] * (input.ndim - 2)]
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _normalized(x: Tensor, over: range, eps: float) -> Tensor:
    variance, mean = torch.var_mean(x, list(over), correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + eps)


_COMPOSED = {F.layer_norm: _layer_norm, torch.layer_norm: _layer_norm, F.instance_norm: _instance_norm}
_WRONG = frozenset(
    {torch.linalg.solve, torch.linalg.solve_ex, torch.linalg.det, torch.linalg.slogdet, torch.logdet, torch.det}
    | {torch.slogdet, torch.Tensor.det, torch.Tensor.slogdet, torch.Tensor.logdet}
)
