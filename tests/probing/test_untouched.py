"""A probe leaves no trace: parameters, gradients, buffers, attributes, modes, hooks and random states."""

import random

import pytest
import torch
from hard_models_for_tests import Attention, Counting
from torch import Tensor, nn

import gradreg as gr
from gradreg.probing.untouched import untouched


class Stateful(nn.Module):
    """Statistics, a power iteration, dropout, a counter and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.seen: list[float] = []
        self.last: Tensor | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x
        return self.head(self.drop(self.norm(self.frozen(x))).tanh()) * (1 + 0 * random.random())


def state(model: nn.Module) -> dict[str, object]:
    """All that could change, by identity or in numbers."""
    found: dict[str, object] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        found[f"{name} attributes"] = {key: id(value) for key, value in vars(module).items()}
        found[f"{name} hooks"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
        found[f"{name} mode"] = module.training
        found[f"{name} buffers"] = [(key, id(b), b._version) for key, b in module._buffers.items() if b is not None]
    for name, parameter in model.named_parameters():
        found[f"{name} parameter"] = (id(parameter), parameter._version, parameter.requires_grad, id(parameter.grad))
        found[f"{name} gradient"] = None if parameter.grad is None else parameter.grad.clone()
    found["random"] = (torch.get_rng_state(), random.getstate())
    return found


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("model", [Stateful(), Attention(), nn.Sequential(Counting(), nn.Linear(6, 3))])
def test_a_probe_leaves_no_trace(model: nn.Module) -> None:
    x = torch.randn(4, 5, 8) if isinstance(model, Attention) else torch.randn(4, 6)
    model(x).sum().backward()
    model.get_submodule("head" if hasattr(model, "head") else "1").eval()
    before = state(model)
    report = gr.probe(model, x, repeats=1)
    after = state(model)
    assert report.engines["FiniteDifference"].cost is not None or isinstance(model, nn.Sequential)
    assert [name for name in before if not same(before[name], after[name])] == []
    assert before.keys() == after.keys()
    assert not x.requires_grad


def test_it_is_put_back_after_an_error_too_and_shared_buffers_stay_shared() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    model[1]._buffers["running_mean"] = model[0]._buffers["running_mean"]
    before, mean = state(model), model[0].running_mean

    def fail() -> None:
        with untouched(model):
            model(torch.randn(4, 6))
            assert model[0].running_mean is model[1].running_mean
            assert model[0].running_mean is not mean
            model.eval()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    after = state(model)
    assert [name for name in before if not same(before[name], after[name])] == []


def test_a_graph_that_was_there_before_can_still_be_differentiated() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6).eval(), nn.Linear(6, 3))
    x = torch.randn(4, 6)
    z = model(x)
    model[1].train()
    gr.probe(model, x, repeats=0)
    z.sum().backward()
    assert model[0].weight.grad is not None
