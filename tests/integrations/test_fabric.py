"""Lightning Fabric: what works on a module that it set up, what is refused, and the step as one module."""

from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Generator, nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg.integrations.fabric import RegularizedStep

X = torch.randn(64, 8, generator=Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def objective(*penalties: gr.Penalty) -> gr.Objective:
    return gr.Objective(cross_entropy, *penalties or [gr.SpectReg(0.1)], generator=Generator().manual_seed(7))


def train(
    precision: str, *, whole_step: bool, steps: int = 4, clip: bool = False, weight: float = 0.1
) -> tuple[nn.Module, list[float]]:
    """SGD under Fabric, on the model or on the step as one module; the model, and what the penalty added."""
    fabric = Fabric(accelerator="cpu", precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    model, losses = net(), objective(gr.SpectReg(weight))
    inner: Any = RegularizedStep(model, losses) if whole_step else model
    inner, optimizer = fabric.setup(inner, torch.optim.SGD(inner.parameters(), lr=0.5))
    terms = []
    for _ in range(steps):
        if whole_step:
            found = inner(X, Y)
        else:
            result = losses(inner, X, Y)
            found = {"total": result.total, **result.terms}
        fabric.backward(found["total"])
        if clip:
            fabric.clip_gradients(inner, optimizer, max_norm=100.0)
        optimizer.step()
        optimizer.zero_grad()
        terms.append(found["spectreg"].item())
    return model, terms


def plain_loop(steps: int = 4, dtype: torch.dtype = torch.float32) -> nn.Module:
    model, losses = net().to(dtype), objective()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(steps):
        losses(model, X.to(dtype), Y).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def vector(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().float()


@pytest.mark.parametrize(
    ("precision", "whole_step"), [("32-true", False), ("32-true", True), ("64-true", True)], ids=str
)
def test_training_is_the_plain_loop(precision: str, whole_step: bool) -> None:
    model, _ = train(precision, whole_step=whole_step, clip=True)
    dtype = torch.float32 if precision == "32-true" else torch.float64
    torch.testing.assert_close(vector(model), vector(plain_loop(dtype=dtype)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("precision", "bound"), [("bf16-mixed", 0.03), ("bf16-true", 0.1)])
def test_the_step_in_bfloat16_stays_near_float32(precision: str, bound: float) -> None:
    """After four steps the parameters differ by that part of what they moved."""
    model, _ = train(precision, whole_step=True)
    plain = vector(plain_loop())
    assert 0 < (vector(model) - plain).norm() < bound * (plain - vector(net())).norm()


def test_the_loss_falls_and_the_penalty_flattens() -> None:
    (steep, _), (flat, terms) = (train("bf16-mixed", whole_step=True, steps=40, weight=w) for w in (0, 0.1))
    start, end = (cross_entropy(m(X), Y) for m in (net(), flat))
    assert end < 0.8 * start
    assert all(term > 0 for term in terms)
    norms = [gr.metrics.jacobian_norms(model, X).mean() for model in (steep, flat)]
    assert norms[1] < 0.7 * norms[0]


@pytest.mark.parametrize("engine", [gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference()], ids=repr)
def test_under_bf16_mixed_fabric_refuses_to_have_its_modules_differentiated(engine: gr.Engine) -> None:
    fabric = Fabric(accelerator="cpu", precision="bf16-mixed")
    model = fabric.setup(net())
    with pytest.raises(RuntimeError, match=r"requires you to call `fabric.backward\(loss\)`") as caught:
        objective(gr.SpectReg(0.1, engine=engine))(model, X, Y)
    assert "work by gradreg.integrations.fabric.RegularizedStep" in caught.value.__notes__[0]


def test_lazy_penalties_take_the_step_that_is_given() -> None:
    step = RegularizedStep(net(), objective(gr.SpectReg(0.1, every=2)))
    assert [step(X, Y, step=n)["spectreg"] > 0 for n in (4, 5, 4)] == [True, False, True]


def test_what_is_no_objective_is_refused() -> None:
    with pytest.raises(TypeError, match=r"objective got .*; expected a gradreg Objective, as in objective=gr.Obj"):
        RegularizedStep(net(), cross_entropy)  # type: ignore[arg-type]
