"""What all measures have in common: every mode is left as found, and bad points are refused."""

import pytest
import torch
from models_for_tests import batch, build
from torch import Tensor, nn

import gradreg as gr
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
