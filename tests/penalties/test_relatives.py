"""The relatives against direct formulas, written out on the dense Jacobian in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hard_models_for_tests import Distances
from models_for_tests import batch, build, parameter_gradient
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr


def generator() -> Generator:
    return Generator().manual_seed(3)


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(model(x), y, reduction="none")


def loss_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each example's loss, (B, n), with its graph."""
    return gr.dense.jacobian(model, x, y, target=gr.Loss(cross_entropy), create_graph=True).flatten(1)


def l1(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return loss_gradient(model, x, y).abs().sum(1).mean()


def datagrad_l1(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    moved = x + 0.1 * loss_gradient(model, x, y).detach().sign().reshape(x.shape)
    return ((losses(model, moved, y) - losses(model, x, y)) / 0.1).abs().mean()


def along_gradient(step: float) -> Callable[..., Tensor]:
    def direct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        g = loss_gradient(model, x, y).detach()
        moved = x + step * (g / g.norm(dim=1, keepdim=True)).reshape(x.shape)
        return ((losses(model, moved, y) - losses(model, x, y)) / step).square().mean()

    return direct


def summed_log_probabilities(mask: Tensor | None = None) -> Callable[..., Tensor]:
    def direct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        jacobian = gr.dense.jacobian(model, x, target=gr.LogProbabilities(), create_graph=True)
        g = jacobian.sum(1).reshape(x.shape)
        return (g if mask is None else g * mask).square().flatten(1).sum(1).mean()

    return direct


def difference_to_teacher(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    g = gr.dense.jacobian(teacher(), x)
    return (gr.dense.jacobian(model, x, create_graph=True) - g).square().sum((1, 2)).mean()


def difference_to_teacher_along_rows(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    difference = gr.dense.jacobian(model, x, create_graph=True) - gr.dense.jacobian(teacher(), x)
    rows = torch.randn(len(x), difference.shape[1], generator=generator(), dtype=x.dtype)
    return torch.einsum("bm,bmn->bn", rows, difference).square().sum(1).mean()


def teacher() -> nn.Module:
    return build("softplus").eval()


def between(model: nn.Module, x: Tensor, y: Tensor, *, one_sided: bool = False) -> Tensor:
    """WGAN-GP with the first output as the critic, from the same draws."""
    g = generator()
    order = torch.randn(len(x), generator=g, dtype=x.dtype).argsort()
    e = torch.distributions.Normal(0.0, 1.0).cdf(torch.randn(len(x), generator=g, dtype=x.dtype))
    e = e.reshape(-1, 1, 1, 1)
    points = e * x + (1 - e) * x[order]
    norms = gr.dense.jacobian(model, points, target=lambda z: z[:, 0], create_graph=True).flatten(1).norm(dim=1)
    distance = norms - 0.2
    return (distance.clamp(min=0) if one_sided else distance).square().mean()


MASK = (torch.arange(64).reshape(1, 8, 8) % 3 == 0).double()
CASES: dict[str, tuple[gr.Penalty, Callable[..., Tensor]]] = {
    "L1DoubleBack": (gr.L1DoubleBack(0.7), l1),
    "DataGrad": (gr.DataGrad(0.7, step=0.1), datagrad_l1),
    "DataGrad l2": (gr.DataGrad(0.7, norm="l2", step=0.3), along_gradient(0.3)),
    "ScaleableDoubleBack": (gr.ScaleableDoubleBack(0.7, step=0.5), along_gradient(0.5)),
    "RightReasons": (gr.RightReasons(0.7), summed_log_probabilities()),
    "RightReasons masked": (gr.RightReasons(0.7, mask=MASK), summed_log_probabilities(MASK)),
    "RightReasons masked by a function": (
        gr.RightReasons(0.7, mask=lambda x, y: MASK.expand(x.shape)),
        summed_log_probabilities(MASK),
    ),
    "RightReasons masked, forward mode": (
        gr.RightReasons(0.7, mask=MASK, engine=gr.ForwardMode()),
        summed_log_probabilities(MASK),
    ),
    "Sobolev": (gr.Sobolev(0.7, teacher=teacher()), difference_to_teacher),
    "Sobolev by a normal row": (
        gr.Sobolev(0.7, teacher=teacher(), projection=gr.Normal()),
        difference_to_teacher_along_rows,
    ),
    "Sobolev by forward mode": (
        gr.Sobolev(0.7, teacher=teacher(), projection=gr.Normal(), engine=gr.ForwardMode()),
        difference_to_teacher_along_rows,
    ),
    "Sobolev of an oracle": (
        gr.Sobolev(0.7, oracle=lambda x, y: gr.dense.jacobian(teacher(), x).reshape(len(x), 4, 1, 8, 8)),
        difference_to_teacher,
    ),
    "GradientPenalty": (gr.GradientPenalty(0.7, norm=0.2, target=lambda z: z[:, 0]), between),
    "GradientPenalty one-sided": (
        gr.GradientPenalty(0.7, norm=0.2, one_sided=True, target=lambda z: z[:, 0]),
        lambda model, x, y: between(model, x, y, one_sided=True),
    ),
    "GradientPenalty by forward mode": (
        gr.GradientPenalty(0.7, norm=0.2, target=lambda z: z[:, 0], engine=gr.ForwardMode()),
        between,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_relative_equals_its_formula(case: str) -> None:
    penalty, direct = CASES[case]
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    x, y = batch(5)
    found, expected = penalty(model, x, y, generator=generator()), 0.7 * direct(model, x, y)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    a, b = parameter_gradient(found, model), parameter_gradient(expected, model)
    assert b.norm() > 0
    assert (a - b).norm() <= 1e-8 * b.norm()


def test_uniform_share_of_a_gradient_penalty_is_uniform() -> None:
    """Of 20000 draws, against the uniform distribution: the Kolmogorov-Smirnov distance at p = 0.001 is 0.0138."""
    seen: list[Tensor] = []

    def critic(points: Tensor) -> Tensor:
        seen.append(points.detach())
        return points.square()

    x = torch.ones(20000, 1)
    gr.GradientPenalty(1.0, others=torch.zeros_like)(critic, x, generator=generator())
    share = seen[-1].flatten().sort().values
    assert (share - torch.linspace(0, 1, 20000)).abs().max() < 0.0138


def test_gradient_penalty_takes_the_generated_examples_of_a_gan() -> None:
    torch.manual_seed(0)
    critic, real, generated = nn.Linear(8, 1), torch.randn(4, 8), torch.randn(4, 8)
    found = gr.GradientPenalty(10, others=lambda x: generated)(critic, real)
    torch.testing.assert_close(found, 10 * (critic.weight.norm() - 1) ** 2)


def test_gradient_penalty_within_an_objective_leaves_the_task_alone() -> None:
    model, (x, y) = build("softplus"), batch()
    alone = gr.Objective(cross_entropy)(model, x, y)
    result = gr.Objective(cross_entropy, gr.GradientPenalty(0.3, projection=gr.TopK()))(model, x, y)
    assert torch.equal(result.task, alone.task)
    assert result.terms["gradientpenalty"] > 0


def test_sobolev_needs_one_pass_of_the_teacher_however_many_outputs_there_are() -> None:
    calls = []
    known = nn.Linear(8, 50)

    def counted(x: Tensor) -> Tensor:
        calls.append(x)
        return known(x)

    model, x = nn.Linear(8, 50), torch.randn(4, 8)
    gr.Sobolev(1.0, teacher=counted, projection=gr.Sphere())(model, x).backward()
    assert len(calls) == 1
    assert known.weight.grad is None  # the teacher learns nothing
    assert model.weight.grad is not None


def test_datagrad_steps_by_p_in_each_entry_that_the_model_looks_at() -> None:
    """Where the others have no gradient they have no sign either."""
    torch.manual_seed(5)
    layer = nn.Linear(2, 4).double()
    x, y = torch.randn(5, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])

    def model(x: Tensor) -> Tensor:
        return layer(x[:, :2])

    found = gr.DataGrad(1.0, step=0.5)(model, x, y)
    g = torch.autograd.grad(cross_entropy(model(x.requires_grad_()), y, reduction="sum"), x)[0]
    moved = cross_entropy(model(x + 0.5 * g.sign()), y, reduction="none")
    expected = ((moved - cross_entropy(model(x), y, reduction="none")) / 0.5).abs().mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert "engine=FiniteDifference(0.5 in each entry)" in repr(gr.DataGrad(1.0, step=0.5))
    explained = gr.DataGrad(1.0).engine.explain(NotImplementedError("derivative for aten::zeta is not implemented"))
    assert "which engine=FiniteDifference() needs" in str(explained)


def two_layers(hidden: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(8, hidden), nn.Tanh(), nn.Linear(hidden, 3)).double()


def test_sobolev_takes_the_teacher_at_the_penalty_s_site() -> None:
    torch.manual_seed(5)
    model, known, x = two_layers(), two_layers().eval(), torch.randn(4, 8, dtype=torch.float64)
    found = gr.Sobolev(1.0, teacher=known, site=gr.Hidden("1"))(model, x)
    torch.testing.assert_close(found, (model[2].weight - known[2].weight).square().sum())  # type: ignore[index]
    penalty = gr.JacobianPenalty(1.0, site=gr.Hidden("1"), magnitude=gr.DistanceToTeacher(two_layers(8).eval()))
    with pytest.raises(ValueError, match=r"with respect to Input\(\), .*to Hidden\('1'\); expected the same"):
        penalty(two_layers(8), x)


def test_a_teacher_without_a_second_derivative_is_told_from_the_model() -> None:
    known = nn.Sequential(nn.Linear(6, 6), Distances()).eval()
    model, x = nn.Linear(6, 36), torch.randn(4, 6)
    gr.Sobolev(1.0, teacher=known, projection=gr.Sphere())(model, x)
    for engine in (gr.DoubleBackward(), gr.ForwardMode()):
        with pytest.raises(gr.UnsupportedOperationError, match=r"^the teacher has no second derivative.*Sphere\(\)"):
            gr.Sobolev(1.0, teacher=known, projection=gr.Sphere(side="input"), engine=engine)(model, x)


def test_masked_measure_by_finite_differences_is_close_on_a_smooth_net() -> None:
    model, (x, y) = build("softplus"), batch()
    exact = gr.RightReasons(1.0, mask=MASK)(model, x, y)
    found = gr.RightReasons(1.0, mask=MASK, engine=gr.FiniteDifference(1e-4, central=True))(model, x, y)
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: gr.DataGrad(1.0, norm="linf"), "DataGrad got norm='linf'; expected 'l1' or 'l2'"),  # type: ignore[arg-type]
        (lambda: gr.DataGrad(1.0, step=0), "got step=0; write a distance > 0"),
        (
            lambda: gr.DataGrad(1.0, engine="auto"),
            r"^DataGrad got engine='auto', but it is a finite difference.*write gr\.DoubleBack\(",
        ),
        (lambda: gr.ScaleableDoubleBack(1.0, engine=gr.ForwardMode()), r"^ScaleableDoubleBack got engine=ForwardMode"),
        (lambda: gr.Sobolev(1.0), r"write gr.Sobolev\(0.1, teacher=model\)"),
        (
            lambda: gr.GradientPenalty(1.0, projection=gr.TrueClass()),
            r"GradientPenalty got TrueClass\(\), which needs labels, but points between examples have none",
        ),
        (
            lambda: gr.Sobolev(1.0, teacher=nn.Linear(8, 3))(nn.Linear(8, 3), torch.ones(2, 8)),
            r"got a teacher in training mode.*Write teacher.eval\(\)",
        ),
        (
            lambda: gr.Sobolev(1.0, teacher=nn.Linear(8, 2).eval())(nn.Linear(8, 3), torch.ones(2, 8)),
            r"a teacher with outputs of shape \(2, 2\).*for a model with \(2, 3\)",
        ),
        (
            lambda: gr.GradientPenalty(1.0)(nn.Embedding(3, 2), torch.zeros(2, 4, dtype=torch.int64)),
            r"x has dtype torch.int64; gradients need floating-point.*there is nothing between token ids: pass",
        ),
        (
            lambda: gr.GradientPenalty(1.0, others=lambda x: x[:1])(nn.Linear(8, 1), torch.ones(2, 8)),
            r"other ends of shape \(1, 8\) for inputs of shape \(2, 8\); expected the same",
        ),
        (lambda: gr.GradientPenalty(1.0).of(torch.ones(2, 3), torch.ones(2, 8)), "needs the model itself"),
        (lambda: gr.GradientPenalty(1.0)(lambda x: 0, "words"), "got inputs of type str; expected tensors"),
        (
            lambda: gr.RightReasons(1.0, mask=torch.ones(3))(nn.Linear(8, 3), torch.ones(2, 8)),
            r"Masked got a mask of shape \(3,\) for inputs of shape \(2, 8\); expected \(8,\), one for all examples",
        ),
        (
            lambda: gr.JacobianPenalty(1.0, magnitude=gr.Masked(torch.ones(1)), projection=gr.Normal(side="input"))(
                nn.Linear(8, 3), torch.ones(2, 8)
            ),
            "gave columns of the Jacobian. Use a projection on the output side",
        ),
        (
            lambda: gr.JacobianPenalty(1.0, magnitude=gr.Masked(torch.ones(1)), projection=gr.Normal())(
                lambda x: x[0] + x[1], (torch.ones(2, 8), torch.ones(2, 8))
            ),
            "Masked needs a site of one tensor, got 2",
        ),
    ],
)
def test_wrong_use_is_answered_with_what_to_write(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises((ValueError, TypeError), match=expected):
        make()
