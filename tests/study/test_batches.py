"""Which examples a step is given, and what unlabelled ones do to it: nothing but what the penalties see in them."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs_for_tests import BASELINE, SPECTREG, numbers, with_dropout
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook

import gradreg as gr
from gradreg import _random
from gradreg.data.splits import indices
from gradreg.study import train as module
from gradreg.study.batches import Unlabelled, batches
from gradreg.study.config import Penalty, Run, Technique, out_of_range
from gradreg.study.grid import put
from gradreg.study.train import Training, dataset, divide, train

DIGITS = dataset("digits")
SEMI = put(SPECTREG, {"schedule.steps": 12, "split.unlabelled": 45, "split.balanced": False})
CPU = torch.device("cpu")


def unlabelled(run: Run) -> Unlabelled:
    return Unlabelled(run, divide(run, DIGITS), CPU)


def taken(source: Unlabelled, steps: int) -> list[Tensor]:
    found = [source.take() for _ in range(steps)]
    assert all(batch is not None for batch in found)
    return [batch for batch in found if batch is not None]


def test_each_pass_has_every_unlabelled_input_once() -> None:
    parts = divide(SEMI, DIGITS)
    given = torch.cat(taken(unlabelled(SEMI), 9))  # batches of 20: four passes over 45
    assert parts.unlabelled_x is not None
    for start in range(0, 180, 45):
        one, all_of_them = given[start : start + 45].flatten(1).unique(dim=0), parts.unlabelled_x.flatten(1)
        assert torch.equal(one, all_of_them.unique(dim=0))


@pytest.mark.parametrize(("size", "expected"), [(0, 20), (7, 7), (45, 45)])
def test_batches_are_as_large_as_asked_for_and_else_as_those_of_labelled_examples(size: int, expected: int) -> None:
    run = put(SEMI, {"schedule.unlabelled_batch": size})
    assert {len(batch) for batch in taken(unlabelled(run), 5)} == {expected}


def test_a_batch_holds_no_input_twice_where_there_are_few() -> None:
    assert {len(batch) for batch in taken(unlabelled(put(SEMI, {"split.unlabelled": 8})), 3)} == {8}


def test_start_goes_to_a_step() -> None:
    source = unlabelled(SEMI)
    whole = taken(source, 6)
    source.start(4)
    for one, other in zip(taken(source, 2), whole[4:], strict=True):
        assert torch.equal(one, other)


def test_without_unlabelled_inputs_there_is_no_batch() -> None:
    assert unlabelled(BASELINE).take() is None


@pytest.mark.parametrize("path", ["split.unlabelled", "schedule.unlabelled_batch"])
def test_numbers_out_of_range_are_told(path: str) -> None:
    assert out_of_range(SEMI) == []
    (message,) = out_of_range(put(SEMI, {path: -1}))
    assert message.startswith(f"{path}=-1; expected ")
    assert out_of_range(put(SEMI, {"schedule.unlabelled_batch": 46})) == [
        "schedule.unlabelled_batch=46; expected 0 to split.unlabelled"
    ]


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "technique", [Technique(), Technique(mixup=0.4), Technique(sam=0.3)], ids=["-", "mixup", "sam"]
)
@pytest.mark.parametrize("size", [0, 7])
def test_step_is_that_of_an_objective_with_unlabelled_inputs(size: int, technique: Technique) -> None:
    """Whose penalty is the mean over the labelled and the unlabelled inputs of the step together."""
    run = replace(put(SEMI, {"schedule.unlabelled_batch": size}), technique=technique)
    training, other = (Training(run, divide(run, DIGITS), 10) for _ in range(2))
    chosen, given = torch.arange(20), []
    with register_optimizer_step_pre_hook(
        lambda *_: given.extend(p.grad.clone() for p in training.model.parameters() if p.grad is not None)
    ):
        result = training.advance(chosen)
    x, y, more = other.x[chosen], other.y[chosen], unlabelled(run).take()
    assert more is not None
    objective: Any = gr.Objective(cross_entropy, gr.SpectReg(0.1))
    if technique.mixup:
        objective = gr.Mixup(objective, technique.mixup, classes=10)
    generator = _random.generator_for(run.seed, "projections")
    if technique.sam:
        expected = gr.SAM(objective, other.model, technique.sam)(x, y, unlabeled=more, generator=generator, step=0)
    else:
        expected = objective(other.model, x, y, unlabeled=more, generator=generator, step=0)
        expected.total.backward()
    assert result.terms["spectreg"].item() == pytest.approx(expected.terms["spectreg"].item(), rel=1e-5)
    for one, parameter in zip(given, other.model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-6)


def test_exact_penalty_of_a_step_is_the_mean_over_both_kinds_of_inputs() -> None:
    """Against the dense Jacobians of all inputs of the step, in float64."""
    run = put(replace(SEMI, penalties=(Penalty("FrobReg", 0.1),)), {"schedule.unlabelled_batch": 7})
    training = Training(run, divide(run, DIGITS), 10)
    more = unlabelled(run).take()
    assert more is not None
    exact = copy.deepcopy(training.model).double()
    rows = gr.dense.jacobian(exact, torch.cat([training.x[:20], more]).double())
    expected = 0.1 * rows.square().sum((1, 2)).mean()
    assert training.advance(torch.arange(20)).terms["frobreg"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_unlabelled_inputs_train_another_network_and_others_again() -> None:
    runs = [put(SEMI, {"split.unlabelled": 0}), SEMI, put(SEMI, {"split.unlabelled": 46})]
    assert len({train(run, DIGITS)[0]["train_loss"] for run in runs}) == 3


def test_labels_of_unlabelled_inputs_count_for_nothing() -> None:
    """Others in their place change no digit; those of a training point do."""
    found = indices(DIGITS, 100, 400, 797, seed=0, balanced=False, unlabelled=45)
    wrong = DIGITS.y.clone()
    wrong[found.unlabelled] = 9 - wrong[found.unlabelled]
    expected = numbers(train(SEMI, DIGITS)[0])
    assert numbers(train(SEMI, replace(DIGITS, y=wrong))[0]) == expected
    wrong[found.train[0]] = 9 - wrong[found.train[0]]
    assert numbers(train(SEMI, replace(DIGITS, y=wrong))[0]) != expected


def test_run_with_unlabelled_inputs_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    run = with_dropout(tmp_path, put(SEMI, {"schedule.steps": 30}))
    expected, whole = train(run, DIGITS)
    half = Training(run, divide(run, DIGITS), DIGITS.outputs)
    for chosen in list(batches(len(half.y), run))[:20]:
        half.advance(chosen)
    half.recent.append((20, 0.0))
    torch_state = half.state()
    torch.manual_seed(99)
    found, training = train(run, DIGITS, start=torch_state)
    assert found["validation_accuracy"] == expected["validation_accuracy"]
    for one, other in zip(whole.model.parameters(), training.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_compiled_steps_get_the_unlabelled_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    def traced(run: Run, objective: gr.Objective, model: torch.nn.Module, device: Any) -> gr.CompiledObjective:
        return gr.CompiledObjective(objective, model, backend="eager", fallback=False)

    monkeypatch.setattr(module, "compiled_step", traced)
    run = put(SEMI, {"schedule.steps": 6})
    _, training = train(run, DIGITS)
    assert training.compiled is not None
    assert training.compiled._traced
    ordinary = Training(run, divide(run, DIGITS), DIGITS.outputs)
    for chosen in batches(len(ordinary.y), run):
        ordinary.advance(chosen)
    for one, other in zip(ordinary.model.parameters(), training.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
