"""One training run: repeatable to the last bit, fair between methods, blind to the test points until asked."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradreg.data.dataset import Dataset
from gradreg.data.splits import indices
from gradreg.study import train as module
from gradreg.study.config import SETTINGS, Run, StudyError
from gradreg.study.train import _batches, accuracy, build, dataset, first_batch, train

BASELINE = replace(SETTINGS["digits"].run((), 0, "validation"), steps=12)
SPECTREG = replace(BASELINE, penalties=(("SpectReg", 0.1),))
OTHERS = [
    SPECTREG,
    replace(BASELINE, penalties=(("DoubleBack", 30.0),)),
    replace(BASELINE, penalties=(("SpectReg", 0.1), ("ConfidencePenalty", 0.5))),
]


def numbers(run: Run) -> dict[str, Any]:
    """All that a run measures but the time it took."""
    return {name: value for name, value in train(run).items() if name != "seconds"}


def noise(size: int = 28) -> Dataset:
    """Random images of LeNet-5's size."""
    g = Generator().manual_seed(5)
    labels = torch.arange(300) % 10
    return Dataset("noise", torch.rand(300, 1, size, size, generator=g), labels, tuple("0123456789"))


def test_same_run_gives_the_same_numbers_bit_for_bit() -> None:
    run = replace(SPECTREG, report="test")
    first = numbers(run)
    torch.manual_seed(99)
    assert numbers(run) == first
    assert set(first) == {"train_loss", "validation_accuracy", "test_accuracy", "jacobian_norm"}


def test_dropout_is_seeded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "dataset", lambda name: noise())
    run = replace(SPECTREG, model="lenet5", validation_size=50, test_size=50, steps=4, report="test")
    first = numbers(run)
    torch.manual_seed(99)
    assert numbers(run) == first


def test_random_projections_do_not_shift_the_dropout_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A penalty of next to no weight leaves all numbers as the baseline's."""
    monkeypatch.setattr(module, "dataset", lambda name: noise())
    lenet = replace(BASELINE, model="lenet5", validation_size=50, test_size=50, steps=4)
    with_penalty = numbers(replace(lenet, penalties=(("SpectReg", 1e-12),)))
    assert with_penalty == pytest.approx(numbers(lenet), rel=1e-4)


@pytest.mark.parametrize("change", [{"seed": 1}, {"penalties": (("SpectReg", 0.11),)}, {"batch_size": 21}])
def test_different_run_gives_different_numbers(change: Mapping[str, Any]) -> None:
    assert numbers(replace(SPECTREG, **change))["train_loss"] != numbers(SPECTREG)["train_loss"]


@pytest.mark.parametrize("other", OTHERS, ids=lambda run: "+".join(name for name, _ in run.penalties))
def test_methods_share_subset_batches_and_initialization_of_a_seed(other: Run) -> None:
    def state(run: Run) -> list[torch.Tensor]:
        batches = torch.stack(list(_batches(100, run)))
        return [*build(run)[0].parameters(), *first_batch(run), batches]

    for one, two in zip(state(BASELINE), state(other), strict=True):
        assert torch.equal(one, two)
    different = zip(state(BASELINE), state(replace(BASELINE, seed=1)), strict=True)
    assert sum(not torch.equal(one, two) for one, two in different) == 4 + 3  # all but the biases, which start at 0


def test_run_for_validation_returns_nothing_of_the_test_points() -> None:
    assert set(train(SPECTREG)) == {"seconds", "train_loss", "validation_accuracy"}


def test_run_for_validation_never_looks_at_the_test_points(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dataset("digits")
    parts = indices(whole, 100, 400, 797, seed=0)
    poisoned = whole.x.clone()
    poisoned[parts.test] = torch.nan
    expected = numbers(SPECTREG)
    monkeypatch.setattr(module, "dataset", lambda name: replace(whole, x=poisoned))
    assert numbers(SPECTREG) == expected
    # That the poison works: the same network, asked for its answers to the test points.
    assert train(replace(SPECTREG, report="test"))["test_accuracy"] < 20 < expected["validation_accuracy"]


def test_training_learns() -> None:
    found = train(replace(SPECTREG, steps=60))
    assert found["validation_accuracy"] > 70
    assert found["train_loss"] < 1
    assert found["seconds"] > 0


def test_weight_decay_is_that_of_half_the_squared_norm_of_matrices_in_the_loss() -> None:
    decay = 0.5
    model, objective, optimizer = build(replace(BASELINE, weight_decay=decay))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)  # biases start at 0, where decay does not show
    x, y = first_batch(BASELINE)
    squares = torch.stack([p.square().sum() for p in model.parameters() if p.ndim > 1])
    loss = cross_entropy(model(x), y) + decay * 0.5 * squares.sum()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    objective(model, x, y).total.backward()
    optimizer.step()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        seen = optimizer.state[parameter]["exp_avg"] / (1 - 0.9)  # Adam's first moment after one step
        torch.testing.assert_close(seen, gradient, rtol=1e-4, atol=1e-6)


def test_learning_rate_falls_at_half_and_three_quarters_of_the_steps() -> None:
    seen: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    try:
        train(replace(BASELINE, steps=8))
    finally:
        handle.remove()
    assert seen == pytest.approx([0.003] * 4 + [0.0003] * 2 + [0.00003] * 2)


@pytest.mark.parametrize(("steps", "named"), [(3, 3), (45, 20)])
def test_diverging_run_names_the_step(steps: int, named: int) -> None:
    run = replace(BASELINE, penalties=(("DoubleBack", 1e39),), steps=steps)
    with pytest.raises(StudyError, match=rf"the loss became (inf|nan) by step {named}; use a smaller weight"):
        train(run)


def test_unknown_data_set_is_named() -> None:
    with pytest.raises(StudyError, match="no data set 'letters'; expected 'digits' or 'mnist'"):
        train(replace(BASELINE, data="letters"))


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (10, 5), (7, 20), (100, 1)])
def test_batches_cover_each_example_once_in_each_pass(size: int, batch_size: int) -> None:
    run = replace(BASELINE, steps=3 * size, batch_size=batch_size)
    batches = list(_batches(size, run))
    assert [len(batch) for batch in batches] == [batch_size] * run.steps
    passes = torch.cat(batches).reshape(-1, size)
    assert len(passes) == 3 * batch_size
    assert torch.equal(passes.sort(1).values, torch.arange(size).expand(len(passes), -1))
    assert not torch.equal(passes[0], passes[1])


def test_accuracy_is_the_percentage_of_right_answers_in_any_chunks_and_without_dropout() -> None:
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Dropout(0.9))
    y = torch.arange(40) % 4
    wrong = torch.zeros(40, dtype=torch.int64)
    wrong[:9] = 1
    x = torch.eye(4)[(y + wrong) % 4]
    for chunk in (1000, 7, 40):
        assert accuracy(model, x, y, chunk=chunk) == pytest.approx(100 * 31 / 40)
    assert model.training
