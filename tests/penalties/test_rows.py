"""Exact Jacobians in bounded memory: chunks of rows, and columns, against all rows at once."""

import pytest
import torch
from models_for_tests import batch, build, parameter_gradient
from torch import nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg.penalties.rows import bytes_held

TINY = 1e-9  # GiB: a row at a time


@pytest.mark.parametrize("magnitude", [gr.SquaredL2(), gr.L1(), gr.TargetNorm(0.5)])
@pytest.mark.parametrize("engine", [gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference(0.1)])
@pytest.mark.parametrize("target", [gr.Logits(), gr.Probabilities()])
def test_chunks_give_what_all_rows_at_once_give(magnitude: gr.Magnitude, engine: gr.Engine, target: gr.Target) -> None:
    model, (x, y) = build("softplus"), batch()

    def total(memory: float) -> torch.Tensor:
        penalty = gr.JacobianPenalty(0.3, target=target, projection=gr.Full(memory), magnitude=magnitude, engine=engine)
        return gr.Objective(cross_entropy, penalty)(model, x, y).total

    whole, chunks = total(4.0), total(TINY)
    torch.testing.assert_close(chunks, whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        parameter_gradient(2 * chunks, model), parameter_gradient(2 * whole, model), rtol=1e-9, atol=1e-12
    )


def test_batch_normalization_goes_through_chunks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 5)).double()
    x = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    expected = parameter_gradient(gr.FrobReg(0.3)(model, x), model)
    torch.testing.assert_close(parameter_gradient(gr.FrobReg(0.3, memory=TINY)(model, x), model), expected)


def test_chunks_reach_the_callers_input_and_other_leaves() -> None:
    model, (x, _) = build("softplus"), batch()
    gradients = []
    for memory in (4.0, TINY):
        leaf = x.clone().requires_grad_()
        gr.FrobReg(0.3, memory=memory).of(model(leaf), leaf).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


def test_chunks_can_be_differentiated_once() -> None:
    model, (x, _) = build("softplus"), batch()
    value = gr.FrobReg(0.3, memory=TINY)(model, x)
    (gradient, *_) = torch.autograd.grad(value, list(model.parameters()), create_graph=True, allow_unused=True)
    assert not gradient.requires_grad


def test_what_a_row_holds_is_counted() -> None:
    x = torch.randn(1000, requires_grad=True)
    assert bytes_held(lambda: x.sin().exp().sum()) == 2 * 4000  # x for sin, the result of exp


@pytest.mark.parametrize("engine", [gr.DoubleBackward(), gr.ForwardMode()])
@pytest.mark.parametrize("magnitude", [gr.SquaredL2(), gr.L1()])
def test_columns_where_the_input_is_smaller_give_the_same(engine: gr.Engine, magnitude: gr.Magnitude) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 7)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    penalty = gr.JacobianPenalty(1.0, engine=engine, magnitude=magnitude)
    found = penalty(model, x)
    dense = gr.dense.jacobian(model, x, create_graph=True)
    each = dense.flatten(1).square().sum(1) if isinstance(magnitude, gr.SquaredL2) else dense.flatten(1).abs().sum(1)
    torch.testing.assert_close(found, each.mean(), rtol=1e-10, atol=0)
    torch.testing.assert_close(
        parameter_gradient(found, model), parameter_gradient(each.mean(), model), rtol=1e-8, atol=1e-10
    )


def test_the_smaller_side_is_taken_except_with_batch_statistics() -> None:
    calls = []

    class Watching(gr.DoubleBackward):
        def column(self, at: gr.Linearization, direction: list[torch.Tensor]) -> torch.Tensor:
            calls.append("column")
            return super().column(at, direction)

    x = torch.randn(5, 3)
    gr.JacobianPenalty(1.0, engine=Watching())(nn.Linear(3, 7), x)
    assert len(calls) >= 3
    calls.clear()
    gr.JacobianPenalty(1.0, engine=Watching())(nn.Linear(3, 3), x)
    gr.JacobianPenalty(1.0, engine=Watching())(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 7)), x)
    assert calls == []


def test_chunks_have_no_value_for_each_example() -> None:
    model, (x, y) = build("softplus"), batch()
    leaf = x.clone().requires_grad_()
    seen = gr.Seen(model(leaf), leaf, y)
    assert gr.FrobReg(0.3).per_example(seen).shape == (len(x),)
    with pytest.raises(NotImplementedError, match=r"Allow it more memory, as in gr\.Full\(memory=16\)"):
        gr.FrobReg(0.3, memory=TINY).per_example(seen)
