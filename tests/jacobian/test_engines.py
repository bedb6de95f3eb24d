"""Engines against each other, and finite differences by their order of convergence."""

import math

import pytest
import torch
from models_for_tests import Residual, batch, build, mlp, parameter_gradient
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr

STEPS = (0.16, 0.08, 0.04, 0.02)


def generator() -> Generator:
    return Generator().manual_seed(3)


def slope(errors: list[float]) -> float:
    """Of log error against log step, by least squares."""
    x = torch.tensor(STEPS, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize(("central", "order"), [(True, 2), (False, 1)])
def test_finite_difference_converges_with_its_order_on_a_smooth_net(central: bool, order: int, side: str) -> None:
    model, (x, _) = build("softplus"), batch()
    projection = gr.Normal(side="input") if side == "input" else gr.Normal()

    def penalty(engine: gr.Engine) -> Tensor:
        return gr.JacobianPenalty(1.0, projection=projection, engine=engine)(model, x, generator=generator())

    exact = penalty(gr.DoubleBackward())
    exact_gradient = parameter_gradient(exact, model)
    values, gradients = [], []
    for step in STEPS:
        found = penalty(gr.FiniteDifference(step, central=central))
        values.append(abs(found - exact).item())
        gradients.append((parameter_gradient(found, model) - exact_gradient).norm().item())
    assert abs(slope(values) - order) <= 0.2
    assert abs(slope(gradients) - order) <= 0.2


def test_finite_difference_at_kinks_has_the_value_but_not_the_parameter_gradient() -> None:
    """What docs/engines.md says of ReLU nets, held by a measurement: a smaller step does not mend the gradient."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10)).double()
    x = torch.randn(50, 1, 8, 8, dtype=torch.float64)

    def penalty(engine: gr.Engine) -> Tensor:
        return gr.SpectReg(1.0, engine=engine)(model, x, generator=generator())

    exact = penalty(gr.DoubleBackward())
    exact_gradient = parameter_gradient(exact, model)
    for step in (0.1, 0.01):
        found = penalty(gr.FiniteDifference(step))
        error = (parameter_gradient(found, model) - exact_gradient).norm() / exact_gradient.norm()
        assert abs(found / exact - 1) < 0.05
        assert error > 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_default_step_suits_the_dtype(dtype: torch.dtype) -> None:
    """Central differences leave an error of eps^(2/3); the bound gives it a factor of 100."""
    model, x = build("softplus").to(dtype), batch()[0].to(dtype)
    exact = gr.SpectReg(1.0)(model, x, generator=generator())
    found = gr.SpectReg(1.0, engine=gr.FiniteDifference(central=True))(model, x, generator=generator())
    a, b = parameter_gradient(exact, model), parameter_gradient(found, model)
    assert (a - b).norm() / a.norm() < 100 * torch.finfo(dtype).eps ** (2 / 3)


@pytest.mark.parametrize("engine", [gr.ForwardMode(), gr.FiniteDifference(1e-3)], ids=["forward", "difference"])
def test_engines_that_run_the_model_again_share_its_dropout_mask(engine: gr.Engine) -> None:
    """With a mask of its own the second pass would add noise of order 1/step; here the net is linear per mask."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 4)).double()
    x = batch()[0]

    def penalty(engine: gr.Engine) -> Tensor:
        torch.manual_seed(9)
        return gr.SpectReg(1.0, engine=engine)(model, x, generator=generator())

    exact, found = penalty(gr.DoubleBackward()), penalty(engine)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=0)
    a, b = parameter_gradient(exact, model), parameter_gradient(found, model)
    assert (a - b).norm() <= 1e-8 * a.norm()


def test_engines_that_run_the_model_again_leave_dropouts_random_state_as_one_pass_does() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 4)).double()
    x = batch()[0]
    torch.manual_seed(9)
    model(x)
    expected = torch.get_rng_state()
    for engine in (gr.ForwardMode(), gr.FiniteDifference(central=True)):
        torch.manual_seed(9)
        gr.SpectReg(1.0, engine=engine)(model, x, generator=generator()).backward()
        assert torch.equal(torch.get_rng_state(), expected)


def training_batchnorm() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    return Residual(nn.BatchNorm2d).double().train(), *batch(8)


def test_batch_statistics_are_shared_by_both_passes_and_running_averages_move_once() -> None:
    """ForwardMode and FiniteDifference hold the statistics fixed, so they agree with each other to their order."""
    model, x, _ = training_batchnorm()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model(x)
    once = {name: tensor.clone() for name, tensor in model.named_buffers()}
    found = []
    for engine in (gr.ForwardMode(), gr.FiniteDifference(1e-5, central=True)):
        model.load_state_dict({**model.state_dict(), **before})
        value = gr.SpectReg(1.0, engine=engine)(model, x, generator=generator())
        for name, tensor in model.named_buffers():
            torch.testing.assert_close(tensor, once[name], msg=name)
        found.append((value, parameter_gradient(value, model)))
    (a, gradient_a), (b, gradient_b) = found
    torch.testing.assert_close(a, b, rtol=1e-6, atol=0)
    assert (gradient_a - gradient_b).norm() <= 1e-6 * gradient_a.norm()


