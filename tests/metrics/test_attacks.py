"""Attacks against closed forms for linear models, and against foolbox where it is installed."""

import warnings
from typing import Any

import pytest
import torch
from models_for_tests import batch, build
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from gradreg import metrics
from gradreg.metrics import FGSM, PGD, Attack, GaussianNoise, robust_accuracy

BOUNDS = (0.0, 1.0)


@pytest.fixture(scope="module")
def foolbox() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports from an old name of scipy's
        return pytest.importorskip("foolbox", exc_type=ImportError)


def two_classes() -> tuple[nn.Linear, Tensor, Tensor]:
    return nn.Linear(6, 2).double(), torch.randn(40, 6).double(), torch.randint(2, (40,))


def images() -> tuple[nn.Module, Tensor, Tensor]:
    """Points within the bounds, some of them on the edge."""
    x, y = batch(12)
    return build("lenet"), (0.5 + 0.4 * x).clamp(0, 1), y


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", ["FGSM", "PGD"])
def test_the_worst_point_of_a_linear_model_is_found(norm: metrics.Norm, attack: str) -> None:
    """In the ball of radius r the margin m falls to ``m - r ||w_y - w_k||*``, the dual norm."""
    model, x, y = two_classes()
    radius = 0.3
    made = FGSM(radius, norm) if attack == "FGSM" else PGD(radius, norm, steps=20, step_size=2 * radius)
    moved = made(model, x, y, generator=Generator().manual_seed(0))
    dual = torch.linalg.vector_norm(model.weight[0] - model.weight[1], 2 if norm == "l2" else 1).detach()
    worst = metrics.logit_margins(model(x), y) - radius * dual
    torch.testing.assert_close(metrics.logit_margins(model(moved), y), worst, rtol=1e-6, atol=1e-6)
    assert robust_accuracy(model, x, y, made) == 100 * (worst > 0).double().mean().item()
    # The same from the other side: a point is robust where its margin in the input is larger than the radius.
    distance = metrics.input_margins(model, x, y, norm=norm)
    assert ((distance > radius) == (worst > 0)).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("start", [False, True])
def test_moved_points_stay_in_the_ball_and_in_the_bounds(norm: metrics.Norm, steps: int, start: bool) -> None:
    model, x, y = images()
    radius = 0.2
    moved = PGD(radius, norm, steps=steps, step_size=0.15, random_start=start, bounds=BOUNDS)(model, x, y, chunk=5)
    length = torch.linalg.vector_norm((moved - x).flatten(1), 2 if norm == "l2" else float("inf"), dim=1)
    assert (length <= radius * (1 + 1e-9)).all()
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (length > 0).all()
    assert not moved.requires_grad


