"""Calibration and likelihood against direct formulas and data that are calibrated by construction."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models_for_tests import batch, build
from torch import Tensor

import gradreg as gr
from gradreg import metrics


def slow_calibration_error(z: Tensor, y: Tensor, bins: int) -> float:
    """The definition, in plain Python: bins (lo, hi], weighted absolute gaps."""
    held: dict[int, list[tuple[float, bool]]] = {}
    for scores, label in zip(z.tolist(), y.tolist(), strict=True):
        exponentials = [math.exp(s - max(scores)) for s in scores]
        confidence = max(exponentials) / sum(exponentials)
        held.setdefault(math.ceil(confidence * bins), []).append((confidence, scores.index(max(scores)) == label))
    total = 0.0
    for inside in held.values():
        right = sum(correct for _, correct in inside) / len(inside)
        sure = sum(confidence for confidence, _ in inside) / len(inside)
        total += len(inside) / len(y) * abs(right - sure)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15, 40])
def test_calibration_error_equals_the_slow_formula(bins: int) -> None:
    z, y = 3 * torch.randn(500, 5), torch.randint(5, (500,))
    assert metrics.expected_calibration_error(z, y, bins=bins) == pytest.approx(
        slow_calibration_error(z.double(), y, bins), rel=1e-12
    )


def test_confidences_on_an_edge_belong_to_the_bin_below() -> None:
    """Twice exactly 1/2, in (0, 1/2] together; with [1/2, 1) they would share the other bin and half cancel."""
    z = torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]]).double()
    y = torch.tensor([0, 0, 1])
    sure = 1 / (1 + math.exp(-9))
    expected = (2 * 0.5 + sure) / 3
    assert metrics.expected_calibration_error(z, y, bins=2) == pytest.approx(expected, rel=1e-12)


def test_calibrated_predictions_have_a_small_error_and_overconfident_ones_the_known_one() -> None:
    """Labels drawn from the predicted probabilities: the error is below sqrt(bins / N) = 0.0087."""
    g = torch.Generator().manual_seed(0)
    count = 200_000
    z = torch.randn(count, 2, generator=g, dtype=torch.float64)
    y = torch.multinomial(torch.softmax(z, 1), 1, generator=g)[:, 0]
    calibrated = metrics.expected_calibration_error(z, y, bins=15)
    assert calibrated < (15 / count) ** 0.5
    confidence = torch.softmax(z, 1).amax(1).mean().item()
    # Scaled up without bound the confidence is 1 and the part of right ones stays.
    overconfident = metrics.expected_calibration_error(1e6 * z, y)
    assert overconfident == pytest.approx(1 - confidence, abs=0.004)
    # The true probabilities have the smallest likelihood loss, their mean entropy.
    nll = metrics.negative_log_likelihood(z, y)
    entropy = -(torch.softmax(z, 1) * torch.log_softmax(z, 1)).sum(1).mean().item()
    assert nll == pytest.approx(entropy, abs=0.005)
    assert nll < metrics.negative_log_likelihood(1.5 * z, y)
    assert nll < metrics.negative_log_likelihood(z / 1.5, y)


def test_likelihood_and_accuracy_are_summed_in_double() -> None:
    z, y = torch.randn(300, 4), torch.randint(4, (300,))
    direct = -torch.log_softmax(z.double(), 1)[torch.arange(300), y].mean().item()
    assert metrics.negative_log_likelihood(z, y) == pytest.approx(direct, rel=1e-13)
    assert metrics.accuracy(z, y) == 100 * sum((z.argmax(1) == y).tolist()) / 300


def test_objects_with_logits_are_read_as_penalties_read_them() -> None:
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    outputs: Any = SimpleNamespace(logits=z)
    for measure in (metrics.accuracy, metrics.negative_log_likelihood, metrics.expected_calibration_error):
        assert measure(outputs, y) == measure(z, y)


def test_scores_of_images_and_sequences() -> None:
    z, y = torch.randn(6, 3, 4, 5), torch.randint(3, (6, 4, 5))
    flat = z.permute(0, 2, 3, 1).reshape(-1, 3)
    for measure in (metrics.accuracy, metrics.negative_log_likelihood, metrics.expected_calibration_error):
        assert measure(z, y) == pytest.approx(measure(flat, y.flatten()), rel=1e-12)
        assert measure(z.flatten(2).mT, y.flatten(1), class_dim=2) == pytest.approx(measure(z, y), rel=1e-12)
        with pytest.raises(ValueError, match="could be dimension 1 or 2"):
            measure(z.flatten(2), y.flatten(1))
        with pytest.raises(ValueError, match=r"dtype torch.float32; expected class indices: write y.argmax\(1\)"):
            measure(z, torch.softmax(z, 1))
        with pytest.raises(ValueError, match=r"labels of shape \(5,\)"):
            measure(flat, y.flatten()[:5])
    with pytest.raises(ValueError, match=r"accuracy got labels from -1 to 2 for 3 classes; expected 0 to 2\. Take out"):
        metrics.accuracy(flat, torch.where(torch.arange(120) == 7, -1, y.flatten()))
    with pytest.raises(ValueError, match="bins=0; expected a whole number >= 1"):
        metrics.expected_calibration_error(flat, y.flatten(), bins=0)


@pytest.mark.parametrize("chunk", [2, 100])
def test_predictions_are_the_outputs_in_evaluation_mode(chunk: int) -> None:
    model, (x, _) = build("frozen-batchnorm"), batch(5)
    expected = model(x).detach()
    model.train()
    with torch.inference_mode():
        inference = x + 0
        found = metrics.predictions(model, inference, chunk=chunk)
    torch.testing.assert_close(found, expected)
    assert model.training
    assert not found.is_inference()
    assert not found.requires_grad
    with pytest.raises(TypeError, match=r"the model returned dict, but metrics\.predictions needs a tensor"):
        gr.metrics.predictions(lambda x: {"logits": x}, x)
