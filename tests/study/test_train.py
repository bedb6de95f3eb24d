"""One training run: repeatable to the last bit, fair between methods, blind to the test points until asked."""

import copy
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs_for_tests import BASELINE as WHOLE
from runs_for_tests import SIN, numbers, with_dropout
from runs_for_tests import SPECTREG as PENALIZED
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook

import gradreg as gr
from gradreg import _random
from gradreg.data.dataset import Dataset
from gradreg.data.splits import indices
from gradreg.study import train as module
from gradreg.study.batches import batches
from gradreg.study.config import Data, Model, Optimizer, Penalty, Run, Split, StudyError, Technique
from gradreg.study.grid import put
from gradreg.study.source import code_hash
from gradreg.study.store import RunFiles
from gradreg.study.train import (
    StoppedError,
    Training,
    Watch,
    build_optimizer,
    dataset,
    divide,
    train,
)

BASELINE = put(WHOLE, {"schedule.steps": 12, "protocol.measure": "validation"})
SPECTREG = put(PENALIZED, {"schedule.steps": 12, "protocol.measure": "validation"})
OTHERS = [
    SPECTREG,
    replace(BASELINE, penalties=(Penalty("DoubleBack", 30.0),)),
    replace(BASELINE, penalties=(Penalty("SpectReg", 0.1), Penalty("ConfidencePenalty", 0.5))),
    replace(BASELINE, penalties=(Penalty("SpectReg", 0.1, (("samples", 2), ("sphere", True))),)),
]
DIGITS = dataset("digits")


def measured(run: Run, data: Dataset = DIGITS, **others: Any) -> dict[str, Any]:
    return numbers(train(run, data, **others)[0])


def noise() -> Dataset:
    """Random images of LeNet-5's size."""
    g = Generator().manual_seed(5)
    labels = torch.arange(300) % 10
    return Dataset("noise", torch.rand(300, 1, 28, 28, generator=g), labels, tuple("0123456789"))


def lenet(run: Run) -> Run:
    return replace(put(run, {"schedule.steps": 4}), data=Data("noise"), model=Model("lenet5"), split=Split(100, 50, 50))


class Keeping:
    """A keeper in memory."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.beats: list[tuple[int, int]] = []
        self.checkpoints: list[bytes] = []

    def note(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def beat(self, step: int, steps: int) -> None:
        self.beats.append((step, steps))

    def save_checkpoint(self, content: bytes) -> None:
        self.checkpoints.append(content)


# --- the same, and not the same ---------------------------------------------------------------------------------------


def test_same_run_gives_the_same_numbers_bit_for_bit() -> None:
    run = put(SPECTREG, {"protocol.measure": "test"})
    first = measured(run)
    torch.manual_seed(99)
    assert measured(run) == first
    kinds = {"steps", "train_loss", "validation_accuracy", "test_accuracy", "jacobian_norm", "half_squared_norm"}
    assert set(first) == kinds


def test_a_network_that_normalizes_by_the_batch_when_tested_has_no_norm_of_the_jacobian() -> None:
    run = put(lenet(BASELINE), {"protocol.measure": "test"})
    own, coupled = (
        measured(replace(run, model=Model(f"lenet5-{kind}")), noise()) for kind in ("batchnorm", "batch-statistics")
    )
    assert set(own) ^ set(coupled) == {"jacobian_norm"}


def test_dropout_is_seeded_too() -> None:
    run = put(lenet(SPECTREG), {"protocol.measure": "test"})
    first = measured(run, noise())
    torch.manual_seed(99)
    assert measured(run, noise()) == first


def test_random_projections_do_not_shift_the_dropout_masks() -> None:
    """A penalty of next to no weight leaves all numbers as the baseline's."""
    with_penalty = measured(put(lenet(SPECTREG), {"weight": 1e-12}), noise())
    assert with_penalty == pytest.approx(measured(lenet(BASELINE), noise()), rel=1e-4)


def test_what_is_watched_changes_nothing() -> None:
    run = put(SPECTREG, {"schedule.steps": 45})
    watch = Watch(Keeping(), checkpoint_seconds=0, beat_seconds=0)
    assert measured(run, watch=watch) == measured(run)


