"""Sums, weights and names of penalties; penalties on given outputs."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from models_for_tests import batch, build
from torch import Tensor, nn

import gradreg as gr


def test_a_sum_adds_its_weighted_terms_and_runs_the_model_once() -> None:
    model, (x, y) = build("softplus"), batch()
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model(x)

    a, b, c = gr.FrobReg(0.1), gr.DoubleBack(3.0), gr.ConfidencePenalty(0.5)
    total = (a + b + c)(counted, x, y)
    assert calls == 1
    torch.testing.assert_close(total, a(model, x) + b(model, x, y) + c(model, x), rtol=1e-12, atol=0)


def test_numbers_multiply_weights_from_either_side() -> None:
    model, (x, y) = build("softplus"), batch()
    a, b = gr.FrobReg(0.1), gr.DoubleBack(3.0)
    doubled = 2 * (a + b) * 0.5 * 3
    torch.testing.assert_close(doubled(model, x, y), 3 * (a(model, x) + b(model, x, y)), rtol=1e-12, atol=0)
    assert (a * 2).weight == 0.2
    assert a.weight == 0.1


def test_objective_takes_sums_apart_and_numbers_equal_names() -> None:
    penalties = 2 * (gr.SpectReg(0.1) + gr.SpectReg(0.2, site=gr.Hidden("stem"))) + gr.JacobianPenalty(1, name="mine")
    found = gr.Objective(nn.functional.cross_entropy, penalties).penalties
    assert {name: p.weight for name, p in found.items()} == {"spectreg": 0.2, "spectreg_2": 0.4, "mine": 1.0}


def test_of_equals_the_call_with_the_model() -> None:
    model, (x, y) = build("softplus"), batch()
    leaf = x.clone().requires_grad_()
    z = model(leaf)
    for penalty in (gr.FrobReg(0.1), gr.DoubleBack(3.0), gr.JacReg(1.0), gr.FrobReg(0.1) + gr.DoubleBack(1.0)):
        torch.testing.assert_close(penalty.of(z, leaf, y), penalty(model, x, y), rtol=1e-12, atol=0)


def test_of_takes_hidden_activations_that_the_caller_holds() -> None:
    model, (x, _) = build("residual-groupnorm"), batch()
    hidden = model.stem(x)  # type: ignore[operator]
    z = model.head(torch.relu(hidden + model.block(hidden)).mean((2, 3)))  # type: ignore[operator]
    found = gr.FrobReg(0.1).of(z, hidden)
    torch.testing.assert_close(found, gr.FrobReg(0.1, site=gr.Hidden("stem"))(model, x), rtol=1e-9, atol=0)


def test_of_differentiates_by_the_inputs_that_the_site_names_alone() -> None:
    model = nn.Bilinear(2, 3, 4).double()
    a, b = torch.randn(5, 2).double().requires_grad_(), torch.randn(5, 3).double().requires_grad_()
    for name in ("0", "1"):
        penalty = gr.FrobReg(0.1, site=gr.Input(name))
        found = penalty.of(model(a, b), (a, b))
        torch.testing.assert_close(found, penalty(model, gr.Args(a, b)), rtol=1e-12, atol=0)


def test_of_takes_trees_with_tensors_that_have_no_gradient() -> None:
    layer, code = nn.Linear(3, 4).double(), torch.randint(5, (5,))
    a = torch.randn(5, 3).double().requires_grad_()
    value = gr.FrobReg(0.1).of(layer(a) + code[:, None], {"image": a, "code": code})
    torch.testing.assert_close(value, 0.1 * layer.weight.square().sum())


def test_python_sums_penalties() -> None:
    total = sum([gr.FrobReg(0.1), gr.ConfidencePenalty(0.5), gr.LabelSmoothing(1.0)])
    assert repr(total) == "FrobReg(0.1) + ConfidencePenalty(0.5) + LabelSmoothing(1)"


def test_presets_take_a_name() -> None:
    deep = gr.SpectReg(0.1, site=gr.Hidden("stem"), name="deep")
    assert list(gr.Objective(nn.functional.cross_entropy, gr.SpectReg(0.1), deep).penalties) == ["spectreg", "deep"]


def test_the_input_of_the_caller_is_left_alone() -> None:
    model, (x, _) = build("softplus"), batch()
    before = x.clone()
    gr.SpectReg(0.1)(model, x).backward()
    assert not x.requires_grad
    assert x.grad is None
    assert torch.equal(x, before)


def test_an_input_in_the_callers_graph_stays_in_it() -> None:
    """So that a generator in front of the model, say, is trained too."""
    model, (x, _) = build("softplus"), batch()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    gr.SpectReg(0.1)(model, scale * x).backward()
    assert scale.grad is not None
    assert scale.grad != 0


def test_under_no_grad_and_inference_mode_a_penalty_is_a_number() -> None:
    model, (x, y) = build("softplus"), batch()
    expected = gr.DoubleBack(1.0)(model, x, y).item()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            value = gr.DoubleBack(1.0)(model, x, y)
        assert not value.requires_grad
        assert value.item() == pytest.approx(expected)


def test_frozen_parameters_are_no_obstacle() -> None:
    model, (x, _) = build("softplus"), batch()
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    gr.SpectReg(0.1)(model, x).backward()
    assert [p.grad is None for p in model.parameters()] == [True, True, False, False, False, True]


def test_penalties_can_be_copied_and_pickled_and_say_what_they_are() -> None:
    site, engine = gr.Hidden("a", "b"), gr.FiniteDifference(0.1)
    penalty = gr.JacobianPenalty(0.1, site=site, projection=gr.Sphere(2), engine=engine)
    text = (
        "JacobianPenalty(0.1, site=Hidden('a', 'b'), projection=Sphere(samples=2, per='example', side='output'), "
        "engine=FiniteDifference(step=0.1, central=False))"
    )
    assert repr(penalty) == repr(copy.deepcopy(penalty)) == repr(pickle.loads(pickle.dumps(penalty))) == text
    assert repr(gr.FrobReg(0.01) + gr.ConfidencePenalty(0.5)) == "FrobReg(0.01) + ConfidencePenalty(0.5)"


def test_hidden_sites_of_a_wrapped_model_have_the_names_of_the_model_within(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(5, 4)
    expected = gr.FrobReg(0.1, site=gr.Hidden("1"))(model, x)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        for name in ("1", "module.1"):
            torch.testing.assert_close(gr.FrobReg(0.1, site=gr.Hidden(name))(wrapped, x), expected)
    finally:
        torch.distributed.destroy_process_group()
