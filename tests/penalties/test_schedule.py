"""Lazy penalties, penalties on a part of the batch, and ramps: when they count, and that they are unbiased."""

import math
from typing import Any

import pytest
import torch
from models_for_tests import batch, build, parameter_gradient
from torch import Generator, nn
from torch.nn.functional import cross_entropy

import gradreg as gr


def test_every_k_steps_the_penalty_counts_k_times_and_else_not_at_all() -> None:
    model, (x, y) = build("softplus"), batch()
    objective = gr.Objective(cross_entropy, gr.FrobReg(0.1, every=3))
    full = gr.FrobReg(0.1)(model, x)
    found = [objective(model, x, y) for _ in range(7)]
    for step, result in enumerate(found):
        expected = 3 * full if step % 3 == 0 else torch.zeros((), dtype=full.dtype)
        torch.testing.assert_close(result.terms["frobreg"].to(full.dtype), expected)
        torch.testing.assert_close(result.total, result.task + expected)
    mean = torch.stack([result.terms["frobreg"] for result in found[:6]]).mean()
    torch.testing.assert_close(mean, full)
    assert objective.step == 7


def test_a_step_without_the_penalty_asks_for_no_gradient_of_the_input() -> None:
    """The model would be refused if it did: it has no path back to its input."""
    model, (x, y) = build("softplus"), batch()
    objective = gr.Objective(cross_entropy, gr.SpectReg(1.0, every=2))
    result = objective(lambda v: model(v.detach()), x, y, step=1)
    assert result.terms["spectreg"] == 0
    with pytest.raises(ValueError, match="depend"):
        objective(lambda v: model(v.detach()), x, y, step=2)


def test_a_penalty_alone_counts_its_own_calls_and_does_not_run_the_model_in_between() -> None:
    model, (x, _) = build("softplus"), batch()
    runs = 0

    def counted(v: torch.Tensor) -> torch.Tensor:
        nonlocal runs
        runs += 1
        return model(v)

    penalty = gr.FrobReg(0.1, every=4)
    values = [penalty(counted, x) for _ in range(8)]
    assert [bool(value) for value in values] == [True, False, False, False] * 2
    assert runs == 2
    assert penalty.step == 8
    values[1].backward()  # nothing to do, and no error
    x = x.requires_grad_()
    outputs = model(x)
    assert [bool(gr.FrobReg(0.1, every=2).of(outputs, x, step=step)) for step in (0, 1)] == [True, False]


def test_without_gradients_the_whole_penalty_is_told_and_no_step_is_counted() -> None:
    model, (x, y) = build("softplus"), batch()
    objective = gr.Objective(cross_entropy, gr.FrobReg(0.1, every=5, fraction=0.5, ramp=100))
    with torch.no_grad():
        for _ in range(2):
            found = objective(model, x, y).terms["frobreg"]
            torch.testing.assert_close(found, gr.FrobReg(0.1)(model, x).detach())
    assert objective.step == 0


