"""Points to measure at: where they lie."""

import math

import pytest
import torch
from torch import Generator

from gradreg import metrics


def test_interpolated_points_lie_on_segments_to_another_point() -> None:
    """One-hot points tell which two were joined, and at which t; its mean is 1/2 +- 4 sigma."""
    x = torch.eye(400, dtype=torch.float64).reshape(400, 20, 20)
    found = metrics.interpolated(x, generator=Generator().manual_seed(0)).flatten(1)
    own = found.diagonal()
    assert ((found > 0).sum(1) == 2).all()  # never itself
    torch.testing.assert_close(found.sum(1), torch.ones(400).double())
    assert abs(own.mean() - 0.5) < 4 / (12 * 400) ** 0.5
    others = (found * (1 - torch.eye(400))).argmax(1)
    assert len(others.unique()) > 200  # 253 of 400 at random


def test_noise_has_the_mean_and_deviation_of_each_entry() -> None:
    """Of 10000 points; bounds of 5 sigma."""
    scale, shift = torch.tensor([[0.0, 1.0], [2.0, 5.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    x = shift + scale * torch.randn(10_000, 2, 2)
    deviation, mean = torch.std_mean(x, 0)
    found = metrics.noise(x, generator=Generator().manual_seed(1))
    assert found.shape == x.shape
    assert ((found.mean(0) - mean).abs() <= 5 * deviation / 100 + 1e-6).all()
    assert ((found.std(0) / deviation.clamp(min=1e-9) - (scale > 0).float()).abs() < 5 / 140).all()
    # Entries know nothing of each other, whatever the data.
    tied = metrics.noise(torch.randn(10_000, 1).expand(10_000, 2), generator=Generator().manual_seed(1))
    assert torch.corrcoef(tied.T)[0, 1].abs() < 0.05


@pytest.mark.parametrize("chunk", [3, 1000])
def test_neighbours_equal_a_search(chunk: int) -> None:
    x = torch.randn(20, 2, 3)
    found = metrics.neighbours(x, chunk=chunk)
    for i in range(20):
        distances = [math.inf if j == i else float((x[i] - x[j]).norm()) for j in range(20)]
        assert torch.equal(found[i], x[distances.index(min(distances))])


def test_neighbours_leave_out_what_is_in_the_same_place() -> None:
    x = torch.tensor([0.0, 0.001, 1.0, 1.001, 3.0])[:, None]
    assert metrics.neighbours(x).flatten().tolist() == pytest.approx([0.001, 0.0, 1.001, 1.0, 1.001])
    assert metrics.neighbours(x, apart=0.002).flatten().tolist() == pytest.approx([1.0, 1.0, 0.001, 0.001, 1.001])
    with pytest.raises(ValueError, match="no other one is farther than apart=3 from"):
        metrics.neighbours(x, apart=3)


def test_the_ellipse_goes_through_its_points_and_closes() -> None:
    a, b, c = torch.randn(3, 2, 3).double()
    curve = metrics.ellipse(a, b, c, steps=12)
    assert curve.shape == (12, 2, 3)
    for index, point in ((0, a), (4, b), (8, c)):
        torch.testing.assert_close(curve[index], point)
    # Affine image of a circle: its points are in the plane of the three, around their mean.
    torch.testing.assert_close(curve.mean(0), (a + b + c) / 3)
    assert torch.linalg.matrix_rank((curve - curve.mean(0)).flatten(1)) == 2
    circle = metrics.ellipse(*(torch.tensor([math.cos(t), math.sin(t)]) for t in (0, 2 * math.pi / 3, 4 * math.pi / 3)))
    torch.testing.assert_close(circle.norm(dim=1), torch.ones(300))


def test_bad_points_are_refused() -> None:
    for make in (metrics.interpolated, metrics.noise, metrics.neighbours):
        with pytest.raises(ValueError, match=rf"{make.__name__} got one point, of shape \(1, 3\); expected two"):
            make(torch.randn(1, 3))
        with pytest.raises(TypeError, match="gradients need floating-point numbers"):
            make(torch.ones(3, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"ellipse got points of shapes \(3,\), \(3,\), \(4,\)"):
        metrics.ellipse(torch.zeros(3), torch.zeros(3), torch.zeros(4))


def test_points_made_under_inference_mode_can_be_measured_at() -> None:
    x, model = torch.randn(5, 3, requires_grad=True), torch.nn.Linear(3, 2)
    makes = (metrics.interpolated, metrics.noise, metrics.neighbours, lambda x: metrics.ellipse(*x[:3]))
    with torch.inference_mode():
        for make in makes:
            points = make(x)
            assert not points.is_inference()
            assert not points.requires_grad
            assert metrics.jacobian_norms(model, points).shape == points.shape[:1]
