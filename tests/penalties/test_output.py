"""Penalties on the outputs against their formulas."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import gradreg as gr


def outputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_confidence_penalty_is_the_mean_negative_entropy() -> None:
    z = outputs(5, 4)
    expected = -torch.distributions.Categorical(logits=z).entropy().mean()
    torch.testing.assert_close(gr.ConfidencePenalty(0.7).of(z, None), 0.7 * expected, rtol=1e-12, atol=0)


def test_confidence_penalty_runs_from_minus_log_c_to_zero() -> None:
    assert gr.ConfidencePenalty(1.0).of(torch.zeros(3, 10), None).item() == pytest.approx(-math.log(10))
    sure = torch.eye(10) * 1e4
    assert gr.ConfidencePenalty(1.0).of(sure, None).item() == 0.0


def test_confidence_penalty_of_a_masked_class_is_that_of_the_others() -> None:
    z = outputs(5, 4)
    masked = torch.cat([z, torch.full((5, 1), -torch.inf, dtype=torch.float64)], 1)
    found = gr.ConfidencePenalty(1.0).of(masked, None)
    torch.testing.assert_close(found, gr.ConfidencePenalty(1.0).of(z, None))
    assert torch.isfinite(torch.autograd.grad(found, z)[0]).all()


def test_label_smoothing_has_the_gradient_of_smoothed_cross_entropy() -> None:
    """(1 + w) times torch's label_smoothing = w / (1 + w), up to the constant log C."""
    z, y, alpha = outputs(5, 4), torch.randint(4, (5,)), 0.1
    weight = alpha / (1 - alpha)
    ours = cross_entropy(z, y) + gr.LabelSmoothing(weight).of(z, None)
    theirs = cross_entropy(z, y, label_smoothing=alpha) / (1 - alpha)
    torch.testing.assert_close(ours, theirs - weight * math.log(4), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(ours, z)[0], torch.autograd.grad(theirs, z)[0])


@pytest.mark.parametrize("preset", [gr.ConfidencePenalty, gr.LabelSmoothing])
def test_positions_are_averaged_and_their_class_dimension_is_asked_for(preset: type) -> None:
    z = outputs(2, 3, 4)
    by_position = preset(1.0).of(z.reshape(6, 4), None)
    torch.testing.assert_close(preset(1.0, class_dim=2).of(z, None), by_position)
    torch.testing.assert_close(preset(1.0).of(z.movedim(2, 1)[..., None], None), by_position)
    with pytest.raises(ValueError, match=r"Write class_dim=2 for sequences \(B, T, C\)"):
        preset(1.0).of(z, None)


def test_probabilities_of_half_precision_outputs_are_taken_in_float32() -> None:
    z = outputs(5, 4).bfloat16()
    assert gr.ConfidencePenalty(1.0).of(z, None).dtype == torch.float32