@pytest.mark.parametrize("change", [{"seed": 1}, {"weight": 0.11}, {"schedule.batch_size": 21}])
def test_different_run_gives_different_numbers(change: Mapping[str, Any]) -> None:
    assert measured(put(SPECTREG, change))["train_loss"] != measured(SPECTREG)["train_loss"]


@pytest.mark.parametrize("other", OTHERS, ids=lambda run: "+".join(p.preset for p in run.penalties))
def test_methods_share_subset_batches_and_initialization_of_a_seed(other: Run) -> None:
    def state(run: Run) -> list[Tensor]:
        training = Training(run, divide(run, DIGITS), 10)
        return [*training.model.parameters(), training.x, training.y, torch.stack(list(batches(100, run)))]

    for one, two in zip(state(BASELINE), state(other), strict=True):
        assert torch.equal(one, two)
    different = zip(state(BASELINE), state(replace(BASELINE, seed=1)), strict=True)
    # All but the biases, which start at 0, and the labels: ten of each class in order.
    assert sum(not torch.equal(one, two) for one, two in different) == 4 + 2


# --- regression -------------------------------------------------------------------------------------------------------


def test_result_that_is_not_finite_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is looked at before a step; what the last step did shows in what is measured."""
    monkeypatch.setattr("gradreg.study.train.score", lambda *args, **others: float("nan"))
    with pytest.raises(StudyError, match="validation_mse is nan after the last step; use a smaller weight or step"):
        train(SIN, dataset("sin"))


def test_regression_measures_squared_errors_and_the_learned_function() -> None:
    sin = dataset("sin")
    found, training = train(SIN, sin)
    assert numbers(train(SIN, sin)[0]) == numbers(found)
    expected = {"train_loss", "validation_mse", "test_mse", "jacobian_norm", "half_squared_norm", "function"}
    assert set(numbers(found)) == {"steps", *expected}
    parts = divide(SIN, sin)
    assert parts.test_x is not None
    assert parts.test_y is not None
    with torch.no_grad():
        error = training.model(parts.test_x) - parts.test_y
    assert found["test_mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    assert found["function"]["outputs"] == pytest.approx((error + parts.test_y).flatten().tolist(), rel=1e-4, abs=1e-5)


def test_loss_factor_gives_half_the_sum_of_squares_plus_the_weighted_slope() -> None:
    """The scripts' objective, written out: its gradient for one batch."""
    run = put(replace(SIN, penalties=(Penalty("FrobReg", 0.3),)), {"loss_factor": 25.0})
    training = Training(run, divide(run, dataset("sin")), 1)
    chosen = torch.arange(50)
    x, y = training.x[chosen].requires_grad_(), training.y[chosen]
    z = training.model(x)
    (slope,) = torch.autograd.grad(z.sum(), x, create_graph=True)
    total = 0.5 * (z - y).square().sum() + 0.3 * slope.square().mean()
    expected = torch.autograd.grad(total, list(training.model.parameters()), allow_unused=True)
    given: list[Tensor] = []
    with register_optimizer_step_pre_hook(
        lambda optimizer, *_: given.extend(p.grad for p in training.model.parameters() if p.grad is not None)
    ):
        result = training.advance(chosen)
    assert float(result.task.detach()) == pytest.approx(float((z - y).detach().square().mean()), rel=1e-5)  # a mean
    for one, other in zip(given, expected, strict=True):
        assert torch.allclose(one, torch.zeros_like(one) if other is None else other, rtol=1e-3, atol=1e-5)


def test_under_adam_a_loss_factor_is_a_smaller_weight() -> None:
    """16 times the squared error with a weight w is the squared error with w / 16 and Adam's epsilon / 16.

    Bit for bit, since 16 is a power of two.
    """
    runs = [replace(SIN, penalties=(Penalty("FrobReg", weight),)) for weight in (4.0, 0.25, 4.0)]
    trainings = [
        Training(run, divide(run, dataset("sin")), 1) for run in (put(runs[0], {"loss_factor": 16.0}), *runs[1:])
    ]
    for group in trainings[1].optimizer.param_groups:
        group["eps"] /= 16
    for training in trainings:
        for chosen in batches(100, training.run):
            training.advance(chosen)
    one, other, plain = (parameters(training) for training in trainings)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.allclose(one[0], plain[0])


