"""AutoWeight: where weights begin and how they move, against both formulas; what it leaves alone; what it refuses."""

import copy
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import batch, build, parameter_gradient
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import gradreg as gr
from gradreg import Adjustment

X, Y = batch(6)
POINTS, OTHERS = (X[:4], Y[:4]), (X[4:], Y[4:])


def auto(*penalties: gr.Penalty, steps: int = 100, begin: float = 0.0, **options: Any) -> gr.AutoWeight:
    given = {"training": POINTS, "held_out": OTHERS, "steps": steps, "begin": begin, **options}
    return gr.AutoWeight(gr.Objective(cross_entropy, *(penalties or (gr.FrobReg(1.0),))), **given)


@pytest.mark.parametrize("weight", [1.0, 300.0])
def test_it_begins_where_penalty_and_task_pull_alike(weight: float) -> None:
    model = build("softplus")
    task, penalty = parameter_gradient(cross_entropy(model(X), Y), model), gr.FrobReg(1.0)(model, X)
    expected = (task.norm() / parameter_gradient(penalty, model).norm()).item()
    objective = auto(gr.FrobReg(weight))
    result = objective(model, X, Y)
    assert objective.weights["frobreg"] == pytest.approx(expected, rel=1e-9)
    assert objective.factor == pytest.approx(expected / weight, rel=1e-9)
    torch.testing.assert_close(result.terms["frobreg"], expected * penalty, rtol=1e-9, atol=0)


def test_several_penalties_keep_their_proportions() -> None:
    model = build("softplus")
    objective = auto(gr.FrobReg(0.2), gr.DoubleBack(3.0))
    result = objective(model, X, Y)
    pull = parameter_gradient(result.total - result.task, model)
    task = parameter_gradient(cross_entropy(model(X), Y), model)
    assert pull.norm().item() == pytest.approx(task.norm().item(), rel=1e-9)
    assert objective.weights["doubleback"] == pytest.approx(15 * objective.weights["frobreg"])


@pytest.mark.parametrize(("begin", "first"), [(0.0, 0), (0.03, 3), (0.07, 7), (0.071, 8), (0.999, 99)])
def test_the_first_part_has_no_penalty(begin: float, first: int) -> None:
    """Then the weight is that which begins at once with the network as it is by then."""
    model, objective = build("softplus"), auto(begin=begin)
    results = [objective(model, X, Y) for _ in range(first)]
    assert all(result.terms["frobreg"] == 0 and result.total.item() == result.task.item() for result in results)
    assert {look.step: look.factor for look in objective.history} == ({0: 0.0} if first else {})
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    at_once = auto()
    found, expected = objective(model, X, Y), at_once(model, X, Y)
    assert found.terms == expected.terms
    assert objective.history[-1] == at_once.history[0]._replace(step=first)
    if first < 98:
        for _ in range(2):
            objective(model, X, Y)
        assert len(objective.history) == len({look.step for look in objective.history}) == (first > 0) + 2


def test_what_will_not_do_is_told_before_the_first_step() -> None:
    """Penalties too, which count later."""
    with pytest.raises(ValueError, match="no submodule named 'nothing'"):
        gr.AutoWeight(
            gr.Objective(cross_entropy, gr.SpectReg(1.0, site=gr.Hidden("nothing"))), POINTS, OTHERS, steps=99
        )(build("softplus"), X, Y)


def losses(model: nn.Module) -> tuple[float, float]:
    with torch.no_grad():
        return tuple(cross_entropy(model(x), y).item() for x, y in (POINTS, OTHERS))  # type: ignore[return-value]


