"""Operations that a second run of a model must do in another way, or cannot do.

torch's forward-mode rules of some operations forget the graph of what they saved (means and deviations of a layer
norm, factors of a matrix): the tangent is right and its parameter gradient is silently wrong (torch 2.13). A layer norm
and an instance norm are therefore composed of simpler operations; what is left of such operations (the others, or a
layer norm within a scripted module) is found in the graph of a run and refused. Batch normalization called as a
function has no place to keep its statistics in, so no second run can hold them fixed. Within forward mode torch fills
the mask of a dropout in the order of rows, elsewhere in that of the memory: for permuted inputs and channels_last these
are two masks, so the mask is drawn outside of it. The LSTM of oneDNN and the recurrent layers of cuDNN have no
forward-mode rule; torch's own have.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
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
        if torch.compiler.is_compiling():  # a compiled part keeps its own operations
            return func(*args, **kwargs)
        if func is F.batch_norm and _training(*args, **kwargs):
            raise UnsupportedOperationError(
                "the model calls batch_norm as a function with the statistics of the batch, which a second run cannot "
                "hold fixed. Use engine=gr.DoubleBackward(), the layer torch.nn.BatchNorm2d, or model.eval()."
            )
        if self.tangents:
            func = _COMPOSED.get(func, func)
        with _without_libraries() if self.tangents and func in _RECURRENT else nullcontext():
            return func(*args, **kwargs)


def graph(value: Tensor) -> Iterator[Any]:
    """The nodes of a tensor's graph, each once."""
    waiting, met = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in met:
            met.add(node)
            waiting.extend(below for below, _ in node.next_functions)
            yield node


def refuse_wrong_rules(second: Tensor, first: Tensor) -> None:
    """Looks for operations whose forward-mode rule is wrong.

    Args:
        second: result of a second run with tangents, whose graph is looked through.
        first: that of the first run, whose own operations carry no tangents; recorded statistics lead back to them.

    Raises:
        UnsupportedOperationError: names the operation.
    """
    for node in set(graph(second)) - set(graph(first)):
        name = node.name().removesuffix("Backward0")
        # Batch normalization with fixed statistics is right.
        if name in _WRONG or (name in _BATCH_NORMS and getattr(node, "_saved_training", True)):
            raise UnsupportedOperationError(
                f"{name} has a forward-mode rule with a wrong parameter gradient in torch, so engine=ForwardMode() "
                "cannot serve it. Use engine=gr.DoubleBackward() or engine=gr.FiniteDifference(); layer and instance "
                "norms work as torch.nn layers that are not scripted."
            )


def refuse_marked(value: Tensor, z: Tensor) -> None:
    """Looks for functions that are marked @once_differentiable, around whose error `torch.autograd.grad` walks.

    Args:
        value: what was differentiated, made from first derivatives of z.
        z: whose graph holds the functions themselves.

    Raises:
        RuntimeError: names them.
    """
    if any(node.name().endswith("::Error") for node in graph(value)):
        marked = sorted({name for node in graph(z) if (name := _once_differentiable(node))})
        raise RuntimeError(f"{' and '.join(marked) or 'an autograd.Function'} is marked @once_differentiable")


def _once_differentiable(node: Any) -> str | None:
    """The name of the autograd.Function behind a node, where its backward cannot be differentiated."""
    function = getattr(node, "_forward_cls", None)
    if function is None or not hasattr(function.backward, "__wrapped__"):
        return None
    return function.__name__


@contextmanager
def _without_libraries() -> Iterator[None]:
    """Recurrent layers by torch's own operations."""
    before = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before[0])
        torch._C._set_cudnn_enabled(before[1])


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


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return input
    with temporarily_clear_interpreter_stack():
        mask = torch.empty_strided(input.shape, input.stride(), dtype=input.dtype, device=input.device).fill_(1)
        mask = F.dropout(mask, p)
    return input.mul_(mask) if inplace else input * mask


def _normalized(x: Tensor, over: range, eps: float) -> Tensor:
    x = x.contiguous()  # as torch's own are; a dropout behind it fills its mask in that order
    variance, mean = torch.var_mean(x, list(over), correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + eps)


_COMPOSED = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
    F.dropout: _dropout,
}
_RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})
_WRONG = frozenset({"NativeLayerNorm", "LinalgSolveEx", "LinalgDet", "LinalgSlogdet"})
_BATCH_NORMS = frozenset({"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"})
