"""Measures against the dense oracle."""

import pytest
import torch
from models_for_tests import Residual, batch, build
from torch import Generator, nn
from torch.nn.functional import cross_entropy

import gradreg as gr


@pytest.mark.parametrize("chunk", [2, 256])
def test_jacobian_norms_equal_the_oracles(chunk: int) -> None:
    model, (x, y) = build("lenet"), batch(5)
    full = gr.dense.jacobian(model, x)
    torch.testing.assert_close(
        gr.metrics.jacobian_norms(model, x, chunk=chunk), full.norm(dim=(1, 2)), rtol=1e-9, atol=0
    )
    loss = gr.Loss(cross_entropy)
    gradient = gr.dense.jacobian(model, x, y, target=loss).norm(dim=(1, 2))
    torch.testing.assert_close(
        gr.metrics.jacobian_norms(model, x, y, target=loss, chunk=chunk), gradient, rtol=1e-9, atol=0
    )


def test_jacobian_norms_at_a_hidden_site() -> None:
    model, (x, _) = build("residual-groupnorm"), batch()
    site = gr.Hidden("stem")
    expected = gr.dense.jacobian(model, x, site=site).norm(dim=(1, 2))
    torch.testing.assert_close(gr.metrics.jacobian_norms(model, x, site=site), expected, rtol=1e-9, atol=0)


def test_metrics_run_in_evaluation_mode_and_put_every_mode_back() -> None:
    model = nn.Sequential(Residual(nn.BatchNorm2d), nn.Dropout(0.5)).double().train()
    model[0].block.eval()  # type: ignore[union-attr]
    before = {name: (module.training) for name, module in model.named_modules()}
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    x = batch()[0]
    found = gr.metrics.jacobian_norms(model, x)
    assert {name: module.training for name, module in model.named_modules()} == before
    for name, tensor in model.named_buffers():
        assert torch.equal(tensor, buffers[name])
    model.eval()
    torch.testing.assert_close(found, gr.dense.jacobian(model, x).norm(dim=(1, 2)))


def test_metrics_turn_gradients_on_themselves() -> None:
    model, (x, _) = build("mlp"), batch()
    expected = gr.metrics.jacobian_norms(model, x)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(gr.metrics.jacobian_norms(model, x), expected)


def test_spectral_norm_lower_bounds_rise_with_the_samples_to_the_spectral_norm() -> None:
    model, (x, _) = build("softplus"), batch()
    truth = torch.linalg.matrix_norm(gr.dense.jacobian(model, x), 2)
    few, many = (
        gr.metrics.spectral_norm_lower_bounds(model, x, samples=k, generator=Generator().manual_seed(0))
        for k in (1, 400)
    )
    assert (few <= many).all()
    assert (many <= truth * (1 + 1e-12)).all()
    assert (many > 0.9 * truth).all()


def test_an_empty_set_of_points_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 0 examples"):
        gr.metrics.jacobian_norms(build("mlp"), batch()[0][:0])
