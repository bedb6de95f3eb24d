"""SIN: the distribution of its points, what a seed draws of them, and the doubled set."""

import math

import pytest
import torch

from gradreg.data.dataset import DataError
from gradreg.data.sin import NOISE, grid, load_sin, target
from gradreg.data.splits import Split, split

DATA, DOUBLED = load_sin(), load_sin(doubled=True)


def drawn(doubled: bool = False, seed: int = 0, *, with_test: bool = False) -> Split:
    data = DOUBLED if doubled else DATA
    return split(
        data, train_size=100, validation_size=1000, test_size=0, seed=seed, balanced=False, with_test=with_test
    )


def test_points_are_uniform_with_gaussian_noise() -> None:
    x, noise = DATA.x[:, 0].double(), (DATA.y - torch.sin(5 * DATA.x))[:, 0].double()
    assert float(x.abs().max()) <= 1
    # Of 20000: within five standard errors.
    assert float(x.mean()) == pytest.approx(0, abs=5 * 0.577 / 141)
    assert float(x.square().mean()) == pytest.approx(1 / 3, abs=0.011)
    assert float(noise.mean()) == pytest.approx(0, abs=5 * NOISE / 141)
    assert float(noise.std()) == pytest.approx(NOISE, rel=0.025)
    assert float((noise.abs() > 2 * NOISE).double().mean()) == pytest.approx(0.0455, abs=0.0075)
    assert abs(float(torch.corrcoef(torch.stack([x, noise]))[0, 1])) < 0.036


def test_test_points_are_the_grid_without_noise() -> None:
    assert DATA.test_x is not None
    assert DATA.test_y is not None
    assert (len(grid()), grid()[0], grid()[-1]) == (900, -1, 1)
    assert DATA.test_x.flatten().tolist() == pytest.approx(grid(), abs=1e-7)
    assert DATA.test_y.flatten().tolist() == pytest.approx([math.sin(5 * x) for x in grid()], abs=1e-6)
    assert target(0.1) == math.sin(0.5)


def test_validation_points_are_noisy_and_not_those_of_training() -> None:
    assert DATA.validation_x is not None
    assert DATA.validation_y is not None
    noise = DATA.validation_y - torch.sin(5 * DATA.validation_x)
    assert float(noise.std()) == pytest.approx(NOISE, rel=0.12)
    assert not torch.isin(DATA.validation_x, DATA.x).any()


def test_it_is_the_same_each_time() -> None:
    again = load_sin()
    assert torch.equal(again.x, DATA.x)
    assert torch.equal(again.y, DATA.y)


def test_inputs_are_left_in_their_unit() -> None:
    parts = drawn(with_test=True)
    assert (parts.mean.item(), parts.std.item()) == (0, 1)
    assert torch.isin(parts.x, DATA.x).all()
    assert parts.test_x is not None
    assert DATA.test_x is not None
    assert torch.equal(parts.test_x, DATA.test_x)


def test_each_seed_draws_points_of_its_own_and_no_test_points_unless_asked() -> None:
    one, other = drawn(), drawn(seed=1)
    assert one.x.shape == one.y.shape == (100, 1)
    assert torch.isin(one.x, other.x).sum() < 10
    assert torch.equal(one.validation_x, other.validation_x)
    assert (one.test_x, one.test_y) == (None, None)


def test_doubled_set_has_each_point_again_a_thousandth_to_the_right() -> None:
    plain, doubled = drawn(), drawn(doubled=True)
    assert doubled.x.shape == (200, 1)
    assert torch.equal(doubled.x[:100], plain.x)
    assert torch.allclose(doubled.x[100:], plain.x + 0.001)
    assert torch.equal(doubled.y, torch.cat([plain.y, plain.y]))
    assert torch.equal(doubled.validation_x, plain.validation_x)  # which are not doubled


def test_balanced_draw_is_refused() -> None:
    with pytest.raises(DataError, match=r"balanced=True, but the labels of sin are numbers"):
        split(DATA, train_size=100, validation_size=0, test_size=0, seed=0)


def test_number_of_outputs() -> None:
    assert DATA.outputs == 1