def test_penalty_on_class_probabilities_is_refused_for_a_regression() -> None:
    run = replace(SIN, penalties=(Penalty("ConfidencePenalty", 0.1),))
    said = "ConfidencePenalty measures the probabilities of classes, but the labels of sin are numbers; use SpectReg"
    with pytest.raises(StudyError, match=said):
        train(run, dataset("sin"))


# --- techniques -------------------------------------------------------------------------------------------------------


def gradients_of_a_step(training: Training, chosen: Tensor) -> tuple[list[Tensor], gr.Result]:
    """What the optimizer gets in one step."""
    given: list[Tensor] = []
    with register_optimizer_step_pre_hook(
        lambda optimizer, *_: given.extend(p.grad.clone() for p in training.model.parameters() if p.grad is not None)
    ):
        result = training.advance(chosen)
    return given, result


@pytest.mark.parametrize(
    "technique",
    [Technique(mixup=0.4), Technique(sam=0.3), Technique(0.4, 0.3), Technique(auto_weight=0.3), Technique(0.4, 0, 0.3)],
    ids=str,
)
def test_step_of_a_technique_is_the_librarys(technique: Technique) -> None:
    run = replace(put(SPECTREG, {"loss_factor": 4.0}), technique=technique)
    training, other = (Training(run, divide(run, DIGITS), 10) for _ in range(2))
    chosen = torch.arange(20)
    training.step = run.steps // 2  # where weights that move have begun
    found, result = gradients_of_a_step(training, chosen)
    x, y = other.x[chosen], other.y[chosen]
    objective: Any = gr.Objective(cross_entropy, gr.SpectReg(0.1 / 4))
    generator = _random.generator_for(run.seed, "projections")
    if technique.mixup:
        objective = gr.Mixup(objective, technique.mixup, classes=10)
    if technique.auto_weight:
        parts = other.parts
        points = (parts.x, parts.y), (parts.validation_x, parts.validation_y)
        objective = gr.AutoWeight(objective, *points, steps=run.steps, ratio=technique.auto_weight)
    if technique.sam:
        expected = gr.SAM(objective, other.model, technique.sam)(x, y, generator=generator, step=run.steps // 2)
    else:
        expected = objective(other.model, x, y, generator=generator, step=run.steps // 2)
        expected.total.backward()
    assert expected.terms["spectreg"] > 0
    assert result.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    for one, p in zip(found, other.model.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(one, 4 * p.grad, rtol=1e-3, atol=1e-5)
    plain, _ = gradients_of_a_step(Training(put(SPECTREG, {"loss_factor": 4.0}), divide(run, DIGITS), 10), chosen)
    assert not torch.allclose(plain[0], found[0], rtol=1e-2)


def test_weights_move_by_points_of_every_class_at_the_library_s_losses() -> None:
    """A balanced subset is in order of class: the first 500 of 1000 points would hold half of the classes."""
    run = put(SPECTREG, {"technique.auto_weight": 0.35, "schedule.steps": 50})
    run = put(run, {"split.train_size": 1000, "split.validation_size": 400, "split.test_size": 100})
    training = Training(run, divide(run, DIGITS), 10)
    auto, parts = training.auto_weight, training.parts
    assert auto is not None
    for (batch,), size in ((auto.training, 500), (auto.held_out, len(parts.validation_y))):
        assert batch[1].unique().tolist() == list(range(10))
        assert len(batch[1]) == size
    for chosen in [*batches(len(training.y), run)][:4]:
        before = copy.deepcopy(training.model).eval()
        training.advance(chosen)
        x, y = parts.x, parts.y
        spread = torch.linspace(0, 999, 500, dtype=torch.float64).round().long()
        with torch.no_grad():
            seen = cross_entropy(before(x[spread]), y[spread]).item()
            unseen = cross_entropy(before(parts.validation_x), parts.validation_y).item()
        if auto.history[-1].step == training.step - 1:
            look = auto.history[-1]
            assert (look.training, look.held_out) == pytest.approx((seen, unseen), rel=1e-4)
    assert [look.step for look in auto.history] == [0, 2, 3]  # the penalties begin after 4 % of 50 steps
    assert auto.factor != auto.history[1].factor


def test_weights_that_move_need_validation_points() -> None:
    run = put(SPECTREG, {"technique.auto_weight": 0.35})
    parts = divide(run, DIGITS)
    empty = replace(parts, validation_x=parts.validation_x[:0], validation_y=parts.validation_y[:0])
    with pytest.raises(StudyError, match=r"auto_weight needs validation points; write split\.validation_size=500"):
        Training(run, empty, 10)


def test_what_comes_out_says_where_the_weight_went() -> None:
    run = put(SPECTREG, {"technique.auto_weight": 0.35})
    found, training = train(run, DIGITS)
    assert training.auto_weight is not None
    assert found["weight_factor"] == training.auto_weight.factor == training.auto_weight.history[-1].factor > 0
    assert found["weight_factor"] != training.auto_weight.history[1].factor
    assert "weight_factor" not in measured(SPECTREG)


def test_decoupled_decay_takes_its_part_of_the_matrices_beside_the_step_of_adam() -> None:
    """One step against the same without decay: lr * decay * w less, and nothing of biases."""
    rate, decay = 0.003, 0.3
    runs = [
        put(BASELINE, {"optimizer.name": name, "optimizer.weight_decay": value})
        for name, value in (("adamw", decay), ("adam", 0.0))
    ]
    decayed, plain = (Training(run, divide(run, DIGITS), 10) for run in runs)
    before = [p.detach().clone() for p in plain.model.parameters()]
    for training in (decayed, plain):
        training.advance(torch.arange(20))
    for one, two, w in zip(decayed.model.parameters(), plain.model.parameters(), before, strict=True):
        expected = two - rate * decay * w if w.ndim > 1 else two
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-6)


# --- going on from a checkpoint ---------------------------------------------------------------------------------------


def stop_after(step: int, keeper: Keeping) -> Watch:
    """Asked before each step."""
    asked = iter(range(10**6))
    return Watch(keeper, stop=lambda: next(asked) >= step)


def parameters(content: Training) -> list[Tensor]:
    return list(content.model.state_dict().values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamw"])
@pytest.mark.parametrize("penalty", ["none", "spectreg", "dropout and spectreg"])
def test_stopped_run_goes_on_to_the_same_result_network_and_metrics(
    tmp_path: Path, penalty: str, optimizer: str
) -> None:
    run = put(BASELINE if penalty == "none" else SPECTREG, {"schedule.steps": 50, "optimizer.name": optimizer})
    if penalty.startswith("dropout"):
        run = with_dropout(tmp_path, run)
    check_stops(run)


DRAWING = (Penalty("GradientPenalty", 0.1, (("projection", "TopK"),)), Penalty("LayerwiseFrobenius", 1e-4))


@pytest.mark.parametrize(
    ("technique", "penalties"),
    [
        (Technique(mixup=0.4), SPECTREG.penalties),
        (Technique(sam=0.1), SPECTREG.penalties),
        (Technique(mixup=0.4, sam=0.1), ()),
        (Technique(auto_weight=0.3), SPECTREG.penalties),
        (Technique(), (*DRAWING, Penalty("SpectralNorm", 0.01))),
    ],
    ids=str,
)
def test_stopped_run_with_a_technique_goes_on_to_the_same(
    tmp_path: Path, technique: Technique, penalties: tuple[Penalty, ...]
) -> None:
    """Of a network with dropout and buffers."""
    run = replace(put(BASELINE, {"schedule.steps": 50}), technique=technique, penalties=penalties)
    check_stops(with_dropout(tmp_path, run))


def check_stops(run: Run) -> None:
    """A run that is stopped four times, bit for bit against one that is not."""
    whole, pieces = Keeping(), Keeping()
    expected, reached = train(run, DIGITS, watch=Watch(whole))
    start = None
    for stop in (0, 23, 20, 3):  # 0, 23, 43 and 46 in all
        with pytest.raises(StoppedError, match=r"stopped after step \d+ of 50; its state is kept"):
            train(run, DIGITS, start=start, watch=stop_after(stop, pieces))
        start = pieces.checkpoints[-1]
        torch.manual_seed(99)
    found, training = train(run, DIGITS, start=start, watch=Watch(pieces))
    assert numbers(found) == numbers(expected)
    assert found["seconds"] > 0
    for one, two in zip(parameters(training), parameters(reached), strict=True):
        assert torch.equal(one, two)
    assert list(map(numbers, pieces.lines)) == list(map(numbers, whole.lines))
    assert [line["step"] for line in whole.lines] == [20, 40, 50]


def test_run_that_is_stopped_too_early_gives_another_network() -> None:
    """That the comparison above can fail: a checkpoint matters."""
    run = put(SPECTREG, {"schedule.steps": 50})
    other = train(replace(run, seed=1), DIGITS)[1].state()
    kept = torch.load(io.BytesIO(other), weights_only=True)
    kept["step"] = 25
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    assert measured(run, start=buffer.getvalue())["train_loss"] != measured(run)["train_loss"]


@pytest.mark.parametrize("until", [20, 33, 54, 57])
def test_run_goes_on_from_the_same_run_that_ended_earlier(until: int) -> None:
    """As a search does; also where the earlier run looked at a last step that this one passes by."""
    run = put(SPECTREG, {"schedule.steps": 58})
    early, training = train(put(run, {"schedule.until": until}), DIGITS)
    assert early["steps"] == training.step == until
    assert measured(run, start=training.state()) == measured(run)


def test_learning_rate_of_a_run_that_ends_early_is_that_of_all_steps() -> None:
    seen: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    try:
        train(put(BASELINE, {"schedule.steps": 16, "schedule.until": 10}), DIGITS)
    finally:
        handle.remove()
    assert seen == pytest.approx([0.003] * 8 + [0.0003] * 2)


def test_state_after_the_last_step_gives_the_result_without_a_step() -> None:
    expected, training = train(SPECTREG, DIGITS)
    found, again = train(SPECTREG, DIGITS, start=training.state())
    assert numbers(found) == numbers(expected)
    assert again.step == 12


# --- what is seen on the way ------------------------------------------------------------------------------------------


def test_signs_of_life_and_checkpoints_come_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10**6))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(now)))
    keeper = Keeping()
    found, _ = train(BASELINE, DIGITS, watch=Watch(keeper, checkpoint_seconds=5, beat_seconds=2))
    assert keeper.beats == [(step, 12) for step in (0, 2, 4, 6, 8, 10, 12)]
    steps = [torch.load(io.BytesIO(content), weights_only=True)["step"] for content in keeper.checkpoints]
    assert steps == [5, 10]
    assert found["seconds"] == 12
    keeper = Keeping()
    train(BASELINE, DIGITS, watch=Watch(keeper, checkpoint_seconds=4))
    assert len(keeper.checkpoints) == 2  # none at the last step


