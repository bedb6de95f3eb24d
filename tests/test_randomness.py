"""Randomness: the caller's generator decides, and the global state is left as found."""

import pytest
import torch
from models_for_tests import batch, build
from torch import Generator
from torch.nn.functional import cross_entropy

import gradreg as gr

PROJECTIONS = [
    gr.Normal(2),
    gr.Sphere(),
    gr.Rademacher(),
    gr.Normal(per="batch"),
    gr.Normal(side="input"),
    gr.RandomClass(),
    gr.TopSingular(1),
]
ENGINES = [gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference()]


@pytest.mark.parametrize("engine", ENGINES, ids=repr)
@pytest.mark.parametrize("projection", PROJECTIONS, ids=repr)
def test_one_generator_one_penalty_and_the_global_state_untouched(projection: gr.Projection, engine: gr.Engine) -> None:
    model, (x, _) = build("softplus"), batch()
    penalty = gr.JacobianPenalty(1.0, projection=projection, engine=engine)
    before = torch.get_rng_state()
    first = penalty(model, x, generator=Generator().manual_seed(1))
    again = penalty(model, x, generator=Generator().manual_seed(1))
    other = penalty(model, x, generator=Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_torchs_own_seed_decides() -> None:
    model, (x, _) = build("softplus"), batch()
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(gr.SpectReg(1.0)(model, x).item())
    assert values[0] == values[1] != values[2]


def test_an_objectives_generator_advances_from_step_to_step() -> None:
    model, (x, y) = build("softplus"), batch()

    def steps() -> list[float]:
        objective = gr.Objective(cross_entropy, gr.SpectReg(1.0), generator=Generator().manual_seed(3))
        return [objective(model, x, y).terms["spectreg"].item() for _ in range(3)]

    before = torch.get_rng_state()
    first, again = steps(), steps()
    assert first == again
    assert len(set(first)) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_of_the_call_comes_before_the_objectives() -> None:
    model, (x, y) = build("softplus"), batch()
    objective = gr.Objective(cross_entropy, gr.SpectReg(1.0), generator=Generator().manual_seed(3))
    found = objective(model, x, y, generator=Generator().manual_seed(4)).terms["spectreg"]
    assert torch.equal(found, gr.SpectReg(1.0)(model, x, generator=Generator().manual_seed(4)))
