"""Operations of a model exchanged for equal ones whose second derivative is cheaper than torch's.

torch differentiates the backward pass of a convolution by a convolution with kernels as large as the picture, and that
of batch normalization by some twenty passes over the data. And every backward pass to the parameters goes on to the
input, where a penalty has made it a variable, although nobody asks for the derivative there. docs/performance.md has
what each costs. The functions of this module and of its neighbours compute the same numbers to rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradreg.jacobian._fast_batch_norm import batch_norm
from gradreg.jacobian._fast_convolution import convolution
from gradreg.jacobian._fast_linear import linear


@dataclass
class Phase:
    """What is being differentiated for; shared with every exchanged operation of a forward pass.

    Attributes:
        rows: products with the Jacobian are being taken: gradients of parameters that are leaves are not wanted.
        running: the model runs, and may itself ask for derivatives.
    """

    rows: bool = False
    running: bool = False

    @property
    def input_wanted(self) -> bool:
        """Whether somebody may ask for the gradient of a private input; in the last backward pass nobody does."""
        return self.rows or self.running

    @contextmanager
    def of_rows(self) -> Iterator[None]:
        """While a product with the Jacobian is taken."""
        before, self.rows = self.rows, True
        try:
            yield
        finally:
            self.rows = before


class FastDerivatives(TorchFunctionMode):
    """The mode in which a model is run that will be differentiated twice.

    Args:
        phase: of the forward pass.
    """

    def __init__(self, phase: Phase):
        super().__init__()
        self.phase = phase

    def __enter__(self) -> Self:
        self.phase.running = True
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self.phase.running = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Exchanges an operation, where that is possible."""
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # a compiled part keeps its own operations
            return func(*args, **kwargs)
        exchange = _EXCHANGES.get(func)
        if exchange is not None and _exchangeable(args[0] if args else kwargs.get("input")):
            found = exchange(self.phase, *args, **kwargs)
            if found is not None:
                return found
        result = func(*args, **kwargs)
        if func in _VIEWS and args and is_private(args[0]) and isinstance(result, Tensor):
            mark_private(result)
        return result


def mark_private(x: Tensor) -> None:
    """Says that nobody will ask for the gradient of this input but `Linearization.gradient`."""
    x._gradreg_private = True  # type: ignore[attr-defined]


def is_private(x: Any) -> bool:
    """Whether `mark_private` was said of an input, or of what it is a view of."""
    return getattr(x, "_gradreg_private", False)


def suits(model: Any) -> bool:
    """Whether a model may be run in `FastDerivatives`: compiled ones keep their own operations."""
    if hasattr(model, "_torchdynamo_orig_callable"):
        return False
    if not isinstance(model, nn.Module):
        return True
    return not any(
        type(layer).__name__ == "OptimizedModule" or layer._compiled_call_impl is not None for layer in model.modules()
    )


def _exchangeable(x: Any) -> bool:
    """Plain tensors that are differentiated, outside of torch.func and of checkpoints.

    A checkpoint runs its part of the model again in the backward pass, outside of the mode, and must save the same.
    """
    return (
        isinstance(x, Tensor)
        and (type(x) is Tensor or type(x).__name__ in ("Parameter", "FakeTensor"))
        and torch.is_grad_enabled()
        and x.is_floating_point()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)  # type: ignore[attr-defined]
        and torch._C._autograd._top_saved_tensors_default_hooks(True) is None  # type: ignore[call-arg]
    )


def _convolution_of(dimensions: int) -> Callable[..., Tensor | None]:
    def exchange(
        phase: Phase, input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1,
    ) -> Tensor | None:  # fmt: skip
        if isinstance(padding, str) or input.ndim != dimensions + 2:
            return None
        stride, padding, dilation = (
            [value] * dimensions if isinstance(value, int) else list(value) for value in (stride, padding, dilation)
        )
        return convolution(phase, input, weight, bias, stride, padding, dilation, groups, private=is_private(input))

    return exchange


def _linear(phase: Phase, input: Tensor, weight: Tensor, bias: Any = None) -> Tensor | None:
    # torch's own second derivative is as good; only the gradient that nobody asks for can be saved.
    return linear(phase, input, weight, bias) if is_private(input) else None


_EXCHANGES: dict[Any, Callable[..., Tensor | None]] = {
    F.conv1d: _convolution_of(1),
    F.conv2d: _convolution_of(2),
    F.conv3d: _convolution_of(3),
    F.batch_norm: batch_norm,
    F.linear: _linear,
}
_VIEWS = frozenset(
    {
        *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.unsqueeze, torch.squeeze),
        *(Tensor.flatten, Tensor.reshape, Tensor.permute, Tensor.transpose, Tensor.unsqueeze, Tensor.squeeze),
        *(Tensor.view, Tensor.contiguous, Tensor.to, Tensor.float),
    }
)