def test_fixed_statistics_equal_a_frozen_layer_with_the_same_statistics() -> None:
    """Against truth: the same net in evaluation mode whose running averages are this batch's statistics."""
    model, x, _ = training_batchnorm()
    value = gr.SpectReg(1.0, engine=gr.ForwardMode())(model, x, generator=generator())
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    model(x)
    count = x[:, 0].numel()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_var is not None
            layer.running_var *= (count - 1) / count  # torch keeps the unbiased variance
    model.eval()
    frozen = gr.SpectReg(1.0)(model, x, generator=generator())
    torch.testing.assert_close(value, frozen, rtol=1e-9, atol=0)


def test_double_backward_differentiates_through_the_batch_statistics() -> None:
    """As the paper's code: row i is the gradient of the whole batch's sum, written out with autograd."""
    model, x, y = training_batchnorm()
    leaf = x.clone().requires_grad_()
    losses = cross_entropy(model(leaf), y, reduction="none")
    expected = torch.autograd.grad(losses.sum(), leaf)[0].flatten(1).square().sum(1).mean()
    torch.testing.assert_close(gr.DoubleBack(1.0)(model, x, y).detach(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("magnitude", [gr.L1(), gr.TargetNorm(0.05), gr.DistanceToGradients(lambda x, y: 0.01 * x)])
def test_finite_difference_serves_every_magnitude(magnitude: gr.Magnitude) -> None:
    model, (x, y) = build("softplus"), batch()

    def penalty(engine: gr.Engine) -> Tensor:
        return gr.JacobianPenalty(1.0, target=gr.Loss(cross_entropy), engine=engine, magnitude=magnitude)(model, x, y)

    exact, found = penalty(gr.DoubleBackward()), penalty(gr.FiniteDifference(1e-4, central=True))
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)
    a, b = parameter_gradient(exact, model), parameter_gradient(found, model)
    assert (a - b).norm() <= 1e-5 * a.norm()


@pytest.mark.parametrize("engine", [gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference()], ids=repr)
def test_a_gradient_of_zero_gives_a_penalty_of_zero_and_no_nan(engine: gr.Engine) -> None:
    model = mlp().double()
    with torch.no_grad():
        model[1].weight.zero_()  # type: ignore[index]
    value = gr.SpectReg(1.0, engine=engine)(model, batch()[0], generator=generator())
    assert value.item() == 0
    assert torch.isfinite(parameter_gradient(value, model)).all()


def test_a_hidden_site_that_the_model_calls_twice_is_the_sum_over_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(torch.tanh(self.shared(torch.tanh(self.first(x)))))

    model, x = Twice().double(), torch.randn(3, 4, dtype=torch.float64)
    first = model.shared(torch.tanh(model.first(x)))
    inner = torch.func.vmap(torch.func.jacrev(lambda a: model.shared(torch.tanh(a))))(first)
    outer = torch.eye(4, dtype=torch.float64).expand_as(inner)
    expected = (inner.square().sum((1, 2)) + outer.square().sum((1, 2))).mean()
    for engine in (gr.DoubleBackward(), gr.ForwardMode()):
        penalty = gr.FrobReg(1.0, site=gr.Hidden("shared"), engine=engine)
        torch.testing.assert_close(penalty(model, x), expected, rtol=1e-9, atol=0)


def test_an_in_place_operation_behind_a_hidden_site_does_not_change_it() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    active = (model[0](x) > 0).double()
    expected = torch.einsum("om,bm->bom", model[2].weight, active).square().sum((1, 2)).mean()
    for engine in (gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference(1e-6)):
        found = gr.FrobReg(1.0, site=gr.Hidden("0"), engine=engine)(model, x)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_norms_are_accumulated_in_float32_where_half_precision_would_overflow() -> None:
    """Squares of 300 are beyond float16's 65504, those of 1e-5 below its 6e-8."""
    for entry in (300.0, 1e-5):
        layer = nn.Linear(4, 3, bias=False).half()
        nn.init.constant_(layer.weight, entry)
        value = gr.FrobReg(1.0)(layer, torch.ones(2, 4).half())
        assert value.dtype == torch.float32
        assert math.isclose(value.item(), 12 * entry**2, rel_tol=0.01)


def test_autocast_gives_the_penalty_to_its_precision() -> None:
    model, x = build("softplus").float(), batch()[0].float()
    exact = gr.FrobReg(1.0)(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = gr.FrobReg(1.0)(model, x)
        coarse = gr.FrobReg(1.0, engine=gr.FiniteDifference(central=True))(model, x)
    assert found.dtype == torch.float32
    assert math.isclose(found.item(), exact.item(), rel_tol=0.05)
    assert math.isclose(coarse.item(), exact.item(), rel_tol=0.2)  # a step for float32 would leave rounding alone
