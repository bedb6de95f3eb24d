"""Generators of their own for each use of a seed, and draws that leave the global generator alone."""

from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Generator, Tensor

from gradreg._random import generator_for, integers, normal

LIKE = torch.zeros(1)


def draw(seed: int, purpose: str) -> Tensor:
    return torch.rand(20, generator=generator_for(seed, purpose))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31, 2**64, 10**30])
def test_the_same_seed_and_purpose_give_the_same_numbers(seed: int) -> None:
    assert torch.equal(draw(seed, "batches"), draw(seed, "batches"))


def test_other_seeds_and_purposes_give_other_numbers() -> None:
    """Also pairs that look alike when they are written one behind the other."""
    seeds, purposes = (0, 1, -1, 11, 2**32, 2**64), ("", "1", "batches", "batches ", "Batches", "0/batches", "penalty")
    drawn = {(seed, purpose): tuple(draw(seed, purpose).tolist()) for seed in seeds for purpose in purposes}
    assert len(set(drawn.values())) == len(drawn)


def test_generators_of_neighbouring_seeds_are_unrelated() -> None:
    """Correlations of 200 pairs of 2000 numbers: each has the standard deviation 1/sqrt(2000)."""
    drawn = torch.stack([torch.randn(2000, generator=generator_for(seed, "batches")) for seed in range(201)])
    drawn = (drawn - drawn.mean(1, keepdim=True)) / drawn.std(1, keepdim=True)
    correlations = (drawn[1:] * drawn[:-1]).mean(1)
    assert correlations.abs().max() < 5 / sqrt(2000)
    assert abs(correlations.std() * sqrt(2000) - 1) < 0.25


def test_the_numbers_of_a_seed_stay_the_same_from_version_to_version() -> None:
    """Results are kept under a hash of their configuration, seed included: a changed generator would mix them up."""
    assert generator_for(0, "batches").initial_seed() == 5237782742855521824
    assert generator_for(3, "penalty").initial_seed() == 670971813327200801


def test_the_device_is_handed_on() -> None:
    assert generator_for(0, "batches", "cpu").device == torch.device("cpu")
    with pytest.raises(RuntimeError):
        generator_for(0, "batches", "no such device")


def test_a_generator_neither_uses_nor_moves_the_global_one() -> None:
    before = torch.get_rng_state()
    first = draw(0, "batches")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(draw(0, "batches"), first)


# --- draws ------------------------------------------------------------------------------------------------------------

Draw = Callable[[Generator | None], Tensor]
DRAWS: dict[str, Draw] = {
    "normal": lambda generator: normal((3, 5), LIKE, generator),
    "integers": lambda generator: integers(1000, (3, 5), LIKE, generator),
}
EACH = pytest.mark.parametrize("draws", DRAWS.values(), ids=DRAWS)


@EACH
def test_draws_come_from_the_given_generator(draws: Draw) -> None:
    given = Generator().manual_seed(4)
    state = given.get_state()
    first, second = draws(given), draws(given)
    assert not torch.equal(first, second)  # the generator moves on
    given.set_state(state)
    assert torch.equal(draws(given), first)


@EACH
def test_draws_from_a_given_generator_leave_the_global_one_untouched(draws: Draw) -> None:
    before = torch.get_rng_state()
    first = draws(Generator().manual_seed(4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(draws(Generator().manual_seed(4)), first)


@EACH
def test_without_a_generator_draws_follow_the_global_seed(draws: Draw) -> None:
    torch.manual_seed(4)
    first, second = draws(None), draws(None)
    assert not torch.equal(first, second)
    torch.manual_seed(4)
    assert torch.equal(draws(None), first)


@EACH
def test_draws_have_the_shape_asked_for(draws: Draw) -> None:
    assert draws(None).shape == (3, 5)
    assert normal([], LIKE, None).shape == integers(3, [], LIKE, None).shape == ()
    assert normal(torch.Size((2, 0)), LIKE, None).shape == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normal_numbers_have_the_dtype_of_the_tensor_they_are_for(dtype: torch.dtype) -> None:
    for generator in (None, Generator()):
        assert normal((2,), torch.zeros(1, dtype=dtype), generator).dtype == dtype
        assert integers(3, (2,), torch.zeros(1, dtype=dtype), generator).dtype == torch.int64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("device", [None, "cpu", "cuda"])
def test_draws_go_to_the_device_of_the_tensor_they_are_for(device: str | None) -> None:
    like = torch.zeros(1, device="cuda")
    generator = None if device is None else generator_for(0, "penalty", device)
    assert normal((2,), like, generator).device == like.device
    assert integers(3, (2,), like, generator).device == like.device


def test_normal_numbers_are_standard_normal() -> None:
    """Mean, square and fourth power of n numbers within five standard deviations: sqrt(1, 2, 96)/sqrt(n)."""
    n = 100_000
    x = normal((n,), torch.zeros(1, dtype=torch.float64), Generator().manual_seed(0))
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        assert abs((x**power).mean() - expected) < 5 * sqrt(variance / n)


def test_integers_are_uniform_below_the_bound() -> None:
    """Each of 7 values comes n/7 times, within five standard deviations of a binomial count."""
    n = 70_000
    counts = integers(7, (n,), LIKE, Generator().manual_seed(0)).bincount()
    assert len(counts) == 7
    assert (counts - n / 7).abs().max() < 5 * sqrt(n * 6 / 49)
