"""The learned function of one number, and its slopes at the training points and between them."""

import pytest
import torch
from torch import Tensor, nn

from gradreg.data.splits import Split
from gradreg.study.function import learned_function, midpoints


class Steps(nn.Module):
    """Flat within 0.01 of 0 and of 1, a slope of 2 between; half of everything in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.clamp(0.01, 0.99) / (2 if self.training else 1)


def parts(*x: float) -> Split:
    points = torch.tensor(x)[:, None]
    at = torch.tensor([[0.0], [0.25], [1.0]])
    return Split(points, 3 * points, at, at, torch.zeros(1), torch.ones(1), at, at)


def test_midpoints_are_of_neighbours_that_are_apart() -> None:
    x = torch.tensor([[0.5], [0.0], [0.001], [1.0], [0.9985]])
    assert midpoints(x).flatten().tolist() == pytest.approx([0.2505, 0.74925])


def test_slopes_of_a_step_function_are_small_at_the_points_and_large_between() -> None:
    model = Steps()
    found = learned_function(model, parts(0.0, 1.0))
    assert found["outputs"] == pytest.approx([0.02, 0.5, 1.98])
    assert (found["x"], found["y"]) == ([0.0, 1.0], [0.0, 3.0])
    assert (found["slope_at_points"], found["slope_between"]) == (0, pytest.approx(2))
    assert model.training


def test_slopes_are_root_mean_squares() -> None:
    found = learned_function(Steps(), parts(0.0, 0.5, 1.0, 0.0))
    assert found["slope_at_points"] == pytest.approx((4 / 4) ** 0.5)
