"""Margins and saliency against closed forms of linear models and the dense oracle."""

import pytest
import torch
from models_for_tests import batch, build
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg import metrics


def linear() -> tuple[nn.Linear, Tensor, Tensor]:
    return nn.Linear(6, 4).double(), torch.randn(20, 6).double(), torch.randint(4, (20,))


def test_logit_margins_equal_the_definition() -> None:
    z, y = torch.randn(30, 5), torch.randint(5, (30,))
    direct = [float(s[k] - max(v for j, v in enumerate(s) if j != k)) for s, k in zip(z, y.tolist(), strict=True)]
    torch.testing.assert_close(metrics.logit_margins(z, y), torch.tensor(direct))
    assert ((metrics.logit_margins(z, y) > 0) == (z.argmax(1) == y)).all()
    top = z.topk(2, 1).values
    torch.testing.assert_close(metrics.logit_margins(z), top[:, 0] - top[:, 1])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_input_margins_of_a_linear_model_are_distances(norm: metrics.Norm) -> None:
    model, x, y = linear()
    z, w = model(x).detach(), model.weight.detach()
    dual = 2 if norm == "l2" else 1
    for i in range(len(x)):
        others = [k for k in range(4) if k != y[i]]
        distance = [(z[i, y[i]] - z[i, k]) / torch.linalg.vector_norm(w[y[i]] - w[k], dual) for k in others]
        second = max(others, key=lambda k: float(z[i, k]))
        every = metrics.input_margins(model, x[i : i + 1], y[i : i + 1], norm=norm, every_class=True)
        torch.testing.assert_close(every[0], min(distance))
        torch.testing.assert_close(
            metrics.input_margins(model, x[i : i + 1], y[i : i + 1], norm=norm)[0], distance[others.index(second)]
        )


def test_a_step_of_the_input_margin_reaches_the_boundary_of_a_linear_model() -> None:
    model, x, _ = linear()
    distance = metrics.input_margins(model, x)
    top = model(x).topk(2, 1).indices
    gradient = model.weight[top[:, 0]] - model.weight[top[:, 1]]
    reached = x - distance[:, None] * gradient / gradient.norm(dim=1, keepdim=True)
    z = model(reached)
    torch.testing.assert_close(z.gather(1, top[:, :1]), z.gather(1, top[:, 1:]))


@pytest.mark.parametrize("name", ["lenet", "softplus"])
def test_input_margins_equal_those_of_the_dense_jacobian(name: str) -> None:
    model, (x, y) = build(name), batch(5)
    z, full = model(x).detach(), gr.dense.jacobian(model, x)
    every = []
    for i in range(5):
        gaps = z[i, y[i]] - z[i]
        lengths = (full[i, y[i]] - full[i]).norm(dim=1)
        every.append(min(float(gaps[k] / lengths[k]) for k in range(4) if k != y[i]))
    found = metrics.input_margins(model, x, y, every_class=True, chunk=2)
    torch.testing.assert_close(found, torch.tensor(every).double())


def test_input_margins_without_a_gradient_are_infinite_and_on_the_boundary_zero() -> None:
    model = lambda x: 0 * x + torch.tensor([1.0, 0.0])
    x = torch.zeros(2, 2)
    assert metrics.input_margins(model, x, torch.tensor([0, 1])).tolist() == [float("inf"), -float("inf")]
    assert metrics.input_margins(lambda x: 0 * x, x).tolist() == [0, 0]


def test_saliency_is_the_gradient_of_the_score_or_of_a_target() -> None:
    model, (x, y) = build("lenet"), batch(5)
    full = gr.dense.jacobian(model, x)
    predicted = model(x).argmax(1)
    for labels, chosen in ((y, y), (None, predicted)):
        found = metrics.saliency(model, x, labels, chunk=2)
        assert found.shape == x.shape
        torch.testing.assert_close(found.flatten(1), full[torch.arange(5), chosen], rtol=1e-9, atol=1e-12)
    loss = gr.Loss(cross_entropy)
    oracle = gr.dense.jacobian(model, x, y, target=loss)[:, 0]
    torch.testing.assert_close(metrics.saliency(model, x, y, target=loss).flatten(1), oracle, rtol=1e-9, atol=1e-12)


def test_bad_scores_labels_and_targets_are_refused() -> None:
    model, (x, y) = build("mlp"), batch()
    with pytest.raises(ValueError, match=r"logit_margins got outputs of shape \(3, 1\); .* C >= 2\. For one score s"):
        metrics.logit_margins(torch.randn(3, 1), y)
    with pytest.raises(ValueError, match=r"got outputs of shape \(3, 1, 8, 8\)"):
        metrics.input_margins(lambda x: x, x)
    with pytest.raises(ValueError, match=r"labels of dtype torch.float32; expected class indices \(N,\)"):
        metrics.logit_margins(torch.randn(3, 4), torch.randn(3, 4))
    with pytest.raises(ValueError, match="got labels from 0 to 4 for 4 classes; expected 0 to 3"):
        metrics.input_margins(model, x, torch.tensor([0, 4, 1]))
    with pytest.raises(ValueError, match="norm='l1'; expected 'l2' or 'linf'"):
        metrics.input_margins(model, x, norm="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"target of shape \(3, 4\); expected one value per example"):
        metrics.saliency(model, x, target=gr.Logits())
