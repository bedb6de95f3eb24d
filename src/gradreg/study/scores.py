"""What a trained network is measured by on points with labels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    chunk: int = 1000,
    *,
    top: int = 1,
    prepare: Callable[[Tensor], Tensor] = lambda points: points,
) -> float:
    """Percentage of right predictions, in evaluation mode; each module's own mode is put back.

    Args:
        model: gives class scores.
        x, y: points and labels.
        chunk: points at once.
        top: a prediction is right if the label is among so many of the highest scores.
        prepare: makes points what the network takes.
    """
    device = next((p.device for p in model.parameters()), x.device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    right = 0
    with torch.no_grad():
        for a, b in zip(x.split(chunk), y.split(chunk), strict=True):
            scores = model(prepare(a.to(device)))
            highest = scores.argmax(1, keepdim=True) if top == 1 else scores.topk(min(top, scores.shape[1])).indices
            right += int((highest.cpu() == b[:, None]).any(1).sum())
    for module, mode in modes:
        module.training = mode
    return 100 * right / len(y)
