"""SAM against its formula; what is random is the same in both passes; the model is left where it was."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from models_for_tests import Residual, batch, build
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import gradreg as gr


def generator() -> Generator:
    return Generator().manual_seed(3)


def gradient(model: nn.Module, parameters: dict[str, Tensor], objective: gr.Objective, x: Tensor, y: Tensor) -> Tensor:
    """Of the objective at other parameters, in one vector."""
    total = objective(lambda x: functional_call(model, parameters, (x,)), x, y, generator=generator(), step=0).total
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(parameters.values()))])


@pytest.mark.parametrize("penalties", [(), (gr.SpectReg(0.3), gr.DoubleBack(2.0))], ids=["plain", "penalized"])
@pytest.mark.parametrize("name", ["softplus", "lenet"])
def test_gradient_is_that_at_the_worst_point_nearby(name: str, penalties: tuple[gr.Penalty, ...]) -> None:
    model, (x, y) = build(name), batch()
    objective, rho = gr.Objective(cross_entropy, *penalties), 0.3
    here = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    g = gradient(model, here, objective, x, y)
    move = rho * g / g.norm()
    sizes = [p.numel() for p in here.values()]
    moved = {
        name: (p.detach() + part.reshape(p.shape)).requires_grad_()
        for (name, p), part in zip(here.items(), move.split(sizes), strict=True)
    }
    expected = gradient(model, moved, objective, x, y)
    result = gr.SAM(objective, model, rho)(x, y, generator=generator(), step=0)
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (found - g).norm() > 1e-3 * g.norm()
    assert not result.total.requires_grad
    torch.testing.assert_close(result.total, objective(model, x, y, generator=generator(), step=0).total.detach())
    for name, p in model.named_parameters():
        assert torch.equal(p, here[name])


def test_rho_of_0_is_an_ordinary_step_and_the_factor_multiplies_it() -> None:
    model, (x, y) = build("lenet"), batch()
    objective = gr.Objective(cross_entropy, gr.SpectReg(0.1))
    objective(model, x, y, generator=generator(), step=0).total.backward()
    plain = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    gr.SAM(objective, model, 0)(x, y, generator=generator(), step=0, factor=4.0)
    for p, one in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(p.grad, 4 * one)


def test_both_passes_have_one_dropout_mask_one_projection_and_one_mixture() -> None:
    """With rho = 0 the second pass is the first; the states afterwards are those of one pass."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 50), nn.Dropout(0.5), nn.Linear(50, 3))
    x, y = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    objective = gr.Mixup(gr.Objective(cross_entropy, gr.SpectReg(0.1)), 0.4, classes=3)
    torch.manual_seed(1)
    g = generator()
    objective(model, x, y, generator=g, step=0).total.backward()
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    after, own = torch.get_rng_state(), g.get_state()
    model.zero_grad()
    torch.manual_seed(1)
    g = generator()
    gr.SAM(objective, model, 0)(x, y, generator=g, step=0)
    for p, one in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, one)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(g.get_state(), own)


def test_running_averages_move_once() -> None:
    torch.manual_seed(0)
    model, other = Residual(nn.BatchNorm2d), Residual(nn.BatchNorm2d)
    other.load_state_dict(model.state_dict())
    x, y = torch.randn(6, 1, 8, 8), torch.randint(4, (6,))
    gr.SAM(gr.Objective(cross_entropy), model, 0.5)(x, y)
    other(x)
    for one, two in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two)


def test_steps_are_counted_once() -> None:
    model, (x, y) = build("mlp"), batch()
    objective = gr.Objective(cross_entropy, gr.SpectReg(0.1, every=2))
    step = gr.SAM(objective, model)
    terms = [step(x, y).terms["spectreg"].item() for _ in range(4)]
    assert [term > 0 for term in terms] == [True, False, True, False]
    assert objective.step == 4


def test_parameters_are_put_back_where_the_second_pass_fails() -> None:
    model, (x, y) = build("mlp"), batch()
    before = [p.detach().clone() for p in model.parameters()]
    calls: list[int] = []

    def loss(z: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("the second")
        return cross_entropy(z, y)

    with pytest.raises(ValueError, match="the second"):
        gr.SAM(gr.Objective(loss), model)(x, y)
    assert all(torch.equal(p, one) for p, one in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: gr.SAM(cast(Any, cross_entropy), nn.Linear(2, 2)),
            r"expected gr.Objective\(cross_entropy\), or gr.Mixup",
        ),
        (
            lambda: gr.SAM(gr.Objective(cross_entropy), cast(Any, abs)),
            "expected a torch.nn.Module, whose parameters it",
        ),
        (lambda: gr.SAM(gr.Objective(cross_entropy), nn.Linear(2, 2), -1), "SAM got rho=-1; expected a finite number"),
    ],
)
def test_wrong_use_is_answered_with_what_to_write(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises((ValueError, TypeError), match=expected):
        make()


@pytest.mark.parametrize(
    "model",
    [nn.Linear(8, 3).requires_grad_(False), nn.Sequential(nn.Linear(8, 3), nn.Threshold(1e9, 0.0))],
    ids=["frozen", "unused"],
)
def test_a_model_without_gradients_is_refused(model: nn.Module) -> None:
    objective = gr.Objective(lambda z, y: (z.detach() ** 2).mean())
    with pytest.raises(ValueError, match=r"^SAM got a model none of whose parameters gets a gradient.*requires_grad_"):
        gr.SAM(objective, model)(torch.randn(4, 8), torch.zeros(4, dtype=torch.int64))
