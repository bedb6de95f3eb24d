"""`engine="auto"`: what it chooses and says, and that it is then as if that engine had been written."""

import copy
import logging
import re

import pytest
import torch
import torch.nn.functional as F
from hard_models_for_tests import Applied, Attention, Counting, Once, Untold
from torch import Generator, nn

import gradreg as gr

PRESETS = (gr.SpectReg, gr.FrobReg, gr.JacReg, gr.DoubleBack)


def net(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.Tanh(), *layers, nn.Linear(6, 3))


def batch(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(*shape), torch.randint(3, (shape[0],))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("model", "shape", "engine"),
    [
        (net(nn.BatchNorm1d(6)), (4, 6), gr.DoubleBackward()),
        (net(Applied(Once)), (4, 6), gr.ForwardMode()),
        (net(Applied(Untold), Applied(Untold)), (4, 6), gr.DoubleBackward()),
        (Attention(), (4, 5, 8), gr.FiniteDifference()),
    ],
    ids=["usual", "once differentiable", "no forward mode", "fused attention"],
)
def test_it_takes_the_first_that_works_and_is_then_that_engine(
    preset: type, model: nn.Module, shape: tuple[int, ...], engine: gr.Engine
) -> None:
    """Values, gradients, buffers and both streams of random numbers, over three steps."""
    found = []
    x, y = batch(*shape)
    for given in ("auto", engine):
        torch.manual_seed(5)
        own, generator = copy.deepcopy(model), Generator().manual_seed(3)
        objective = gr.Objective(F.cross_entropy, preset(0.1, engine=given), generator=generator)
        totals = []
        for _ in range(3):
            total = objective(own, x, y).total
            total.backward()
            totals.append(total.detach())
        gradients = [p.grad for p in own.parameters() if p.grad is not None]
        found.append([*totals, *gradients, *own.buffers(), generator.get_state(), torch.get_rng_state()])
        (penalty,) = objective.penalties.values()
        assert isinstance(penalty, gr.JacobianPenalty)
        assert penalty.engine == engine
        assert penalty.repeats == engine.repeats
        assert repr(penalty) == repr(preset(0.1, engine=engine))
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_it_says_what_it_chose_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gradreg")
    gr.SpectReg(0.1, engine="auto")(net(), torch.randn(4, 6))
    gr.SpectReg(0.1, engine="auto")(net(Applied(Once)), torch.randn(4, 6))
    gr.SpectReg(0.1, engine="auto")(Attention(), torch.randn(4, 5, 8))
    assert {record.name for record in caplog.records} == {"gradreg"}
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.INFO, logging.WARNING]
    first, second, third = caplog.messages
    assert first == "SpectReg of Sequential: engine='auto' chose DoubleBackward(): it is exact"
    assert second == (
        "SpectReg of Sequential: engine='auto' chose ForwardMode(): it is exact; DoubleBackward fails: Once is marked "
        "@once_differentiable"
    )
    assert third.startswith("SpectReg of Attention: engine='auto' chose FiniteDifference(): it is not exact, least of")
    assert "DoubleBackward fails: derivative for aten::_scaled_dot_product_flash_attention_for_cpu_back" in third
    assert "ForwardMode fails: Trying to use forward AD with _scaled_dot_product_flash_attention_for_cpu" in third


def test_it_chooses_once_also_within_sums_and_by_copies(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gradreg")
    penalty = gr.SpectReg(0.1, engine="auto")
    total = 2 * (penalty + gr.ConfidencePenalty(0.1))
    assert total.repeats
    model, x = net(), torch.randn(4, 6)
    for _ in range(2):
        total(model, x)
    assert not total.repeats
    assert penalty.engine == (3 * penalty).engine == gr.DoubleBackward()
    gr.Objective(F.cross_entropy, penalty)(model, x, torch.zeros(4, dtype=torch.int64))
    assert len(caplog.messages) == 1
    assert gr.SpectReg(0.1, engine="auto").repeats  # another one chooses for itself


def test_outputs_alone_cannot_be_chosen_for() -> None:
    model, x = net(), torch.randn(4, 6).requires_grad_()
    penalty = gr.SpectReg(0.1, engine="auto")
    assert "engine='auto'" in repr(penalty)
    with pytest.raises(ValueError, match=r"run the model again, which of\(outputs, x\) cannot.*gr.DoubleBackward\(\)"):
        penalty.of(model(x), x)
    penalty(model, x)
    penalty.of(model(x), x)


def test_a_lazy_penalty_chooses_when_it_is_due() -> None:
    penalty = gr.SpectReg(0.1, engine="auto", ramp=lambda step: float(step > 0))
    model, x = net(), torch.randn(4, 6)
    penalty(model, x)
    assert "auto" in repr(penalty)
    penalty(model, x)
    assert penalty.engine == gr.DoubleBackward()


def test_a_compiled_objective_chooses_in_its_first_step() -> None:
    model, (x, y) = net(), batch(4, 6)
    found = []
    for engine in ("auto", gr.DoubleBackward()):
        torch.manual_seed(1)
        objective = gr.Objective(F.cross_entropy, gr.SpectReg(0.1, engine=engine), generator=Generator().manual_seed(0))
        step = gr.CompiledObjective(objective, model, backend="eager", fallback=False)
        found.append([step(x, y).total for _ in range(3)])
    assert found[0] == found[1]


def test_where_none_works_all_reasons_are_given() -> None:
    penalty = gr.SpectReg(0.1, engine="auto")
    with pytest.raises(gr.UnsupportedOperationError) as caught:
        penalty(net(Applied(Once), Counting()), torch.randn(4, 6))
    text = str(caught.value)
    assert text.startswith("SpectReg of Sequential: engine='auto' found no engine that works. DoubleBackward: Once has")
    assert re.search(r"ForwardMode: the model returns something else.*FiniteDifference: the model returns", text)
    penalty(net(), torch.randn(4, 6))  # nothing was chosen
    assert penalty.engine == gr.DoubleBackward()


def test_other_errors_come_as_they_are() -> None:
    with pytest.raises(TypeError, match=r"^x has dtype torch\.int64; gradients need floating-point numbers"):
        gr.SpectReg(0.1, engine="auto")(net(), torch.zeros(4, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^the target does not depend on the input"):
        gr.SpectReg(0.1, engine="auto")(lambda x: x.detach() * torch.ones(3, requires_grad=True), torch.randn(4, 3))


def test_other_words_are_refused() -> None:
    expected = r"^engine got 'Auto'; expected a gradreg Engine, as in engine=gr\.DoubleBackward\(\) or engine='auto'\.$"
    with pytest.raises(TypeError, match=expected):
        gr.SpectReg(0.1, engine="Auto")  # type: ignore[arg-type]


def test_a_mask_that_is_drawn_at_random_moves_no_random_numbers_while_an_engine_is_chosen() -> None:
    model, x = net(), torch.randn(4, 6)
    found = []
    for engine in ("auto", gr.DoubleBackward()):
        torch.manual_seed(1)
        mask = gr.Masked(lambda x, y: torch.bernoulli(torch.full_like(x, 0.5)))
        found.append(gr.JacobianPenalty(1.0, engine=engine, magnitude=mask)(model, x))
    assert torch.equal(*found)