def test_metrics_have_a_line_of_each_look_and_some_validation_accuracy() -> None:
    keeper = Keeping()
    run = put(SPECTREG, {"schedule.steps": 210, "schedule.batch_size": 5})
    found, _ = train(run, DIGITS, watch=Watch(keeper))
    assert [line["step"] for line in keeper.lines] == [*range(20, 201, 20), 210]
    for line in keeper.lines:
        assert set(line) >= {"step", "seconds", "learning_rate", "total", "task"}
        terms = [value for name, value in line.items() if "spectreg" in name]
        assert len(terms) == 1
        assert line["total"] == pytest.approx(line["task"] + terms[0], rel=1e-5)
    assert sum("validation_accuracy" in line for line in keeper.lines) == 10
    assert keeper.lines[-1]["validation_accuracy"] == found["validation_accuracy"]
    assert keeper.lines[-1]["learning_rate"] == pytest.approx(0.003 / 100)
    assert found["train_loss"] == pytest.approx(sum(line["task"] for line in keeper.lines[-5:]) / 5)


@pytest.mark.parametrize(("steps", "most"), [(5, 1), (100, 5), (10**5, 212)])
def test_number_of_lines_is_bounded(steps: int, most: int) -> None:
    noted, measured = module.marks_of(put(BASELINE, {"schedule.steps": steps}))
    assert steps in noted
    assert measured <= noted
    assert len(noted) <= most
    assert len(measured) <= 10