@pytest.mark.parametrize("distance", [-2.0, -0.6, -0.58, -0.4, 0.3, 5.0])
def test_it_moves_by_the_ratio_of_the_losses(distance: float) -> None:
    model = build("softplus").eval()
    training, held_out = losses(model)
    ratio = 0.5
    # Labels are right or wrong by the held-out loss alone: its points are weighed by repeating the loss.
    scale = math.exp(distance) * training / (ratio * held_out)
    objective = gr.AutoWeight(
        gr.Objective(lambda z, y: cross_entropy(z, y) * (scale if len(y) == 2 else 1.0), gr.FrobReg(1.0)),
        POINTS,
        OTHERS,
        steps=100,
        ratio=ratio,
        begin=0,
    )
    factors = []
    for _ in range(7):
        objective(model, X, Y)
        factors.append(objective.factor)
    # Of 100 steps every other one is a look; the first is where it begins.
    rate = 0.5 if math.exp(-distance) * ratio > 0.9 else 0.2
    change = math.exp(rate * max(-1.0, min(1.0, distance)))
    assert factors == pytest.approx([factors[0] * change ** (i // 2) for i in range(7)], rel=1e-9)
    assert [look.step for look in objective.history] == [0, 2, 4, 6]
    assert objective.history[0].training == pytest.approx(training)
    assert objective.history[0].held_out == pytest.approx(scale * held_out)


def test_batches_are_weighed_by_their_examples() -> None:
    model = build("softplus").eval()
    parts = [(X[:1], Y[:1]), (X[1:4], Y[1:4])]
    one, several = auto(), auto(training=parts)
    for objective in (one, several):
        for _ in range(3):
            objective(model, X, Y)
    assert several.history[1] == pytest.approx(one.history[1], rel=1e-9)


def test_a_step_is_that_of_an_objective_with_the_same_weights() -> None:
    """Looks leave modes, buffers, gradients and random state alone: dropout, normalization, a random row."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    plain = plain.to(X.dtype)
    watched = copy.deepcopy(plain)
    objective = auto(gr.SpectReg(1.0), steps=50)  # a look before every step
    torch.manual_seed(1)
    generator, results, weights = Generator().manual_seed(2), [], []
    for _ in range(4):
        results.append(objective(watched, X, Y, generator=generator))
        weights.append(objective.weights["spectreg"])
    assert len(set(weights)) == 4
    torch.manual_seed(1)
    generator = Generator().manual_seed(2)
    for weight, found in zip(weights, results, strict=True):
        expected = gr.Objective(cross_entropy, gr.SpectReg(weight))(plain, X, Y, generator=generator)
        assert found.total.item() == expected.total.item()
    assert all(module.training for module in watched.modules())
    assert all(p.grad is None for p in watched.parameters())
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(watched.named_buffers())[name])


def test_the_given_objective_stays_as_it_is() -> None:
    penalty = gr.FrobReg(2.0, every=2)
    objective = gr.Objective(cross_entropy, penalty)
    wrapped = gr.AutoWeight(objective, POINTS, OTHERS, steps=10, begin=0)
    for _ in range(3):
        wrapped(build("softplus"), X, Y)
    assert penalty.weight == objective.penalties["frobreg"].weight == 2.0
    assert objective.step == penalty.step == 0
    assert objective.penalties == {"frobreg": penalty}


def test_schedules_hold_beside_it_and_do_not_hide_where_it_begins() -> None:
    model = build("softplus")
    plain, ramped, lazy = auto(), auto(gr.FrobReg(1.0, ramp=10)), auto(gr.FrobReg(1.0, every=2))
    results = [objective(model, X, Y) for objective in (plain, ramped, lazy)]
    assert plain.factor == ramped.factor == lazy.factor
    first, rising, doubled = (result.terms["frobreg"].item() for result in results)
    assert (rising, doubled) == (0.0, pytest.approx(2 * first))


@pytest.mark.parametrize("step", [None, 0, 2])
def test_measuring_is_no_step(step: int | None) -> None:
    model, objective, other = build("softplus"), auto(), auto()
    with torch.no_grad():
        objective(model, X, Y, step=step)
    assert (objective.step, objective.factor, objective.history) == (0, 0.0, [])
    for one in (objective, other):
        one(model, X, Y)
    with torch.no_grad():
        objective(model, X, Y, step=step)
    assert objective.history == other.history


@pytest.mark.parametrize(("steps", "looks"), [(1, 0), (10, 9), (50, 49), (75, 49), (99, 49), (149, 49), (2000, 49)])
def test_looks_are_49_and_evenly_spaced(steps: int, looks: int) -> None:
    objective = auto(steps=steps)
    objective.history = [Adjustment(0, 1.0, 1.0, 1.0)]
    due = [step for step in range(1, steps) if objective._is_due(step)]
    assert len(due) == looks
    gaps = {b - a for a, b in pairwise([0, *due])}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_looks_of_a_whole_training() -> None:
    """One before it, one where the penalties begin, 47 more."""
    model, objective = build("softplus"), auto(begin=0.04, steps=50)
    for _ in range(50):
        objective(model, X, Y)
    assert [look.step for look in objective.history] == [0, *range(2, 50)]


@pytest.mark.parametrize("stop", [1, 3])
def test_it_goes_on_from_its_state(stop: int) -> None:
    """Before the penalties begin, and after."""
    model = build("softplus")
    whole, first, second = (auto(begin=0.04, steps=50) for _ in range(3))
    for _ in range(6):
        whole(model, X, Y)
    for _ in range(stop):
        first(model, X, Y)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.weights == first.weights
    for _ in range(6 - stop):
        second(model, X, Y)
    assert (second.factor, second.history, second.step) == (whole.factor, whole.history, 6)


def test_mixup_within_it() -> None:
    model = build("softplus")
    objective = gr.AutoWeight(
        gr.Mixup(gr.Objective(cross_entropy, gr.FrobReg(1.0)), 1.0, classes=4), POINTS, OTHERS, steps=50, begin=0
    )
    draws = [Generator().manual_seed(5) for _ in range(2)]
    found = objective(model, X, Y, generator=draws[0])
    expected = gr.Mixup(gr.Objective(cross_entropy, gr.FrobReg(objective.factor)), 1.0, classes=4)
    torch.testing.assert_close(found.total, expected(model, X, Y, generator=draws[1]).total, rtol=1e-12, atol=0)


class Drawing(nn.Module):
    """Draws and counts in evaluation mode too."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(X[0].numel(), 4).to(X.dtype)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        x = x.flatten(1)
        return self.layer(x + torch.randn_like(x))


def test_looks_leave_random_state_and_buffers_of_any_model_alone() -> None:
    torch.manual_seed(0)
    plain = Drawing()
    watched = copy.deepcopy(plain)
    objective = auto(gr.SpectReg(1.0), steps=50)
    torch.manual_seed(1)
    found = [objective(watched, X, Y).task.item() for _ in range(3)]
    torch.manual_seed(1)
    expected = [gr.Objective(cross_entropy, gr.SpectReg(1.0))(plain, X, Y).task.item() for _ in range(3)]
    assert found == expected
    assert watched.count == plain.count


def of_probabilities(z: Tensor, p: Tensor) -> Tensor:
    """A loss that takes class probabilities alone."""
    return -(p * z.log_softmax(1)).sum(1).mean()


def test_mixup_hands_its_loss_probabilities() -> None:
    model = build("softplus").eval()
    found = []
    for loss in (cross_entropy, of_probabilities):
        objective = gr.AutoWeight(
            gr.Mixup(gr.Objective(loss, gr.FrobReg(1.0)), 1.0, classes=4), POINTS, OTHERS, steps=50, begin=0
        )
        for _ in range(2):
            objective(model, X, Y, generator=Generator().manual_seed(0))
        found.append(objective.history)
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert found[0][0].training == pytest.approx(losses(model)[0], rel=1e-6)


def test_it_brings_an_overfitting_network_to_the_ratio() -> None:
    """A network that would fit 8 points with random labels does so to the asked part of the held-out loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2)).double()
    x, y = torch.randn(28, 2, dtype=torch.float64), torch.arange(28) % 2
    points, others = (x[:8], y[:8]), (x[8:], y[8:])
    found = {}
    for ratio in (0.2, 0.6):
        trained = copy.deepcopy(model)
        objective = gr.AutoWeight(
            gr.Objective(cross_entropy, gr.SpectReg(1.0)), points, others, steps=1000, ratio=ratio
        )
        optimizer = torch.optim.Adam(trained.parameters(), lr=0.01)
        for _ in range(1000):
            optimizer.zero_grad()
            objective(trained, *points, generator=None).total.backward()
            optimizer.step()
        last = objective.history[-1]
        found[ratio] = last.training / last.held_out
        assert found[ratio] == pytest.approx(ratio, rel=0.25)
    assert found[0.2] < found[0.6]


class Constant(nn.Module):
    """Scores that the test chooses, with a parameter for the gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.scores = nn.Parameter(torch.ones(())), torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.scores + 0 * x.flatten(1)[:, :1]


@pytest.mark.parametrize(
    ("training", "held_out", "change"),
    [
        (0.0, 1.0, 0.2),
        (1.0, 0.0, 0.0),
        (math.inf, 1.0, -0.5),
        (math.nan, 1.0, -0.5),
        (1.0, math.nan, 0.0),
        (1.0, math.inf, 0.2),
    ],
)
def test_losses_at_the_ends(training: float, held_out: float, change: float) -> None:
    values = {4: training, 2: held_out, 6: 1.0}
    objective = gr.AutoWeight(
        gr.Objective(lambda z, y: z.sum() * 0 + values[len(y)], gr.FrobReg(1.0)), POINTS, OTHERS, steps=50, begin=0
    )
    for _ in range(2):
        objective(Constant(), X.float(), Y)
    assert objective.factor == pytest.approx(math.exp(change))  # neither pulls, so it begins at 1


def test_refusals() -> None:
    model = build("softplus")
    with pytest.raises(ValueError, match=r"no penalty of a weight > 0; write gr\.Objective\(loss, gr\.SpectReg"):
        gr.AutoWeight(gr.Objective(cross_entropy), POINTS, OTHERS, steps=10)
    with pytest.raises(ValueError, match="no penalty"):
        auto(gr.SpectReg(0.0))
    with pytest.raises(TypeError, match=r"got objective=.*; expected gr\.Objective"):
        gr.AutoWeight(cross_entropy, POINTS, OTHERS, steps=10)  # type: ignore[arg-type]
    for ratio in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"expected a number > 0 and < 1, such as 0\.35"):
            auto(ratio=ratio)
    for begin in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"got begin=.*; expected a number >= 0 and < 1, such as 0\.04"):
            auto(begin=begin)
    for held_out in ([], X, (X, Y, Y), None, (X[:0], Y[:0]), [(X, Y), (X[:0], Y[:0])]):
        with pytest.raises(ValueError, match=r"held_out=.*; expected a pair \(x, y\), or a list of such pairs"):
            auto(held_out=held_out)
    with pytest.raises(ValueError, match=r"tuple\(\(6, .*\), \(6,\), \(6,\)\)"):
        auto(held_out=(X, Y, Y))
    # What will not do is told at the first step, not after a part of the training.
    with pytest.raises(ValueError, match="batch"):
        auto(held_out=(X, Y[:2]))(model, X, Y)
    with pytest.raises(TypeError, match=r"model of type function; expected a torch\.nn\.Module"):
        auto()(lambda x: x.flatten(1)[:, :4], X, Y)
    negative = gr.AutoWeight(
        gr.Objective(lambda z, y: cross_entropy(z, y) - 100, gr.FrobReg(1.0)), POINTS, OTHERS, steps=50
    )
    with pytest.raises(ValueError, match="compares losses by their ratio, but the loss is -9"):
        negative(model, X, Y)


def test_several_processes_are_refused(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        begun = auto()
        begun(build("softplus"), X, Y)
        for objective in (auto(), begun):
            with pytest.raises(TypeError, match=r"several processes \(DistributedDataParallel\)"):
                objective(DistributedDataParallel(build("softplus")), X, Y)
    finally:
        torch.distributed.destroy_process_group()
