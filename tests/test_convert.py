"""Weights of other conventions, each against that convention's own formula."""

import pytest
import torch
from models_for_tests import batch, build
from torch import Tensor
from torch.nn.functional import cross_entropy

import gradreg as gr


def jacobian_reg(x: Tensor, z: Tensor) -> Tensor:
    """`JacobianReg(n=-1)` of Hoffman et al., as published: C / (n_projections B) per row, halved at the end."""
    batch, classes = z.shape
    total = torch.zeros((), dtype=z.dtype)
    for index in range(classes):
        v = torch.zeros_like(z)
        v[:, index] = 1
        product = torch.autograd.grad(z.flatten(), x, v.flatten().reshape(-1), create_graph=True)[0]
        total = total + classes * torch.norm(product) ** 2 / (classes * batch)
    return total / 2


def test_frobreg_is_twice_jacobian_reg() -> None:
    model, (x, _) = build("softplus"), batch()
    leaf = x.clone().requires_grad_()
    other = jacobian_reg(leaf, model(leaf))
    torch.testing.assert_close(gr.FrobReg(1.0)(model, x), 2 * other, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        gr.FrobReg(gr.convert.weight(0.01, half=True))(model, x), 0.01 * other, rtol=1e-9, atol=0
    )


def test_a_sum_over_the_batch() -> None:
    model, (x, _) = build("mlp"), batch(6)
    p = model(x).softmax(1)
    summed = 0.01 * (p * p.log()).sum()
    weight = gr.convert.weight(0.01, summed_over=6)
    torch.testing.assert_close(gr.ConfidencePenalty(weight)(model, x), summed, rtol=1e-9, atol=0)


def test_the_gradient_of_a_mean_loss() -> None:
    """||d mean(L)/dX||^2 over the whole batch: B^2 smaller for each example, and summed."""
    model, (x, y) = build("softplus"), batch(6)
    leaf = x.clone().requires_grad_()
    gradient = torch.autograd.grad(cross_entropy(model(leaf), y), leaf)[0]
    weight = gr.convert.weight(3.0, summed_over=6, loss_averaged_over=6)
    torch.testing.assert_close(
        gr.DoubleBack(weight)(model, x, y).detach(), 3.0 * gradient.square().sum(), rtol=1e-9, atol=0
    )


def test_raw_inputs_against_standardized_ones() -> None:
    """The other code differentiates by pixels in [0, 1], standardized inside its model by a deviation of 0.3."""
    model, (x, _) = build("softplus"), batch()
    raw = 0.3 * x + 0.1
    there = gr.FrobReg(0.02)(lambda pixels: model((pixels - 0.1) / 0.3), raw)
    weight = gr.convert.weight(0.02, input_std=0.3)
    torch.testing.assert_close(gr.FrobReg(weight)(model, x), there, rtol=1e-9, atol=0)


def test_the_scripts_confidence_penalty_is_a_half() -> None:
    assert gr.convert.weight(0.01, summed_over=50) == pytest.approx(0.5)
    assert gr.convert.weight(0.003, summed_over=128) == pytest.approx(0.384)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": -1.0}, "negative weight"),
        ({"value": 1.0, "summed_over": 0}, "summed_over=0; expected a whole number >= 1"),
        ({"value": 1.0, "input_std": 0}, "input_std=0; expected the standard deviation of the inputs, > 0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gr.convert.weight(**arguments)  # type: ignore[arg-type]
