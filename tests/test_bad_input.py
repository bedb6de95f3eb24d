"""Bad input: each error says what arrived, what was expected and what to write instead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import gradreg as gr


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def x() -> Tensor:
    return torch.randn(4, 3, 4)


def y() -> Tensor:
    return torch.tensor([0, 1, 2, 0])


def inference_tensor() -> Tensor:
    with torch.inference_mode():
        return x()


class Once(torch.autograd.Function):
    """An operation whose backward refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * g


class WithOnce(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(Once.apply(torch.tanh(x.flatten(1))))  # type: ignore[arg-type]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])).mean((1, 2))


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.Parameter(torch.zeros(len(x), 2)) * 1


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("0", nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Transposes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.T


def spect(**slots: Any) -> gr.Penalty:
    return gr.SpectReg(0.1, **slots)


def objective(loss: Any = cross_entropy, penalty: gr.Penalty | None = None) -> gr.Objective:
    return gr.Objective(loss, penalty or spect())


def pen(**slots: Any) -> gr.Penalty:
    return gr.JacobianPenalty(0.1, **slots)


# What is done, the kind of error, and what its message holds, in this order.
CASES: dict[str, tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = {
    "output independent of the input": (
        lambda: spect()(lambda x: nn.Parameter(torch.ones(4, 3)) * 2, x()),
        ValueError,
        ("target does not depend on the input", "Look in the model for .detach()", "x.requires_grad_()"),
    ),
    "input detached in the model": (
        lambda: objective()(lambda x: net()(x.detach()), x(), y()),
        ValueError,
        ("target does not depend on the input", ".detach()"),
    ),
    "hidden activation that the output does not use": (
        lambda: spect(site=gr.Hidden("1"))(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), Zero()), x()),
        ValueError,
        ("target does not depend on the activations of '1'",),
    ),
    "integer inputs": (
        lambda: objective()(net(), x().long(), y()),
        TypeError,
        ("x has dtype torch.int64", "floating-point", "x.float() / 255", 'site=gr.Hidden("embedding")'),
    ),
    "boolean entry of a tree, named": (
        lambda: spect(site=gr.Input("mask"))(lambda t: net()(t["x"]), {"x": x(), "mask": x() > 0}),
        TypeError,
        ("x['mask'] has dtype torch.bool", "floating-point"),
    ),
    "complex inputs": (
        lambda: spect()(net(), x() + 1j),
        TypeError,
        ("x has dtype torch.complex64", "real inputs", "torch.view_as_real(x)"),
    ),
    "an array in place of a tensor": (
        lambda: spect()(net(), x().numpy()),
        TypeError,
        ("the input is ndarray and holds no tensor", "torch.as_tensor(x)"),
    ),
    "inference tensor": (
        lambda: spect()(net(), inference_tensor()),
        ValueError,
        ("x is an inference tensor", "torch.no_grad instead", "x.clone()"),
    ),
    "inference tensor that no site needs": (
        lambda: spect(site=gr.Input("x"))(lambda t: net()(t["x"]), {"x": x(), "other": inference_tensor()}),
        ValueError,
        ("x['other'] is an inference tensor", "torch.no_grad instead"),
    ),
    "inference labels": (
        lambda: objective()(net(), x(), inference_tensor()[:, :, 0]),
        ValueError,
        ("y is an inference tensor", "torch.no_grad instead", "y.clone()"),
    ),
    "inputs of another batch size": (
        lambda: spect()(lambda t: net()(t["x"]) * t["scale"], {"x": x(), "scale": torch.ones(1, 3)}),
        ValueError,
        ("x['scale'] has shape (1, 3), but the batch has 4 examples", "site=gr.Input('x')"),
    ),
    "a name where there is one tensor": (
        lambda: spect(site=gr.Input("image"))(net(), x()),
        ValueError,
        ("site=Input('image') names tensors of a tree", "the input is one tensor", "gr.Input()"),
    ),
    "a name twice": (lambda: gr.Hidden("a", "b", "a"), ValueError, ("Hidden got 'a' 2 times", "count it so often")),
    "one submodule by two names": (
        lambda: spect(site=gr.Hidden("0", "1"))(nn.Sequential(layer := nn.Linear(4, 4), layer), x()),
        ValueError,
        ("'0' and '1' are one submodule", "write one of them"),
    ),
    "of with a hidden site": (
        lambda: spect(site=gr.Hidden("1")).of(net()(a := x().requires_grad_()), a),
        ValueError,
        ("cannot find the activations of '1'", "penalty(model, x)", "penalty.of(outputs, activations)"),
    ),
    "of without tensors": (lambda: spect().of(net()(x()), None), TypeError, ("NoneType and holds no tensor",)),
    "a sum of nothing": (lambda: gr.PenaltySum([]), ValueError, ("a list of one penalty or more",)),
    "a loss by its name": (
        lambda: gr.DoubleBack(1.0, loss="cross_entropy"),  # type: ignore[arg-type]
        TypeError,
        ("Loss got 'cross_entropy'", "expected a function loss(outputs, y)"),
    ),
    "labels in a list": (
        lambda: pen(projection=gr.LossDirection())(net(), x(), [0, 1, 2, 0]),
        TypeError,
        ("LossDirection got labels of type list", "torch.as_tensor(y)"),
    ),
    "sequences whose loss takes the wrong dimension": (
        lambda: gr.DoubleBack(1.0)(nn.Linear(4, 5), x(), torch.zeros(4, 3).long()),
        ValueError,
        ("outputs of shape (4, 3, 5)", "labels of shape (4, 3)", "cross_entropy(z.movedim(2, 1), y)"),
    ),
    "tangents at several tensors": (
        lambda: pen(projection=gr.Tangents(x()[None]))(nn.Bilinear(4, 4, 3), gr.Args(x(), x())),
        ValueError,
        ("Tangents needs a site of one tensor, got 2", "site=gr.Input('image')"),
    ),
    "gradients at several tensors": (
        lambda: pen(magnitude=gr.DistanceToGradients(lambda x, y: y))(nn.Bilinear(4, 4, 3), gr.Args(x(), x()), x()),
        ValueError,
        ("DistanceToGradients needs a site of one tensor, got 2",),
    ),
    "the oracle at two submodules": (
        lambda: gr.dense.jacobian(net(), x(), site=gr.Hidden("0", "1")),
        ValueError,
        ("dense.jacobian got site=Hidden('0', '1')", "gr.Hidden with one name"),
    ),
    "a batch of 0": (
        lambda: objective()(net(), x()[:0], y()[:0]),
        ValueError,
        ("x has shape (0, 3, 4)", "batch of 0 examples", "drop_last=True"),
    ),
    "a number in place of a batch": (
        lambda: spect()(lambda x: x[None] ** 2, torch.tensor(1.0)),
        ValueError,
        ("x is a single number", "(B, ...)", "x[None]"),
    ),
    "NaN weight": (
        lambda: gr.SpectReg(float("nan")),
        ValueError,
        ("SpectReg got weight=nan", "finite number >= 0", "SpectReg(0.03)"),
    ),
    "infinite weight": (lambda: gr.DoubleBack(float("inf")), ValueError, ("weight=inf", "finite number >= 0")),
    "negative weight": (
        lambda: gr.FrobReg(-1),
        ValueError,
        ("FrobReg got weight=-1", "reward steep functions", "Write a number >= 0"),
    ),
    "negative factor": (lambda: -1 * gr.FrobReg(0.1), ValueError, ("FrobReg got weight=-0.1",)),
    "weight that is no number": (
        lambda: gr.JacReg("0.1"),  # type: ignore[arg-type]
        TypeError,
        ("JacReg got weight='0.1' of type str", "expected a number"),
    ),
    "unknown submodule, a near miss": (
        lambda: spect(site=gr.Hidden("layer"))(Wrapped(), x()),
        ValueError,
        ("no submodule named 'layer'", "did you mean 'layers'", "model.named_modules()"),
    ),
    "unknown submodule": (
        lambda: spect(site=gr.Hidden("embedding"))(net(), x()),
        ValueError,
        ("no submodule named 'embedding'", "it has '0', '1', '2', '3'."),
    ),
    "submodule of a function": (
        lambda: spect(site=gr.Hidden("1"))(lambda x: x, x()),
        TypeError,
        ("needs a torch.nn.Module, but the model is function", "penalty.of(outputs, activations)"),
    ),
    "submodule that is not called": (
        lambda: spect(site=gr.Hidden("0"))(Skips(), x()),
        ValueError,
        ("submodule '0' returned no floating-point tensor", "name one that the model calls"),
    ),
    "hidden site without a name": (gr.Hidden, ValueError, ("got no submodule", 'gr.Hidden("layer2")')),
    "names that are no strings": (lambda: gr.Hidden(2), TypeError, ("Hidden got 2", "names as strings")),  # type: ignore[arg-type]
    "targets with a dimension too many": (
        lambda: objective()(net(), x(), y()[:, None]),
        ValueError,
        ("cross_entropy failed on outputs of shape (4, 3)", "labels of shape (4, 1)", "y.squeeze(1)"),
    ),
    "the same in DoubleBack alone": (
        lambda: gr.DoubleBack(1.0)(net(), x(), y()[:, None]),
        ValueError,
        ("cross_entropy failed on outputs of shape (4, 3)", "labels of shape (4, 1)", "y.squeeze(1)"),
    ),
    "targets of another batch": (
        lambda: objective()(net(), x(), y()[:2]),
        ValueError,
        ("cross_entropy failed on outputs of shape (4, 3)", "labels of shape (2,)", "class indices (B,)"),
    ),
    "targets that would be broadcast": (
        lambda: objective(mse_loss, gr.DoubleBack(1.0))(net(), x(), torch.randn(4)),
        ValueError,
        ("mse_loss got outputs of shape (4, 3)", "labels of shape (4,)", "expected the same shape", "reshape(4, 3)"),
    ),
    "targets that would be broadcast in DoubleBack alone": (
        lambda: gr.DoubleBack(1.0, loss=mse_loss)(net(), x(), torch.randn(4)),
        ValueError,
        ("mse_loss got outputs of shape (4, 3)", "expected the same shape"),
    ),
    "targets of the wrong shape for LossDirection": (
        lambda: pen(projection=gr.LossDirection())(net(), x(), torch.zeros(4, 5)),
        ValueError,
        ("LossDirection got labels of shape (4, 5)", "class indices of shape (4,)", "probabilities of shape (4, 3)"),
    ),
    "no labels": (
        lambda: gr.DoubleBack(1.0)(net(), x()),
        ValueError,
        ("needs labels, and none were given", "penalty(model, x, y)", "gr.SpectReg"),
    ),
    "no labels for a projection": (
        lambda: pen(projection=gr.TrueClass())(net(), x()),
        ValueError,
        ("TrueClass needs labels", "penalty(model, x, y)"),
    ),
    "float labels without a loss": (
        lambda: gr.DoubleBack(1.0)(net(), x(), torch.randn(4, 3)),
        ValueError,
        ("labels of dtype torch.float32 and no loss", "loss=torch.nn.functional.mse_loss"),
    ),
    "a loss that averages first": (
        lambda: gr.DoubleBack(1.0, loss=lambda z, y: cross_entropy(z, target=y))(net(), x(), y()),
        ValueError,
        ("returned shape (); expected one loss per example", "shrinks the squared gradient by B^2", "reduction='none'"),
    ),
    "a task loss that does not average": (
        lambda: objective(nn.CrossEntropyLoss(reduction="none"))(net(), x(), y()),
        ValueError,
        ("CrossEntropyLoss returned shape (4,)", "expected the mean over the batch", "reduction='mean'"),
    ),
    "an operation without a double backward": (
        lambda: spect()(WithOnce(), x()),
        gr.UnsupportedOperationError,
        ("Once has no double backward", "engine=DoubleBackward() needs", "Use engine=gr.FiniteDifference()"),
    ),
    "fused attention": (
        lambda: spect()(Attention(), x()),
        gr.UnsupportedOperationError,
        ("scaled_dot_product", "no double backward", "Use engine=gr.FiniteDifference()", "SDPBackend.MATH"),
    ),
    "fused attention in forward mode": (
        lambda: spect(engine=gr.ForwardMode())(Attention(), x()),
        gr.UnsupportedOperationError,
        ("scaled_dot_product", "no forward-mode rule", "Use engine=gr.FiniteDifference()", "SDPBackend.MATH"),
    ),
    "of without requires_grad": (
        lambda: spect().of(net()(a := x()), a),
        ValueError,
        ("got x without requires_grad", "x.requires_grad_(); outputs = model(x)"),
    ),
    "of with an engine that runs the model": (
        lambda: spect(engine=gr.FiniteDifference()).of(net()(a := x().requires_grad_()), a),
        ValueError,
        ("has to run the model again", "penalty(model, x)", "engine=gr.DoubleBackward()"),
    ),
    "a class in a slot": (
        lambda: pen(projection=gr.Normal),
        TypeError,
        ("projection got the class Normal", "projection=Normal(...)"),
    ),
    "a word in a slot": (
        lambda: pen(engine="forward"),
        TypeError,
        ("engine got 'forward'", "expected a gradreg Engine", "engine=gr.DoubleBackward()"),
    ),
    "a penalty in place of the loss": (
        lambda: gr.Objective(gr.SpectReg(0.1)),  # type: ignore[arg-type]
        TypeError,
        ("in place of the task's loss", "gr.Objective(torch.nn.functional.cross_entropy, gr.SpectReg(0.03))"),
    ),
    "a loss that is no function": (
        lambda: gr.Objective("cross_entropy"),  # type: ignore[arg-type]
        TypeError,
        ("loss='cross_entropy'", "expected a function loss(outputs, y)"),
    ),
    "outputs that are no tensor": (
        lambda: spect()(lambda x: {"logits": net()(x)}, x()),
        TypeError,
        ("the model returned dict", "target=lambda outputs: outputs.logits"),
    ),
    "a target averaged over the batch": (
        lambda: spect(target=lambda z: z.sum())(net(), x()),
        ValueError,
        ("the target has shape (), but the batch has 4 examples", "Do not average over the batch"),
    ),
    "a target function that returns no tensor": (
        lambda: spect(target=lambda z: 1.0)(net(), x()),
        TypeError,
        ("the target function returned float", "expected a tensor (B, ...)"),
    ),
    "a target of integers": (
        lambda: spect(target=lambda z: z.argmax(1))(net(), x()),
        TypeError,
        ("the target has dtype torch.int64", "such as logits"),
    ),
    "probabilities of one score": (
        lambda: gr.JacReg(0.1)(lambda x: net()(x).sum(1), x()),
        ValueError,
        ("outputs of shape (4,)", "expected class scores (B, C, ...)", "target=gr.Logits()"),
    ),
    "class dimension out of range": (
        lambda: gr.JacReg(0.1, class_dim=2)(net(), x()),
        ValueError,
        ("class_dim=2 for outputs of shape (4, 3)", "between 1 and 1"),
    ),
    "more rows than outputs": (
        lambda: pen(projection=gr.TopK(5))(net(), x()),
        ValueError,
        ("k=5 for 3 outputs", "at most that many"),
    ),
    "class scores asked of an image": (
        lambda: pen(projection=gr.RandomClass())(nn.Conv2d(3, 2, 1), torch.randn(4, 3, 5, 5)),
        ValueError,
        ("RandomClass got outputs of shape (4, 2, 5, 5)", "expected class scores (B, C)", "outputs[:, :, 0]"),
    ),
    "float labels where indices are needed": (
        lambda: pen(projection=gr.TrueClass())(net(), x(), torch.randn(4, 3)),
        ValueError,
        ("TrueClass got labels of dtype torch.float32", "y.argmax(1)"),
    ),
    "no samples": (lambda: gr.Normal(samples=0), ValueError, ("Normal got samples=0", "whole number >= 1")),
    "unknown word": (
        lambda: gr.Sphere(per="sample"),  # type: ignore[arg-type]
        ValueError,
        ("per='sample'; expected 'example' or 'batch'",),
    ),
    "a step of 0": (lambda: gr.FiniteDifference(step=0), ValueError, ("step=0; write a distance > 0", "or None")),
    "a negative norm": (lambda: gr.TargetNorm(-1.0), ValueError, ("norm=-1.0", "finite number >= 0")),
    "tangents of the wrong shape": (
        lambda: pen(projection=gr.Tangents(torch.randn(4, 3, 4)))(net(), x()),
        ValueError,
        ("directions of shape (4, 3, 4) for inputs of shape (4, 3, 4)", "expected (T, 4, 3, 4)", "directions[None]"),
    ),
    "gradients of the wrong shape": (
        lambda: pen(magnitude=gr.DistanceToGradients(lambda x, y: x))(net(), x()),
        ValueError,
        ("gradients of shape (4, 3, 4); expected (4, 3, 3, 4)",),
    ),
    "an activation without the batch in front": (
        lambda: spect(site=gr.Hidden("1"))(nn.Sequential(nn.Identity(), Transposes(), Transposes()), x()[:, :, 0]),
        ValueError,
        ("the activation of '1' has shape (3, 4), but the batch has 4 examples",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_message_says_what_arrived_what_was_expected_and_what_to_write(name: str) -> None:
    act, kind, parts = CASES[name]
    with pytest.raises(kind) as caught:
        act()
    message, position = str(caught.value), 0
    for part in parts:
        found = message.find(part, position)
        assert found >= 0, f"{part!r} is not in its place in: {message}"
        position = found


def test_an_operation_without_double_backward_is_found_at_the_first_call_and_the_engine_named_works() -> None:
    """Not in the caller's backward, where nothing could explain it."""
    for model in (WithOnce(), Attention()):
        value = gr.SpectReg(0.1, engine=gr.FiniteDifference())(model, x())
        value.backward()
        assert value > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
def test_a_compiled_model_is_named_and_served_by_finite_differences() -> None:
    torch._dynamo.reset()  # what was compiled before would change the graph
    model = torch.compile(net(), backend="aot_eager")
    with pytest.raises(
        gr.UnsupportedOperationError, match=r"torch.compile has no double backward.*gr.FiniteDifference"
    ):
        gr.SpectReg(0.1)(model, x())
    assert gr.SpectReg(0.1, engine=gr.FiniteDifference())(model, x()) > 0


def test_a_failed_call_loses_nothing() -> None:
    """Hooks are gone, gradients and buffers untouched, and the next call works."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="does not depend"):
        gr.SpectReg(0.1, site=gr.Hidden("1"), target=lambda z: torch.zeros(4, 1, requires_grad=True) * 1)(model, x())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert gr.SpectReg(0.1, site=gr.Hidden("1"))(model, x()) > 0


def test_a_rehearsal_comes_once_per_model_also_for_lambdas_made_anew() -> None:
    """A rehearsal is a backward pass more; passes are counted at an operation of the model."""
    weight, passes = torch.randn(4, 3, requires_grad=True), 0

    class Counts(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            nonlocal passes
            passes += 1
            return g

    counted = []
    for _ in range(3):
        passes = 0
        gr.SpectReg(0.1)(lambda x: torch.tanh(Counts.apply(x) @ weight), torch.randn(2, 4))  # type: ignore[operator]
        counted.append(passes)
    assert counted[0] > 1
    assert counted[1:] == [1, 1]
