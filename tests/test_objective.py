"""`Objective`: loss and penalties on one forward pass."""

from typing import Any

import pytest
import torch
from models_for_tests import batch, build, parameter_gradient
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import gradreg as gr


def test_total_is_the_task_plus_the_terms_and_the_model_runs_once() -> None:
    model, (x, y) = build("softplus"), batch()
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model(x)

    objective = gr.Objective(cross_entropy, gr.FrobReg(0.1), gr.DoubleBack(3.0) + gr.ConfidencePenalty(0.5))
    result = objective(counted, x, y)
    assert calls == 1
    assert list(result.terms) == ["frobreg", "doubleback", "confidencepenalty"]
    torch.testing.assert_close(result.outputs, model(x))
    torch.testing.assert_close(result.task, cross_entropy(model(x), y))
    torch.testing.assert_close(result.terms["frobreg"], gr.FrobReg(0.1)(model, x))
    torch.testing.assert_close(result.total, result.task + torch.stack(list(result.terms.values())).sum())
    direct = cross_entropy(model(x), y) + gr.FrobReg(0.1)(model, x) + gr.DoubleBack(3.0)(model, x, y)
    direct = direct + gr.ConfidencePenalty(0.5)(model, x)
    torch.testing.assert_close(parameter_gradient(result.total, model), parameter_gradient(direct, model))


def test_without_penalties_it_is_the_loss() -> None:
    model, (x, y) = build("softplus"), batch()
    result = gr.Objective(cross_entropy)(model, x, y)
    assert torch.equal(result.total, cross_entropy(model(x), y))
    assert result.terms == {}


def test_a_weight_of_zero_costs_nothing_and_still_has_its_term() -> None:
    """No gradient is asked for: a model without a path back to its input would be refused."""
    model, (x, y) = build("softplus"), batch()
    result = gr.Objective(cross_entropy, gr.SpectReg(0.0))(lambda x: model(x.detach()), x, y)
    assert result.terms["spectreg"].item() == 0
    assert torch.equal(result.total, result.task)


def test_doubleback_differentiates_the_objectives_own_loss() -> None:
    model, x = build("softplus"), batch()[0]
    y = torch.randn(3, 4, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    each = mse_loss(model(leaf), y, reduction="none").mean(1)
    expected = torch.autograd.grad(each.sum(), leaf)[0].flatten(1).square().sum(1).mean()
    for loss in (mse_loss, nn.MSELoss()):
        term = gr.Objective(loss, gr.DoubleBack(1.0))(model, x, y).terms["doubleback"]
        torch.testing.assert_close(term.detach(), expected, rtol=1e-12, atol=0)


def test_doubleback_adds_the_terms_of_an_example_where_the_loss_does() -> None:
    model, x = build("softplus"), batch()[0]
    y = torch.rand(3, 4, dtype=torch.float64).softmax(1)

    def divergence(z: Tensor, y: Tensor) -> Tensor:
        return nn.functional.kl_div(z.log_softmax(1), y, reduction="none").sum(1)

    expected = gr.DoubleBack(1.0, loss=divergence)(model, x, y)
    for loss in (nn.KLDivLoss(reduction="batchmean"), nn.KLDivLoss(reduction="sum")):
        found = gr.Objective(loss, gr.DoubleBack(1.0))(lambda x: model(x).log_softmax(1), x, y)
        torch.testing.assert_close(found.terms["doubleback"], expected, rtol=1e-9, atol=0)


def test_a_task_may_pair_outputs_and_labels_of_other_sizes() -> None:
    """Contrastive losses and the like; only penalties that need labels ask for one entry per example."""
    model, (x, _) = build("softplus"), batch(4)
    loss = gr.Objective(lambda z, pairs: (z[pairs[:, 0]] - z[pairs[:, 1]]).square().mean(), gr.SpectReg(0.1))
    assert loss(model, x, torch.tensor([[0, 1], [2, 3]])).total > 0


def test_a_target_function_of_labels_is_left_out_for_unlabelled_inputs() -> None:
    model, (x, y) = build("softplus"), batch()
    penalty = gr.JacobianPenalty(0.1, target=lambda z, y: z.gather(1, y[:, None]))
    result = gr.Objective(cross_entropy, penalty)(model, x, y, unlabeled=torch.randn_like(x))
    expected = gr.JacobianPenalty(0.1, projection=gr.TrueClass())(model, x, y)
    torch.testing.assert_close(result.terms["jacobianpenalty"], expected)


def test_unlabelled_inputs_join_the_penalties_that_need_no_labels() -> None:
    """The mean over labelled and unlabelled examples together; DoubleBack and the task see the labelled ones alone."""
    model, (x, y) = build("softplus"), batch(3)
    more = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    objective = gr.Objective(cross_entropy, gr.FrobReg(0.1), gr.DoubleBack(1.0))
    result, labelled = objective(model, x, y, unlabeled=more), objective(model, x, y)
    torch.testing.assert_close(result.terms["frobreg"], gr.FrobReg(0.1)(model, torch.cat([x, more])))
    assert torch.equal(result.terms["doubleback"], labelled.terms["doubleback"])
    assert torch.equal(result.task, labelled.task)
    assert result.outputs.shape == (3, 4)


def test_under_no_grad_everything_is_a_number() -> None:
    model, (x, y) = build("softplus"), batch()
    objective = gr.Objective(cross_entropy, gr.FrobReg(0.1))
    expected = objective(model, x, y)
    with torch.no_grad():
        found = objective(model, x, y)
    for tensor in (found.total, found.task, found.terms["frobreg"], found.outputs):
        assert not tensor.requires_grad
    torch.testing.assert_close(found.total, expected.total.detach())


def test_gradients_add_up_over_micro_batches() -> None:
    """Accumulation in two halves gives the gradient of the whole: a penalty is a mean over examples."""
    model, (x, y) = build("softplus"), batch(4)
    objective = gr.Objective(cross_entropy, gr.FrobReg(0.1), gr.DoubleBack(2.0))
    whole = parameter_gradient(objective(model, x, y).total, model)
    halves = [parameter_gradient(objective(model, x[p], y[p]).total, model) for p in (slice(2), slice(2, 4))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", [gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference()], ids=repr)
def test_a_training_loop_lowers_the_jacobian_and_learns(engine: gr.Engine) -> None:
    """The line of the README, on separable clusters: accuracy stays, the Jacobian's norm falls below the baseline's."""
    torch.manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.randn(60, 10) * 0.3 + nn.functional.one_hot(y, 10) * 2.0

    def trained(*penalties: gr.Penalty) -> nn.Module:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(10, 32), nn.Softplus(), nn.Linear(32, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        objective = gr.Objective(cross_entropy, *penalties, generator=Generator().manual_seed(2))
        for _ in range(60):
            objective(model, x, y).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model

    plain, smooth = trained(), trained(gr.SpectReg(0.1, engine=engine))
    assert (smooth(x).argmax(1) == y).float().mean() > 0.95
    assert gr.metrics.jacobian_norms(smooth, x).mean() < 0.7 * gr.metrics.jacobian_norms(plain, x).mean()


def test_functions_for_masks_get_no_labels_for_unlabelled_inputs() -> None:
    seen: list[Any] = []

    def mask(x: Tensor, y: Any) -> Tensor:
        seen.append(y)
        return torch.ones_like(x)

    model, (x, y) = build("mlp"), batch()
    gr.Objective(cross_entropy, gr.RightReasons(0.1, mask=mask))(model, x, y, unlabeled=x)
    assert seen[0] is y
    assert seen[1:] == [None]