# --- test points ------------------------------------------------------------------------------------------------------


def test_run_for_validation_returns_nothing_of_the_test_points() -> None:
    assert set(train(SPECTREG, DIGITS)[0]) == {"steps", "seconds", "train_loss", "validation_accuracy"}
    assert divide(SPECTREG, DIGITS).test_x is None


def test_run_for_validation_never_looks_at_the_test_points() -> None:
    parts = indices(DIGITS, 100, 400, 797, seed=0)
    poisoned = DIGITS.x.clone()
    poisoned[parts.test] = torch.nan
    expected = measured(SPECTREG)
    assert measured(SPECTREG, replace(DIGITS, x=poisoned)) == expected
    # That the poison works: the same network, asked for its answers to the test points.
    found = measured(put(SPECTREG, {"protocol.measure": "test"}), replace(DIGITS, x=poisoned))
    assert found["test_accuracy"] < 20 < expected["validation_accuracy"]


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_learns() -> None:
    found, _ = train(put(SPECTREG, {"schedule.steps": 60}), DIGITS)
    assert found["validation_accuracy"] > 70
    assert found["train_loss"] < 1
    assert found["seconds"] > 0


def test_norm_of_a_result_is_half_that_of_the_trained_matrices_and_filters() -> None:
    found, training = train(put(SPECTREG, {"protocol.measure": "test", "schedule.steps": 3}), DIGITS)
    names = [name for name, value in training.model.named_parameters() if value.ndim > 1]
    assert len(names) == 4
    state = training.model.state_dict()
    expected = sum(float(state[name].double().square().sum()) for name in names) / 2
    assert found["half_squared_norm"] == pytest.approx(expected, rel=1e-12)
    # Biases, which are not among them, have moved as well.
    assert any(float(value.abs().max()) > 0 for name, value in state.items() if name not in names)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_weight_decay_is_that_of_half_the_squared_norm_of_matrices_in_the_loss(name: Any) -> None:
    decay = 0.5
    run = replace(BASELINE, optimizer=Optimizer(0.003, name, weight_decay=decay))
    training = Training(run, divide(run, DIGITS), 10)
    model = training.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)  # biases start at 0, where decay does not show
    chosen = next(batches(100, run))
    x, y = training.x[chosen], training.y[chosen]
    squares = torch.stack([p.square().sum() for p in model.parameters() if p.ndim > 1])
    loss = cross_entropy(model(x), y) + decay * 0.5 * squares.sum()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    training.advance(chosen)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        state = training.optimizer.state[parameter]
        # Adam's first moment after one step, SGD's momentum.
        seen = state["exp_avg"] / (1 - 0.9) if name == "adam" else state["momentum_buffer"]
        torch.testing.assert_close(seen, gradient, rtol=1e-4, atol=1e-6)