def test_steps_raise_the_loss() -> None:
    model, x, y = images()

    def loss(attack: Attack) -> float:
        moved = attack(model, x, y, generator=Generator().manual_seed(0))
        return cross_entropy(model(moved), y).item()

    none, one, many = PGD(0.0), FGSM(0.3), PGD(0.3, steps=20)
    assert loss(none) < loss(one) <= loss(many)
    accuracies = [robust_accuracy(model, x, y, attack) for attack in (none, one, many)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == metrics.accuracy(model(x), y)


def test_a_very_sure_model_is_attacked_as_well() -> None:
    """In float32 the gradient of its cross-entropy is exactly zero: the probability of the label rounds to 1."""
    model, x = nn.Linear(6, 3), torch.randn(30, 6)
    with torch.no_grad():
        model.weight *= 2000
        model.bias.zero_()
    y = model(x).argmax(1)
    asked = x.clone().requires_grad_()
    gradient = torch.autograd.grad(cross_entropy(model(asked), y, reduction="sum"), asked)[0]
    assert (gradient == 0).all(1).float().mean() > 0.8
    calm = nn.Linear(6, 3)
    calm.load_state_dict({"weight": model.weight / 2000, "bias": model.bias})
    radius = 0.5
    expected = 100 * (metrics.input_margins(calm, x, y, every_class=True, norm="linf") > radius).float().mean()
    assert robust_accuracy(model, x, y, PGD(radius, steps=20)) == pytest.approx(float(expected), abs=3.4)
    assert expected < 60


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_starts_are_uniform_in_the_ball(norm: metrics.Norm) -> None:
    """Without steps that move; in 2 dimensions 1/4 +- 0.0123 (4 sigma) of 20000 are within half the radius."""
    x = torch.zeros(20_000, 2)
    attack = PGD(2.0, norm, steps=1, step_size=0.0)
    moved = attack(nn.Linear(2, 2), x, torch.zeros(20_000).long(), generator=Generator().manual_seed(0), chunk=20_000)
    length = torch.linalg.vector_norm(moved, 2 if norm == "l2" else float("inf"), dim=1)
    assert length.max() <= 2.0 * (1 + 1e-6)
    assert abs((length < 1).float().mean() - 0.25) < 0.0123
    assert (moved.mean(0).abs() < 4 * 2 / 20_000**0.5).all()


def test_gaussian_noise_has_its_deviation_and_is_clipped() -> None:
    x, y = torch.full((5000, 4), 0.5), torch.zeros(5000).long()
    model = nn.Linear(4, 2)
    moved = GaussianNoise(0.3)(model, x, y, generator=Generator().manual_seed(0))
    assert abs((moved - x).std() - 0.3) < 4 * 0.3 / (2 * 20_000) ** 0.5
    within = GaussianNoise(0.3, bounds=BOUNDS)(model, x, y, generator=Generator().manual_seed(0))
    assert torch.equal(within, moved.clamp(0, 1))
    assert (within == 0).any()


def test_noise_costs_a_linear_model_the_accuracy_of_the_normal_distribution() -> None:
    """A point of margin d from the boundary crosses it with chance Phi(-d / deviation); 1 % is 4 sigma."""
    model, x, y = two_classes()
    distance = metrics.input_margins(model, x, y)
    expected = 100 * torch.distributions.Normal(0.0, 1.0).cdf(distance / 0.7).mean()
    many = robust_accuracy(
        model, x.repeat(1000, 1), y.repeat(1000), GaussianNoise(0.7), generator=Generator().manual_seed(0), chunk=9999
    )
    assert abs(many - float(expected)) < 1


# --- foolbox ----------------------------------------------------------------------------------------------------------


def test_attacks_equal_foolbox(foolbox: Any) -> None:
    model, x, y = images()
    fooled = foolbox.PyTorchModel(model.eval(), bounds=BOUNDS)
    pairs = (
        (FGSM(0.1, bounds=BOUNDS), foolbox.attacks.LinfFastGradientAttack(), 0.1),
        (FGSM(0.7, "l2", bounds=BOUNDS), foolbox.attacks.L2FastGradientAttack(), 0.7),
        (
            PGD(0.1, steps=9, step_size=0.02, random_start=False, bounds=BOUNDS),
            foolbox.attacks.LinfProjectedGradientDescentAttack(abs_stepsize=0.02, steps=9, random_start=False),
            0.1,
        ),
        (
            PGD(0.7, "l2", steps=9, step_size=0.2, random_start=False, bounds=BOUNDS),
            foolbox.attacks.L2ProjectedGradientDescentAttack(abs_stepsize=0.2, steps=9, random_start=False),
            0.7,
        ),
    )
    for ours, theirs, radius in pairs:
        expected, _, fooling = theirs(fooled, x, y, epsilons=radius)
        torch.testing.assert_close(ours(model, x, y), expected, rtol=1e-9, atol=1e-12)
        assert robust_accuracy(model, x, y, ours) == pytest.approx(100 * (1 - fooling.double().mean().item()))


def test_robust_accuracy_from_random_starts_agrees_with_foolbox(foolbox: Any) -> None:
    """Many steps, so that the start matters little; at most 1 of 12 points may differ."""
    model, (_, x, _) = build("mlp"), images()
    y = model(x).argmax(1)
    fooled = foolbox.PyTorchModel(model.eval(), bounds=BOUNDS)
    kinds: dict[metrics.Norm, Any] = {
        "linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
        "l2": foolbox.attacks.L2ProjectedGradientDescentAttack,
    }
    found = []
    for norm, kind in kinds.items():
        radius = metrics.input_margins(model, x, y, norm=norm).median().item()
        theirs = kind(abs_stepsize=radius / 10, steps=40, random_start=True)
        _, _, fooling = theirs(fooled, x, y, epsilons=radius)
        ours = PGD(radius, norm, steps=40, step_size=radius / 10, bounds=BOUNDS)
        found.append(robust_accuracy(model, x, y, ours))
        assert abs(found[-1] - 100 * (1 - fooling.double().mean().item())) <= 100 / 12 + 1e-6
    assert all(0 < accuracy < 100 for accuracy in found)


# --- what is left alone, and what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_parameters_gradients_and_modes_are_left_alone(context: Any) -> None:
    model, x, y = images()
    model.train()
    first = next(model.parameters()).requires_grad_(False)
    last = list(model.parameters())[-1]
    last.grad = torch.ones_like(last)
    with context():
        inside = FGSM(0.1)(model, x, y)
        inside_accuracy = robust_accuracy(model, x, y, PGD(0.1, random_start=False))
    assert torch.equal(inside, FGSM(0.1)(model, x, y))
    assert inside_accuracy == robust_accuracy(model, x, y, PGD(0.1, random_start=False))
    assert not first.requires_grad
    assert torch.equal(last.grad, torch.ones_like(last))
    assert [p.grad is None for p in model.parameters()].count(False) == 1
    assert model.training
    assert not x.requires_grad


def test_a_module_is_measured_in_evaluation_mode_and_a_function_as_it_is() -> None:
    """What the pages say: a module that a function calls keeps its mode, so it is put to evaluation before."""
    modes = []
    model = nn.Linear(2, 2).train()
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    x, y = torch.randn(3, 2), torch.tensor([0, 1, 0])
    metrics.predictions(model, x)
    metrics.predictions(lambda x: model(x / 2), x)
    model.eval()
    robust_accuracy(lambda x: model(x / 2), x, y, GaussianNoise(0.1))
    assert modes == [False, True, False]


def test_seeded_attacks_repeat_and_leave_the_global_random_state_alone() -> None:
    model, x, y = images()
    state = torch.get_rng_state()
    for attack in (GaussianNoise(0.1), PGD(0.1, steps=2), PGD(0.1, "l2", steps=2)):
        a, b = (attack(model, x, y, generator=Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(a, b)
        assert not torch.equal(a, attack(model, x, y, generator=Generator().manual_seed(4)))
    assert torch.equal(torch.get_rng_state(), state)


def test_attacks_say_what_they_are() -> None:
    assert str(GaussianNoise(0.25, bounds=BOUNDS)) == "noise 0.25 in [0, 1]"
    assert str(FGSM(0.1)) == "FGSM linf 0.1"
    assert str(PGD(2, "l2", steps=7)) == "PGD l2 2 (7 steps)"


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="PGD got radius=-1"):
        PGD(-1)
    with pytest.raises(ValueError, match="PGD got steps=0; expected a whole number >= 1"):
        PGD(1, steps=0)
    with pytest.raises(ValueError, match="PGD got step_size=nan"):
        PGD(1, step_size=float("nan"))
    with pytest.raises(ValueError, match=r"GaussianNoise got deviation=-0\.1"):
        GaussianNoise(-0.1)
    for kind in (PGD, FGSM):
        with pytest.raises(ValueError, match=f"{kind.__name__} got norm='L2'; expected 'l2' or 'linf'"):
            kind(1, norm="L2")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"got bounds=\(1, 0\); expected \(lowest, highest\)"):
            kind(1, bounds=(1, 0))


def test_bad_points_labels_and_models_are_refused() -> None:
    model, x, y = images()
    with pytest.raises(
        ValueError, match=r"FGSM got points from .* outside bounds=\(0.0, 1.0\)\. .* model: model.eval\(\), then lambda"
    ):
        FGSM(0.1, bounds=BOUNDS)(model, x - 0.5, y)
    with pytest.raises(ValueError, match="PGD needs labels"):
        PGD(0.1)(model, x, None)
    with pytest.raises(TypeError, match=r"x has dtype torch\.int64"):
        FGSM(0.1)(model, x.long(), y)
    with pytest.raises(ValueError, match="no gradient flows back"):
        FGSM(0.1)(lambda x: model(x).detach(), x, y)
    with pytest.raises(ValueError, match="no gradient flows back"):
        FGSM(0.1)(lambda x: model(x.detach()), x, y)
    with pytest.raises(ValueError, match=r"attacks got outputs of shape \(12, 1, 8, 8\); expected class scores"):
        FGSM(0.1)(lambda x: x, x, y)
    with pytest.raises(TypeError, match=r"attack got the class FGSM; write an instance: attack=FGSM\(\.\.\.\)"):
        robust_accuracy(model, x, y, FGSM)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="robust_accuracy needs labels"):
        robust_accuracy(model, x, None, FGSM(0.1))  # type: ignore[arg-type]
