"""What a network with one input and one output has learned: the function, and its slopes where it was trained."""

from typing import Any

import torch
from torch import Tensor, nn

from gradreg.data.splits import Split
from gradreg.metrics import evaluating, jacobian_norms

# Training points that are no further apart count as one place: the twins of the doubled set do.
TOGETHER = 0.002


def learned_function(model: nn.Module, parts: Split) -> dict[str, Any]:
    """The function as numbers.

    Args:
        model: from (B, 1) to (B, 1).
        parts: its points; inputs as they are, not standardized.

    Returns:
        ``outputs`` on the test inputs, in their order; ``x`` and ``y``, the training points; ``slope_at_points``, root
        mean square of the slope at the training inputs; ``slope_between``, at the midpoints of neighbouring training
        inputs that are more than 0.002 apart.

    Source: section 4.7 of the paper asks whether slopes that are controlled at the points stay so between them.
    """
    assert parts.test_x is not None
    device = next(p.device for p in model.parameters())
    with evaluating(model), torch.no_grad():
        outputs = model(parts.test_x.to(device)).flatten().tolist()
    return {
        "outputs": _rounded(outputs),
        "x": _rounded(parts.x.flatten().tolist()),
        "y": _rounded(parts.y.flatten().tolist()),
        "slope_at_points": _slope(model, parts.x.to(device)),
        "slope_between": _slope(model, midpoints(parts.x).to(device)),
    }


def midpoints(x: Tensor) -> Tensor:
    """The middle of each gap between neighbouring inputs (N, 1) that are not together, (M, 1)."""
    ordered = x.flatten().sort().values
    low, high = ordered[:-1], ordered[1:]
    return ((low + high) / 2)[high - low > TOGETHER][:, None]


def _slope(model: nn.Module, x: Tensor) -> float:
    return float(jacobian_norms(model, x).double().square().mean().sqrt())


def _rounded(values: list[float]) -> list[float]:
    """Six digits are more than a figure shows."""
    return [float(f"{value:.6g}") for value in values]
