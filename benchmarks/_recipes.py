"""The recipes that the library is compared with: the paper's appendix A in plain PyTorch, and the public package."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gradreg.study.steps import Total

WEIGHT = 0.03


def textbook_spectreg(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """SpectReg as anyone writes it from the paper: a random row by double backward."""
    x = x.detach().requires_grad_()
    logits = model(x)
    r = torch.randn_like(logits)
    (g,) = torch.autograd.grad((logits * r).sum(), x, create_graph=True)
    return cross_entropy(logits, y) + WEIGHT * g.pow(2).flatten(1).sum(1).mean()


def textbook_doubleback(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """DoubleBack as anyone writes it: the gradient of the summed loss by double backward."""
    x = x.detach().requires_grad_()
    losses = cross_entropy(model(x), y, reduction="none")
    (g,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    return losses.mean() + WEIGHT * g.pow(2).flatten(1).sum(1).mean()


def has_peer() -> bool:
    """Whether the package jacobian_regularizer is installed."""
    return find_spec("jacobian_regularizer") is not None


def peer(rows: int) -> Total:
    """`jacobian_regularizer.JacobianReg`, by Hoffman et al.

    Args:
        rows: random rows; -1 for all.
    """
    import jacobian_regularizer  # type: ignore[import-not-found]

    regularizer: Any = jacobian_regularizer.JacobianReg(n=rows)

    def total(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        logits = model(x)
        return cross_entropy(logits, y) + 2 * WEIGHT * regularizer(x, logits)  # it carries a 1/2

    return total
