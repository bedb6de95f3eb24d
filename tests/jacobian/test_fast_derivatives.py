"""Exchanged operations against torch's own: values, first, second and third derivatives, in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradreg as gr
from gradreg.jacobian._fast_modes import FastDerivatives, Phase, is_private, mark_private, suits

Make = Callable[[], nn.Module]
MODELS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (5, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), (5, 4, 7, 8)),
    "conv2d without bias": (lambda: nn.Conv2d(2, 3, 3, bias=False), (5, 2, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (4, 2, 3, 4, 3)),
    "same padding": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (4, 2, 5, 5)),
    "batch norm": (lambda: nn.BatchNorm2d(3), (5, 3, 4, 4)),
    "batch norm of vectors": (lambda: nn.BatchNorm1d(3), (6, 3)),
    "batch norm without scale": (lambda: nn.BatchNorm2d(3, affine=False), (5, 3, 4, 4)),
    "batch norm without memory": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (5, 3, 4)),
    "batch norm in eval": (lambda: nn.BatchNorm2d(3).eval(), (5, 3, 4, 4)),
    "linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "linear of sequences": (lambda: nn.Linear(4, 3, bias=False), (5, 2, 4)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model, torch.randn(shape, dtype=torch.float64)


def normalized(layer: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """Batch normalization by simple operations."""
    over, shape = [d for d in range(x.ndim) if d != 1], [1, -1, *[1] * (x.ndim - 2)]
    if layer.training or layer.running_mean is None or layer.running_var is None:
        variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    else:
        variance, mean = layer.running_var.view(shape), layer.running_mean.view(shape)
    y = (x - mean) * torch.rsqrt(variance + layer.eps)
    return y * layer.weight.view(shape) + layer.bias.view(shape) if layer.affine else y


def penalty_gradients(model: nn.Module, x: Tensor, *, exchanged: bool, private: bool) -> list[Tensor]:
    """Value, parameter gradients of ``||J^T w||^2 + sum(z^3)``, and of a function of those gradients."""
    phase = Phase()
    leaf = x.clone().requires_grad_()
    given = leaf.clone()
    if private:
        mark_private(given)
    run = lambda: model(given).sin()
    if exchanged:
        with FastDerivatives(phase):
            z = run()
    elif isinstance(model, nn.modules.batchnorm._BatchNorm):
        # torch's third derivative of batch normalization in x is wrong: it holds the saved statistics fixed.
        z = normalized(model, given).sin()
    else:
        z = run()
    w = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(1))
    with phase.of_rows():
        (row,) = torch.autograd.grad(z, leaf, w, create_graph=True)
    total = row.square().sum() + z.pow(3).sum()
    wanted = [*model.parameters()] if private else [leaf, *model.parameters()]
    if not wanted:
        return [total]
    first = torch.autograd.grad(total, wanted, create_graph=True)
    third = torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), wanted)
    return [total, *first, *third]


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_exchanged_operations_equal_torchs_to_the_third_derivative(name: str, private: bool) -> None:
    model, x = made(name)
    expected = penalty_gradients(model, x, exchanged=False, private=private)
    found = penalty_gradients(model, x, exchanged=True, private=private)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["conv2d", "batch norm", "linear"])
def test_without_a_third_derivative_the_gradients_are_the_same(name: str) -> None:
    """The pass that training takes: no graph is made, so the hand-written formulas run."""
    model, x = made(name)
    x = x.clone()
    generator = torch.Generator().manual_seed(2)
    objective = gr.Objective(lambda z, y: z.pow(3).mean(), gr.SpectReg(1.0))
    objective(lambda v: model(v).sin(), x, None, generator=generator).total.backward()
    found = [p.grad for p in model.parameters()]
    leaf = x.clone().requires_grad_()
    z = model(leaf).sin()
    w = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(2))
    (row,) = torch.autograd.grad(z, leaf, w, create_graph=True)
    total = z.pow(3).mean() + row.flatten(1).square().sum(1).mean()
    expected = torch.autograd.grad(total, list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert a is not None
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_running_statistics_move_as_torchs() -> None:
    model, x = made("batch norm")
    other, _ = made("batch norm")
    with FastDerivatives(Phase()):
        model(x.requires_grad_())
    other(x)
    torch.testing.assert_close(model.state_dict(), other.state_dict())


def test_an_input_of_the_callers_graph_still_gets_its_gradient() -> None:
    """Only inputs that the forward pass made variables itself are left out of the last backward pass."""
    model, x = made("conv2d")
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    gr.SpectReg(1.0)(lambda v: model(v).sin(), x * scale).backward()
    assert scale.grad is not None
    assert scale.grad != 0


def test_a_model_that_differentiates_within_its_forward_pass_is_served() -> None:
    """Forces are derivatives of an energy with respect to the input: nothing may be left out while the model runs."""

    class Forces(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            energy = self.layer(x).sin().sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0].flatten(1)

    for name in ("conv2d", "linear"):
        layer, x = made(name)
        found = gr.SpectReg(1.0)(Forces(layer), x, generator=torch.Generator().manual_seed(3))
        leaf = x.clone().requires_grad_()
        z = Forces(layer)(leaf)
        w = torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(3))
        (row,) = torch.autograd.grad(z, leaf, w, create_graph=True)
        expected = row.flatten(1).square().sum(1).mean()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
        weight = layer.get_parameter("weight")
        for a, b in zip(*(torch.autograd.grad(v, weight) for v in (found, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_views_of_an_input_are_known_as_such_and_what_is_computed_is_not() -> None:
    x = torch.randn(2, 3, 4, requires_grad=True).clone()
    mark_private(x)
    with FastDerivatives(Phase()):
        assert is_private(x.flatten(1))
        assert is_private(x.transpose(1, 2).reshape(2, 12))
        assert not is_private(x + 1)
        assert not is_private(F.relu(x))


def test_autocast_gives_what_torchs_operations_give() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)), torch.randn(5, 1, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        with FastDerivatives(Phase()):
            found = model(x.requires_grad_())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)


def test_compiled_models_keep_their_own_operations() -> None:
    model = nn.Linear(2, 2)
    assert suits(model)
    assert suits(lambda x: x)
    model.compile(backend="eager")
    assert not suits(nn.Sequential(model))
    assert not suits(torch.compile(nn.Linear(2, 2), backend="eager"))


def test_weights_that_are_computed_and_autocast_are_served() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)).double(), torch.randn(5, 1, 4, 4)
    expected = gr.FrobReg(1.0)(model, x.double())
    nn.utils.parametrizations.weight_norm(model[0])
    found = gr.FrobReg(1.0)(model, x.double())
    torch.testing.assert_close(found, expected)
    found.backward()
    with torch.autocast("cpu", torch.bfloat16):
        low = gr.FrobReg(1.0)(model.float(), x)
    torch.testing.assert_close(low, expected.float(), rtol=0.05, atol=0)
