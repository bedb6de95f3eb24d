"""Mixup against its formula, with its draws written out."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from models_for_tests import batch, build, parameter_gradient
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

import gradreg as gr
from gradreg.mixup import share_of_one


def generator() -> Generator:
    return Generator().manual_seed(3)


def drawn(size: int, alpha: float) -> tuple[Tensor, float]:
    """The order and the share of a batch, from the same generator."""
    g = generator()
    order = torch.randn(size, generator=g).argsort()
    larger = torch._standard_gamma(torch.full((2,), alpha + 1, dtype=torch.float64), generator=g)  # type: ignore[attr-defined]
    one, other = (larger * torch.rand(2, dtype=torch.float64, generator=g) ** (1 / alpha)).tolist()
    return order, one / (one + other)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_is_the_mixed_loss_at_the_mixed_inputs(alpha: float) -> None:
    model, (x, y) = build("lenet"), batch(5)
    found = gr.Mixup(gr.Objective(cross_entropy), alpha, classes=4)(model, x, y, generator=generator())
    order, a = drawn(5, alpha)
    z = model(a * x + (1 - a) * x[order])
    expected = a * cross_entropy(z, y) + (1 - a) * cross_entropy(z, y[order])
    torch.testing.assert_close(found.total, expected, rtol=1e-6, atol=0)  # labels are float32
    a_gradient, b_gradient = parameter_gradient(found.total, model), parameter_gradient(expected, model)
    assert (a_gradient - b_gradient).norm() <= 1e-6 * b_gradient.norm()
    torch.testing.assert_close(found.outputs, z, rtol=1e-12, atol=1e-13)


def test_penalties_see_the_mixed_examples() -> None:
    model, (x, y) = build("softplus"), batch(5)
    objective = gr.Objective(cross_entropy, gr.DoubleBack(3.0), gr.FrobReg(0.1))
    found = gr.Mixup(objective, 1.0, classes=4)(model, x, y, generator=generator())
    order, a = drawn(5, 1.0)
    mixed, labels = a * x + (1 - a) * x[order], a * one_hot(y, 4).double() + (1 - a) * one_hot(y[order], 4)
    doubleback = gr.JacobianPenalty(3.0, projection=gr.LossDirection())(model, mixed, labels)
    torch.testing.assert_close(found.terms["doubleback"], doubleback, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.terms["frobreg"], gr.FrobReg(0.1)(model, mixed), rtol=1e-9, atol=0)


def test_numbers_as_labels_are_mixed_too() -> None:
    model, x, y = nn.Linear(8, 2), torch.randn(6, 8), torch.randn(6, 2)
    found = gr.Mixup(gr.Objective(mse_loss), 0.5)(model, x, y, generator=generator())
    order, a = drawn(6, 0.5)
    expected = mse_loss(model(a * x + (1 - a) * x[order]), a * y + (1 - a) * y[order])
    torch.testing.assert_close(found.total, expected)


def test_alpha_of_0_leaves_the_batch_as_it_is() -> None:
    model, (x, y) = build("mlp"), batch()
    found = gr.Mixup(gr.Objective(cross_entropy, gr.SpectReg(0.1)), 0)(model, x, y, generator=generator())
    plain = gr.Objective(cross_entropy, gr.SpectReg(0.1))(model, x, y, generator=generator())
    assert torch.equal(found.total, plain.total)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 8.0])
def test_shares_have_the_variance_of_a_beta_distribution(alpha: float) -> None:
    """1 / (4 (2 alpha + 1)), within 8 % over 4000 draws; the mean within 4 standard errors."""
    g = generator()
    shares = torch.tensor([share_of_one(alpha, g) for _ in range(4000)], dtype=torch.float64)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4 * (variance / 4000) ** 0.5
    assert shares.var() == pytest.approx(variance, rel=0.08)


def test_very_small_alpha_mixes_next_to_nothing() -> None:
    """Both Gamma numbers are below what a float64 can hold in a quarter of the draws of alpha = 0.001."""
    g = generator()
    shares = torch.tensor([share_of_one(0.001, g) for _ in range(1000)], dtype=torch.float64)
    assert ((shares < 0.01) | (shares > 0.99)).double().mean() > 0.98  # 2 alpha log(99) = 0.9 % lie between
    assert abs(shares.mean() - 0.5) < 4 * 0.5 / 1000**0.5


def test_the_same_generator_gives_the_same_mixture_and_the_global_state_is_left() -> None:
    model, (x, y) = build("mlp"), batch()
    mixup = gr.Mixup(gr.Objective(cross_entropy, gr.SpectReg(0.1)), 0.4, classes=4)
    before = torch.get_rng_state()
    totals = [mixup(model, x, y, generator=generator()).total for _ in range(2)]
    assert torch.equal(totals[0], totals[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: gr.Mixup(cast(Any, cross_entropy)), "expected a gradreg Objective, as in objective=gr.Objective"),
        (lambda: gr.Mixup(gr.Objective(cross_entropy), -1), r"Mixup got alpha=-1; expected a finite number >= 0"),
        (lambda: gr.Mixup(gr.Objective(cross_entropy), classes=0), "Mixup got classes=0; expected a whole number >= 1"),
        (
            lambda: gr.Mixup(gr.Objective(cross_entropy))(nn.Linear(8, 3), torch.ones(2, 8), torch.tensor([0, 1])),
            r"no number of classes; write gr.Mixup\(objective, classes=10\)",
        ),
        (
            lambda: gr.Mixup(gr.Objective(cross_entropy), classes=3)(
                nn.Linear(8, 3), torch.ones(2, 8), torch.tensor([0, 3])
            ),
            r"labels of shape \(2,\) from 0 to 3; expected class indices \(B,\) below 3",
        ),
        (
            lambda: gr.Mixup(gr.Objective(cross_entropy), classes=3)(nn.Linear(8, 3), torch.ones(2, 8), [0, 1]),
            r"labels of type list; expected a tensor: torch.as_tensor\(y\)",
        ),
        (
            lambda: gr.Mixup(gr.Objective(cross_entropy), classes=3)(
                nn.Linear(8, 3), torch.ones(2, 8, dtype=torch.int64), torch.tensor([0, 1])
            ),
            "gradients need floating-point numbers.*there is nothing between token ids: pass",
        ),
        (
            lambda: gr.Mixup(gr.Objective(mse_loss))(nn.Linear(8, 3), torch.ones(2, 8), torch.ones(3, 3)),
            "Mixup needs the batch first in each",
        ),
    ],
)
def test_wrong_use_is_answered_with_what_to_write(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises((ValueError, TypeError), match=expected):
        make()
