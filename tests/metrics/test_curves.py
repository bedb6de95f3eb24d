"""Transitions and slopes along curves against models whose kinks and ways are known."""

import math

import pytest
import torch
import torch.nn.functional as F
from models_for_tests import batch, build
from torch import Tensor, nn

import gradreg as gr
from gradreg import metrics

KINKS = (0.105, 0.335, 0.715)


class Kinks(nn.Module):
    """Piecewise linear on the line, with kinks at known places."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x - torch.tensor(KINKS)).sum(1, keepdim=True)


def line(count: int) -> Tensor:
    return torch.linspace(0, 1, count)[:, None]


@pytest.mark.parametrize("chunk", [7, 1000])
def test_transitions_are_where_the_kinks_are(chunk: int) -> None:
    found = metrics.transitions(Kinks(), line(101), chunk=chunk)
    assert found.shape == (100,)
    assert found.sum() == 3
    assert found.nonzero().flatten().tolist() == [10, 33, 71]
    # The way back crosses the same kinks.
    there_and_back = torch.cat([line(101), line(101).flip(0)])
    assert metrics.transitions(Kinks(), there_and_back, closed=True).sum() == 6
    assert metrics.transitions(Kinks(), line(101), closed=True).shape == (101,)
    assert metrics.transitions(Kinks(), line(101), closed=True)[-1] == 3


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(),
        nn.PReLU(),
        nn.RReLU(),
        F.relu,
        torch.relu,
        torch.relu_,
        lambda z: z.relu(),
        lambda z: z.relu_(),
        lambda z: F.relu(input=z),
        F.leaky_relu_,
        F.rrelu_,
        torch.rrelu,
    ],
)
def test_rectifiers_of_every_spelling_are_seen_once(layer: object) -> None:
    linear = nn.Linear(3, 8)
    model = lambda x: layer(linear(x))  # type: ignore[operator]
    curve = metrics.ellipse(*torch.randn(3, 3), steps=30)
    signs = linear(curve) > 0
    expected = (signs != signs.roll(-1, 0)).sum(1)
    assert expected.sum() > 0
    assert torch.equal(metrics.transitions(model, curve, closed=True), expected)


def test_one_rectified_value_per_example_is_seen() -> None:
    assert metrics.transitions(lambda x: torch.relu(x[:, 0] - 0.105), line(101)).nonzero().flatten().tolist() == [10]


def test_the_jacobian_of_a_relu_net_changes_only_at_transitions() -> None:
    model = build("mlp")
    curve = metrics.ellipse(*batch()[0], steps=60)
    full = gr.dense.jacobian(model, curve)
    moved = ((full - full.roll(-1, 0)).abs() > 1e-12).flatten(1).any(1)
    switched = metrics.transitions(model, curve, closed=True) > 0
    assert torch.equal(moved, switched)
    assert 0 < switched.sum() < 60


def test_curves_without_kinks_or_points_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found no unit that rectifies .*For smooth models"):
        metrics.transitions(build("softplus"), batch()[0])
    with pytest.raises(ValueError, match=r"got a curve of shape \(1, 1, 8, 8\); expected two points or more"):
        metrics.transitions(build("mlp"), batch()[0][:1])


# --- segments ---------------------------------------------------------------------------------------------------------


def test_a_linear_model_has_the_same_slope_everywhere() -> None:
    model, (a, b) = nn.Linear(5, 3).double(), torch.randn(2, 7, 5).double()
    found = metrics.segments(model, a, b, steps=5, chunk=3)
    direction = (b - a) / (b - a).norm(dim=1, keepdim=True)
    expected = (direction @ model.weight.T).norm(dim=1).detach()
    for slopes in (found.at_ends, found.between, found.chord):
        torch.testing.assert_close(slopes, expected)
    assert found.ratio == pytest.approx(1, rel=1e-12)


def test_a_function_of_steps_is_found_out_however_thin_its_steps() -> None:
    """Flat at the points 0, 1, ..., 5 and up by 1 within a thousandth between them."""
    steps = lambda x: torch.sigmoid(2e4 * (x - 0.5 - torch.arange(5))).sum(1, keepdim=True)
    x = torch.arange(6.0).double()[:, None]
    found = metrics.segments(steps, x[:-1], x[1:], steps=7)
    assert found.at_ends.max() < 1e-12
    torch.testing.assert_close(found.between, torch.ones(5).double())
    assert found.ratio > 1e9
    smooth = metrics.segments(lambda x: x + 0.01 * torch.sin(x), x[:-1], x[1:])
    assert smooth.ratio == pytest.approx(1, abs=0.01)


def test_the_way_of_a_sine_is_its_integral() -> None:
    """sin from 0 to 2 pi n goes up and down by 4 n, while its chord is 0; the slope at both ends is 1."""
    a, b = torch.zeros(1, 1).double(), torch.full((1, 1), 6 * math.pi).double()
    found = metrics.segments(torch.sin, a, b, steps=1200)
    torch.testing.assert_close(found.between, torch.tensor([12 / (6 * math.pi)]).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.at_ends, torch.ones(1).double())
    torch.testing.assert_close(found.chord, torch.zeros(1).double())
    coarse = metrics.segments(torch.sin, a, b, steps=8).between
    assert coarse < found.between


def test_segments_of_a_network_equal_the_dense_jacobian_and_leave_it_alone() -> None:
    model, (x, _) = build("lenet").train(), batch(6)
    a, b = x[:3], x[3:]
    for target in (gr.Logits(), gr.Probabilities()):
        with torch.no_grad():
            found = metrics.segments(model, a, b, target=target, chunk=2)
        unit = (b - a).flatten(1) / (b - a).flatten(1).norm(dim=1, keepdim=True)
        columns = [gr.dense.jacobian(model, p, target=target) @ unit[:, :, None] for p in (a, b)]
        slopes = [column[:, :, 0].norm(dim=1) for column in columns]
        torch.testing.assert_close(found.at_ends, (slopes[0] + slopes[1]) / 2, rtol=1e-9, atol=0)
        chord = (target(model(b), None) - target(model(a), None)).norm(dim=1) / (b - a).flatten(1).norm(dim=1)
        torch.testing.assert_close(found.chord, chord.detach())
        assert (found.between >= found.chord * (1 - 1e-12)).all()
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_pairs_that_are_no_pairs_are_refused() -> None:
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match="a pair of twice the same point, which has no direction"):
        metrics.segments(nn.Linear(2, 2), x, x)
    with pytest.raises(ValueError, match=r"points of shapes \(4, 2\) and \(3, 2\); expected the same"):
        metrics.segments(nn.Linear(2, 2), x, x[:3])
    with pytest.raises(ValueError, match="steps=0; expected a whole number >= 1"):
        metrics.segments(nn.Linear(2, 2), x, -x, steps=0)