def test_a_part_of_the_batch_gives_the_same_outputs_and_an_unbiased_penalty() -> None:
    """Over every half of six examples by chance: the mean of 400 draws within 4 standard errors."""
    model, (x, y) = build("softplus"), batch(6)
    full = gr.FrobReg(0.1)(model, x)
    objective = gr.Objective(cross_entropy, gr.FrobReg(0.1, fraction=0.5), gr.ConfidencePenalty(0.2))
    generator = Generator().manual_seed(0)
    results = [objective(model, x, y, generator=generator) for _ in range(400)]
    result, values = results[-1], [each.terms["frobreg"].item() for each in results]
    torch.testing.assert_close(result.outputs, model(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.task, cross_entropy(model(x), y))
    torch.testing.assert_close(result.terms["confidencepenalty"], gr.ConfidencePenalty(0.2)(model, x))
    found = torch.tensor(values, dtype=torch.float64)
    assert len(set(values)) > 10
    assert abs(found.mean() - full) < 4 * found.std() / math.sqrt(len(values))


def test_a_part_counts_only_its_own_examples() -> None:
    model, (x, y) = build("softplus"), batch(4)
    each = torch.stack([gr.FrobReg(1.0)(model, x[i : i + 1]) for i in range(4)])
    one = gr.FrobReg(1.0, fraction=0.25)(model, x)
    assert torch.isclose(each, one).sum() == 1
    with_whole = gr.Objective(cross_entropy, gr.FrobReg(1.0, fraction=0.5), gr.DoubleBack(2.0))(model, x, y)
    torch.testing.assert_close(with_whole.terms["doubleback"], gr.DoubleBack(2.0)(model, x, y))


def test_a_part_of_unlabelled_inputs_weighs_as_all_of_them() -> None:
    linear = nn.Linear(3, 2).double()
    x, more = torch.randn(4, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    objective = gr.Objective(cross_entropy, gr.FrobReg(0.1, fraction=0.5))
    found = objective(linear, x, torch.tensor([0, 1, 0, 1]), unlabeled=more).terms["frobreg"]
    torch.testing.assert_close(found, 0.1 * linear.weight.square().sum())


def test_ramps() -> None:
    assert [gr.Ramp(4)(step) for step in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert [gr.Ramp(2, start=1, end=0, begin=3)(step) for step in (0, 3, 4, 9)] == [1, 1, 0.5, 0]
    linear, x = nn.Linear(3, 2), torch.randn(4, 3)
    penalty = gr.SpectReg(2.0, ramp=10, every=2)
    assert [penalty.schedule.factor(step) for step in (0, 1, 2, 10)] == [0, 0, 0.4, 2]
    assert penalty(linear, x) == 0
    objective = gr.Objective(cross_entropy, gr.ConfidencePenalty(1.0, ramp=lambda step: 0.5))
    y = torch.tensor([0, 1, 0, 1])
    term = objective(linear, x, y).terms["confidencepenalty"]
    torch.testing.assert_close(term, gr.ConfidencePenalty(0.5)(linear, x))


def test_sums_keep_the_schedules_of_their_terms() -> None:
    model, (x, _) = build("softplus"), batch()
    both = 2 * (gr.FrobReg(0.1, every=2) + gr.ConfidencePenalty(1.0))
    lazy = both(model, x, step=1)
    torch.testing.assert_close(lazy, gr.ConfidencePenalty(2.0)(model, x))
    whole = both(model, x, step=2)
    expected = gr.FrobReg(0.4)(model, x) + gr.ConfidencePenalty(2.0)(model, x)
    torch.testing.assert_close(parameter_gradient(whole, model), parameter_gradient(expected, model))
    assert repr(gr.FrobReg(0.03, every=8)) == "FrobReg(0.03, every=8)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "SpectReg got every=0; expected a whole number >= 1"),
        ({"every": 2.0}, "SpectReg got every=2.0; expected a whole number >= 1"),
        ({"fraction": 0}, "SpectReg got fraction=0; expected a part > 0 and <= 1"),
        ({"fraction": 1.5}, "SpectReg got fraction=1.5; expected a part > 0 and <= 1"),
        ({"ramp": 0}, "Ramp got steps=0; expected a whole number >= 1"),
        ({"ramp": "slow"}, "SpectReg got ramp='slow'; expected a number of steps, gr.Ramp"),
    ],
)
def test_schedules_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message.replace("(", r"\(").replace(".", r"\.")):
        gr.SpectReg(0.03, **options)


def test_batches_that_cannot_be_divided_are_refused() -> None:
    x, y = torch.randn(6, 3), torch.zeros(6, dtype=torch.long)
    half = gr.Objective(cross_entropy, gr.SpectReg(0.1, fraction=0.5))
    with pytest.raises(ValueError, match=r"batch normalization is in training mode .* Write every=2"):
        half(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), x, y)
    with pytest.raises(ValueError, match=r"expected the batch first in each\. Write every=2"):
        half(lambda a, b: a @ b, gr.Args(x, torch.randn(3, 2)), y)
    with pytest.raises(ValueError, match="write every=k, which costs the same"):
        half(lambda v: v.mean(0, keepdim=True), x, y)
    with pytest.raises(ValueError, match=r"the parts 0\.25 and 0\.5 of one batch"):
        gr.Objective(cross_entropy, gr.FrobReg(1, fraction=0.5), gr.DoubleBack(1, fraction=0.25))(nn.Linear(3, 2), x, y)
    leaf = x.requires_grad_()
    with pytest.raises(ValueError, match=r"which of\(outputs, x\) cannot\. Write penalty\(model, x\), or every=2"):
        gr.SpectReg(0.1, fraction=0.5).of(nn.Linear(3, 2)(leaf), leaf)
    with pytest.raises(ValueError, match="step=-1; expected the number of the training step"):
        half(nn.Linear(3, 2), x, y, step=-1)
    with pytest.raises(ValueError, match=r"ramp\(0\)=-1"):
        gr.SpectReg(0.1, ramp=lambda step: -1)(nn.Linear(3, 2), x)
