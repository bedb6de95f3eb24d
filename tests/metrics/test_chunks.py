"""What all measures have in common: every mode is left as found, and bad points are refused."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from models_for_tests import batch, build
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg import metrics
from gradreg.metrics import _chunks


def test_an_error_within_a_measure_leaves_every_mode_as_it_was() -> None:
    model, (x, _) = build("mlp").train(), batch()
    with torch.no_grad(), pytest.raises(ValueError, match="does not depend on the input"):
        gr.metrics.jacobian_norms(model, x, target=lambda z: z.detach())
    assert model.training
    assert torch.is_grad_enabled()


def test_chunks_are_measured_in_order_and_joined() -> None:
    x, y = torch.arange(7.0)[:, None], torch.arange(7)
    seen = []

    def measure(points: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(points))
        return points[:, 0] + labels

    assert torch.equal(_chunks.in_chunks(nn.Identity(), x, y, 3, measure), 2 * torch.arange(7.0))
    assert seen == [3, 3, 1]


@pytest.mark.parametrize(
    "measure",
    [
        metrics.jacobian_norms,
        metrics.spectral_norms,
        metrics.spectral_norm_lower_bounds,
        metrics.input_margins,
        metrics.saliency,
        lambda model, x: metrics.segments(model, x, x + 1),
    ],
)
def test_a_model_that_couples_examples_when_evaluated_has_no_jacobians(measure: Callable[..., Any]) -> None:
    layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Tanh()
    model, x = nn.Sequential(*layers, nn.BatchNorm1d(4, track_running_stats=False)), torch.randn(5, 3)
    assert metrics.coupling_layers(model.train()) == ("4",)
    with pytest.raises(ValueError, match=r"by the batch in evaluation mode too \(4\), .* track_running_stats=True"):
        measure(model, x)
    assert metrics.coupling_layers(nn.Sequential(*layers)) == metrics.coupling_layers(lambda x: x) == ()
    measure(nn.Sequential(*layers[:2]), x)
    metrics.robust_accuracy(model, x, torch.zeros(5, dtype=torch.int64), metrics.FGSM(0.1))  # measures no Jacobian


def test_a_model_that_is_such_a_layer_itself_is_named_by_its_class() -> None:
    assert metrics.coupling_layers(nn.BatchNorm1d(3, track_running_stats=False)) == ("BatchNorm1d",)


def test_bad_points_are_refused() -> None:
    model, (x, y) = build("mlp"), batch()
    with torch.inference_mode():
        inference = x + 0
    with pytest.raises(ValueError, match="x is an inference tensor"):
        gr.metrics.jacobian_norms(model, inference)
    with pytest.raises(TypeError, match=r"x of type list; expected one tensor \(N, \.\.\.\): torch.as_tensor\(x\)"):
        gr.metrics.jacobian_norms(model, [x, x])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunk=0; expected a whole number >= 1"):
        gr.metrics.jacobian_norms(model, x, chunk=0)
    with pytest.raises(ValueError, match=r"y has shape \(2,\), but the batch has 3"):
        gr.metrics.jacobian_norms(model, x, y[:2])


# Each measure of a model, as a function of the model, points, labels and the chunk.
MEASURES: dict[str, Callable[..., Any]] = {
    "jacobian_norms": lambda m, x, y, chunk: metrics.jacobian_norms(m, x, chunk=chunk),
    "jacobian_norms of the loss": lambda m, x, y, chunk: metrics.jacobian_norms(
        m, x, y, target=gr.Loss(cross_entropy), chunk=chunk
    ),
    "spectral_norms": lambda m, x, y, chunk: metrics.spectral_norms(m, x, chunk=chunk),
    "predictions": lambda m, x, y, chunk: metrics.predictions(m, x, chunk=chunk),
    "input_margins": lambda m, x, y, chunk: metrics.input_margins(m, x, y, every_class=True, chunk=chunk),
    "saliency": lambda m, x, y, chunk: metrics.saliency(m, x, y, chunk=chunk),
    "transitions": lambda m, x, y, chunk: metrics.transitions(m, x, closed=True, chunk=chunk),
    "segments": lambda m, x, y, chunk: metrics.segments(m, x, metrics.neighbours(x), chunk=chunk).between,
    "FGSM": lambda m, x, y, chunk: metrics.FGSM(0.1)(m, x, y, chunk=chunk),
    "PGD": lambda m, x, y, chunk: metrics.PGD(0.1, "l2", random_start=False)(m, x, y, chunk=chunk),
    "robust_accuracy": lambda m, x, y, chunk: torch.tensor(
        metrics.robust_accuracy(m, x, y, metrics.FGSM(0.5), chunk=chunk)
    ),
}


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_every_measure_leaves_the_model_alone_in_every_context(measure: Any, context: Any) -> None:
    model = nn.Sequential(build("frozen-batchnorm"), nn.Dropout(0.5)).train()
    x, y = batch(6)
    first, *others = model.parameters()
    first.requires_grad_(False)
    others[0].grad = torch.ones_like(others[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = measure(model.eval(), x, y, 100)
    model.train()
    with context():
        found = measure(model, x, y, 4)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not first.requires_grad
    assert all(parameter.requires_grad for parameter in others)
    assert torch.equal(others[0].grad, torch.ones_like(others[0]))
    assert all(parameter.grad is None for parameter in others[1:])
    assert not x.requires_grad
    assert not found.requires_grad
    assert found.is_inference() == (context is torch.inference_mode and measure is MEASURES["robust_accuracy"])


@pytest.mark.parametrize("measure", [m for name, m in MEASURES.items() if name not in ("predictions", "transitions")])
def test_inference_tensors_are_refused_by_what_differentiates(measure: Any) -> None:
    with torch.inference_mode():
        x = batch()[0] + 0
    with pytest.raises(ValueError, match=r"is an inference tensor .* Make it under torch.no_grad instead"):
        measure(build("mlp"), x, batch()[1], 100)


def test_measures_work_in_float32_and_bfloat16() -> None:
    """The latter is measured in float32; outputs are off by its rounding."""
    model, (x, y) = build("mlp").float(), batch(6)
    exact = metrics.jacobian_norms(model, x.float())
    assert exact.dtype == torch.float32
    low, points = build("mlp").bfloat16(), x.bfloat16()
    for measure in (metrics.jacobian_norms, metrics.spectral_norms):
        found = measure(low, points)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, measure(model, x.float()), rtol=0.05, atol=0)
    assert metrics.input_margins(low, points, y).dtype == torch.float32
    for attack in (metrics.FGSM(0.1), metrics.PGD(0.1, "l2"), metrics.GaussianNoise(0.1)):
        assert attack(low, points, y).dtype == torch.bfloat16
