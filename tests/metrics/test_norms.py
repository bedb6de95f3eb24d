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


@pytest.mark.parametrize("name", ["mlp", "softplus", "lenet", "frozen-batchnorm"])
@pytest.mark.parametrize("target", [gr.Logits(), gr.Probabilities()], ids=["J_g", "J_f"])
def test_spectral_norms_equal_the_largest_singular_value_of_the_dense_jacobian(name: str, target: gr.Target) -> None:
    model, (x, _) = build(name), batch(5)
    truth = torch.linalg.svdvals(gr.dense.jacobian(model, x, target=target))[:, 0]
    found = gr.metrics.spectral_norms(model, x, target=target, chunk=2)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=0)
    assert (found <= gr.metrics.jacobian_norms(model, x, target=target) * (1 + 1e-12)).all()


def test_norms_of_a_model_with_fewer_inputs_than_outputs() -> None:
    model, x = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 5)).double(), torch.randn(6, 2).double()
    full = gr.dense.jacobian(model, x)
    torch.testing.assert_close(gr.metrics.jacobian_norms(model, x), full.norm(dim=(1, 2)), rtol=1e-9, atol=0)
    torch.testing.assert_close(gr.metrics.spectral_norms(model, x), torch.linalg.svdvals(full)[:, 0])


def test_spectral_norms_halve_chunks_whose_jacobians_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = build("lenet"), batch(5)
    sizes = []
    model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    expected = gr.metrics.spectral_norms(model, x, y, target=gr.Loss(cross_entropy))
    monkeypatch.setattr("gradreg.metrics.norms.ENTRIES", 2 * 64)
    torch.testing.assert_close(gr.metrics.spectral_norms(model, x, y, target=gr.Loss(cross_entropy)), expected)
    assert sizes == [5, 5, 2, 3, 1, 2]


def test_power_iteration_rises_to_the_spectral_norm() -> None:
    model, (x, _) = build("softplus"), batch()
    truth = torch.linalg.svdvals(gr.dense.jacobian(model, x))[:, 0]
    few, many = (
        gr.metrics.spectral_norms(model, x, iterations=k, generator=Generator().manual_seed(0)) for k in (1, 200)
    )
    assert (few <= many * (1 + 1e-12)).all()
    torch.testing.assert_close(many, truth, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="iterations=0; expected a whole number >= 1"):
        gr.metrics.spectral_norms(model, x, iterations=0)


def test_spectral_norms_at_hidden_sites() -> None:
    model, (x, _) = build("residual-groupnorm"), batch()
    site = gr.Hidden("stem")
    truth = torch.linalg.svdvals(gr.dense.jacobian(model, x, site=site))[:, 0]
    torch.testing.assert_close(gr.metrics.spectral_norms(model, x, site=site), truth, rtol=1e-9, atol=0)


def test_a_zero_jacobian_has_norms_of_zero() -> None:
    model = lambda x: 0 * x
    for iterations in (None, 3):
        assert torch.equal(gr.metrics.spectral_norms(model, torch.randn(4, 3), iterations=iterations), torch.zeros(4))
