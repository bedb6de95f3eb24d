"""accelerate needs no adapter: an objective on the prepared model, and ``accelerator.backward(result.total)``."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Generator, nn
from torch.nn.functional import cross_entropy

import gradreg as gr

X = torch.randn(64, 8, generator=Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
ENGINES = [gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference()]


@pytest.fixture(autouse=True)
def _one_state_each() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def batches(epochs: int) -> list[Any]:
    return [*zip(X.split(16), Y.split(16), strict=True)] * epochs


def train(
    precision: str, *, engine: gr.Engine | None = None, accumulate: int = 1, epochs: int = 2, weight: float = 0.1
) -> tuple[nn.Module, list[float]]:
    """SGD under accelerate; steps of the optimizer are what lazy penalties count."""
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulate)
    objective = gr.Objective(
        cross_entropy,
        gr.SpectReg(weight, engine=engine, site=gr.Hidden("1"), every=2),
        generator=Generator().manual_seed(7),
    )
    model, optimizer = net(), None
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
    terms = []
    for number, (x, y) in enumerate(batches(epochs)):
        with accelerator.accumulate(model):
            result = objective(model, x, y, step=number // accumulate)
            accelerator.backward(result.total)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()
            optimizer.zero_grad()
        terms.append(result.terms["spectreg"].item())
    return model, terms


def plain_loop(*, engine: gr.Engine | None = None, accumulate: int = 1, weight: float = 0.1) -> nn.Module:
    model = net()
    penalty = gr.SpectReg(weight, engine=engine, site=gr.Hidden("1"), every=2)
    objective = gr.Objective(cross_entropy, penalty, generator=Generator().manual_seed(7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for number, (x, y) in enumerate(batches(2)):
        (objective(model, x, y, step=number // accumulate).total / accumulate).backward()
        if number % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad()
    return model


def vector(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("engine", ENGINES, ids=repr)
def test_training_is_the_plain_loop(engine: gr.Engine) -> None:
    model, _ = train("no", engine=engine)
    torch.testing.assert_close(vector(model), vector(plain_loop(engine=engine)), rtol=1e-5, atol=1e-6)


def test_accumulated_gradients_are_means() -> None:
    model, terms = train("no", accumulate=2)
    assert [term > 0 for term in terms] == [True, True, False, False] * 2
    torch.testing.assert_close(vector(model), vector(plain_loop(accumulate=2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES[:2], ids=repr)
def test_bf16_stays_near_float32(engine: gr.Engine) -> None:
    """After eight steps the parameters differ by 2 % of what they moved."""
    model, _ = train("bf16", engine=engine)
    plain = vector(plain_loop(engine=engine))
    assert 0 < (vector(model) - plain).norm() < 0.02 * (plain - vector(net())).norm()


def test_the_loss_falls_and_the_penalty_flattens() -> None:
    (steep, _), (flat, _) = (train("bf16", epochs=15, weight=weight) for weight in (0, 0.2))
    assert cross_entropy(flat(X), Y) < 0.8 * cross_entropy(net()(X), Y)
    norms = [gr.FrobReg(1, site=gr.Hidden("1"))(model, X) for model in (steep, flat)]
    assert norms[1] < 0.7 * norms[0]