def test_sgd_has_nesterovs_momentum_where_there_is_any() -> None:
    model = torch.nn.Linear(2, 2)
    for momentum, nesterov in ((0.9, True), (0.0, False)):
        found = build_optimizer(replace(BASELINE, optimizer=Optimizer(0.1, "sgd", momentum)), model)
        assert (found.defaults["momentum"], found.defaults["nesterov"]) == (momentum, nesterov)


def test_learning_rate_falls_at_half_and_three_quarters_of_the_steps() -> None:
    seen: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    try:
        train(put(BASELINE, {"schedule.steps": 8}), DIGITS)
        train(put(BASELINE, {"schedule.steps": 4, "schedule.milestones": (0.25,), "schedule.factor": 0.5}), DIGITS)
    finally:
        handle.remove()
    assert seen == pytest.approx([0.003] * 4 + [0.0003] * 2 + [0.00003] * 2 + [0.003] + [0.0015] * 3)


@pytest.mark.parametrize(("steps", "named"), [(3, 3), (45, 20)])
def test_diverging_run_names_the_step(steps: int, named: int) -> None:
    run = replace(put(BASELINE, {"schedule.steps": steps}), penalties=(Penalty("DoubleBack", 1e39),))
    with pytest.raises(StudyError, match=rf"the loss became (inf|nan) by step {named}; use a smaller weight"):
        train(run, DIGITS)


# --- names ------------------------------------------------------------------------------------------------------------


def test_unknown_data_set_is_named() -> None:
    with pytest.raises(StudyError, match="no data set of that name: 'digit' is not known; did you mean 'digits'"):
        dataset("digit")


def test_network_whose_source_has_changed_is_refused(tmp_path: Path) -> None:
    run = with_dropout(tmp_path, SPECTREG)
    measured(run)
    with (tmp_path / "nets.py").open("a") as file:
        file.write("# another\n")
    with pytest.raises(StudyError, match="has changed since the run was described; give the command again"):
        train(run, DIGITS)


FROZEN_NET = """
from torch import nn


def build(classes, features):
    norm = nn.BatchNorm1d(16).eval()
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 16), norm, nn.ReLU(), nn.Linear(16, classes))
"""


def test_measuring_leaves_a_module_that_was_frozen_so(tmp_path: Path) -> None:
    (tmp_path / "frozen.py").write_text(FROZEN_NET)
    name = f"{tmp_path / 'frozen.py'}:build"
    run = replace(SPECTREG, model=Model(name, code_hash(name)))
    _, alone = train(run, DIGITS)
    _, watched = train(run, DIGITS, watch=Watch(keeper=RunFiles(tmp_path)))
    for training in (alone, watched):
        assert [m.training for m in training.model] == [True, True, False, True, True]  # type: ignore[union-attr]
        assert torch.equal(training.model.state_dict()["2.running_mean"], torch.zeros(16))
    assert all(map(torch.equal, alone.model.state_dict().values(), watched.model.state_dict().values()))


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (10, 5), (7, 20), (100, 1)])
def test_batches_cover_each_example_once_in_each_pass(size: int, batch_size: int) -> None:
    run = put(BASELINE, {"schedule.steps": 3 * size, "schedule.batch_size": batch_size})
    found = list(batches(size, run))
    assert [len(batch) for batch in found] == [batch_size] * run.steps
    passes = torch.cat(found).reshape(-1, size)
    assert len(passes) == 3 * batch_size
    assert torch.equal(passes.sort(1).values, torch.arange(size).expand(len(passes), -1))
    assert not torch.equal(passes[0], passes[1])


# --- what is measured, and images that stay bytes ---------------------------------------------------------------------


def test_top_k_accuracy_is_measured_beside_the_accuracy_and_changes_no_key_where_it_is_not() -> None:
    run = put(BASELINE, {"protocol.measure": "test"})
    asked = put(run, {"protocol.top_k": 3, "protocol.test_points": 100})
    plain, found = measured(run), measured(asked)
    assert set(found) == {*plain, "test_top3_accuracy"}
    assert 100 >= found["test_top3_accuracy"] > found["test_accuracy"] > 0
    assert found["test_accuracy"] == float(round(found["test_accuracy"]))  # of a hundred points
    assert plain["validation_accuracy"] == found["validation_accuracy"]
    assert put(run, {"protocol.top_k": 0, "protocol.test_points": 0}).key == run.key
    assert asked.key != run.key


def photos() -> Dataset:
    """Random bytes of 8 x 8, with a test set of their own."""
    g = Generator().manual_seed(5)
    x, test_x = (torch.randint(0, 256, (n, 1, 8, 8), generator=g).byte() for n in (300, 80))
    return Dataset(
        "photos", x, torch.arange(300) % 10, tuple("0123456789"), test_x=test_x, test_y=torch.arange(80) % 10
    )


@pytest.mark.parametrize("penalized", [False, True])
def test_images_that_stay_bytes_train_the_same_network_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, penalized: bool
) -> None:
    from gradreg.data import splits

    split = Split(100, 60, unlabelled=90 if penalized else 0)
    run = replace(SPECTREG if penalized else BASELINE, data=Data("photos"), split=split)
    run = put(run, {"protocol.measure": "test"})
    usual = measured(run, photos())
    moments = splits.moments
    monkeypatch.setattr(splits, "LARGE", 0)
    monkeypatch.setattr(splits, "moments", lambda x: moments(x.float() / 255))  # which round otherwise for many images
    result, training = train(run, photos())
    assert training.x.dtype == torch.uint8
    assert numbers(result) == usual


def test_many_images_are_not_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradreg.data import splits
    from gradreg.study.stacked_loop import train_stacked
    from gradreg.study.stacked_model import StackError

    monkeypatch.setattr(splits, "LARGE", 0)
    run = replace(BASELINE, data=Data("photos"), split=Split(100, 60))
    with pytest.raises(StackError, match="the training images are too many to be kept as numbers for each run; train"):
        train_stacked([run, replace(run, seed=1)], photos())
