"""Values and parameter gradients of every preset, by every exact engine, against the dense oracle in float64."""

from collections.abc import Callable

import pytest
import torch
from models_for_tests import MODELS, batch, build, parameter_gradient
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg.models import LeNet5

RELATIVE = 1e-9
EXACT = [gr.DoubleBackward(), gr.ForwardMode()]


def generator() -> Generator:
    return Generator().manual_seed(3)


def rows_like(z: Tensor, per: str, sphere: bool, samples: int) -> Tensor:
    """The rows of SpectReg written out: (samples, B, m), from the same generator."""
    g = generator()
    shape = (1 if per == "batch" else z.shape[0], z.shape[1])
    rows = torch.stack([torch.randn(shape, generator=g, dtype=z.dtype).expand_as(z) for _ in range(samples)])
    return rows / rows.norm(dim=2, keepdim=True) * z.shape[1] ** 0.5 if sphere else rows


def spectreg(per: str, sphere: bool, samples: int) -> Callable[..., Tensor]:
    def direct(model: nn.Module, x: Tensor, y: Tensor, site: gr.Site) -> Tensor:
        full = gr.dense.jacobian(model, x, site=site, create_graph=True)
        rows = rows_like(full[:, :, 0].detach(), per, sphere, samples)
        return torch.einsum("sbm,bmn->sbn", rows, full).square().sum(2).mean()

    return direct


def frobenius(target: gr.Target | None = None) -> Callable[..., Tensor]:
    def direct(model: nn.Module, x: Tensor, y: Tensor, site: gr.Site) -> Tensor:
        return gr.dense.jacobian(model, x, y, target=target, site=site, create_graph=True).square().sum((1, 2)).mean()

    return direct


PRESETS: dict[str, tuple[Callable[..., gr.Penalty], Callable[..., Tensor]]] = {
    "doubleback": (gr.DoubleBack, frobenius(gr.Loss(cross_entropy))),
    "jacreg": (gr.JacReg, frobenius(gr.Probabilities())),
    "frobreg": (gr.FrobReg, frobenius()),
    "spectreg": (gr.SpectReg, spectreg("example", False, 1)),
    "spectreg-per-batch": (lambda w, **k: gr.SpectReg(w, per="batch", **k), spectreg("batch", False, 1)),
    "spectreg-sphere": (lambda w, **k: gr.SpectReg(w, sphere=True, **k), spectreg("example", True, 1)),
    "spectreg-3-samples": (lambda w, **k: gr.SpectReg(w, samples=3, **k), spectreg("example", False, 3)),
}


def assert_same(found: Tensor, expected: Tensor, model: nn.Module) -> None:
    torch.testing.assert_close(found, expected, rtol=RELATIVE, atol=0)
    a, b = parameter_gradient(found, model), parameter_gradient(expected, model)
    assert b.norm() > 0
    assert (a - b).norm() <= RELATIVE * b.norm()


@pytest.mark.parametrize("engine", EXACT, ids=repr)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", MODELS)
def test_preset_equals_dense_oracle(name: str, preset: str, engine: gr.Engine) -> None:
    model, (x, y) = build(name), batch()
    make, direct = PRESETS[preset]
    found = make(0.7, engine=engine)(model, x, y, generator=generator())
    assert_same(found, 0.7 * direct(model, x, y, gr.Input()), model)


@pytest.mark.parametrize("engine", EXACT, ids=repr)
@pytest.mark.parametrize("preset", PRESETS)
def test_preset_at_a_hidden_site_equals_dense_oracle(preset: str, engine: gr.Engine) -> None:
    model, (x, y) = build("residual-groupnorm"), batch()
    site = gr.Hidden("stem")
    make, direct = PRESETS[preset]
    found = make(0.7, engine=engine, site=site)(model, x, y, generator=generator())
    assert_same(found, 0.7 * direct(model, x, y, site), model)


@pytest.mark.parametrize("engine", EXACT, ids=repr)
@pytest.mark.parametrize("preset", PRESETS)
def test_preset_on_lenet5_equals_dense_oracle(preset: str, engine: gr.Engine) -> None:
    """The paper's own network, of 61706 parameters on images of 28 x 28; dropout is off, which the oracle asks for."""
    torch.manual_seed(7)
    model = LeNet5().double().eval()
    x, y = torch.randn(2, 1, 28, 28, dtype=torch.float64), torch.tensor([3, 8])
    make, direct = PRESETS[preset]
    found = make(0.7, engine=engine)(model, x, y, generator=generator())
    assert_same(found, 0.7 * direct(model, x, y, gr.Input()), model)


def projected(projection: gr.Projection, full: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """The squared norm of what each fixed projection measures, written out, (B,)."""
    p = z.softmax(1)
    hot = torch.nn.functional.one_hot(y, z.shape[1]).to(z)
    match projection:
        case gr.LossDirection():
            return torch.einsum("bm,bmn->bn", p - hot, full).square().sum(1)
        case gr.ProbabilityWeighted():
            return torch.einsum("bm,bmn->bn", p, full).square().sum(1)
        case gr.TrueClass():
            return torch.einsum("bm,bmn->bn", hot, full).square().sum(1)
        case gr.TopK():
            chosen = z.topk(projection.k).indices[:, :, None].expand(-1, -1, full.shape[2])
            return full.gather(1, chosen).square().sum((1, 2))
        case gr.RandomClass():
            index = torch.randint(z.shape[1], (z.shape[0],), generator=generator())
            return z.shape[1] * full[torch.arange(len(index)), index].square().sum(1)
        case gr.TopSingular():
            return torch.linalg.matrix_norm(full, 2) ** 2
        case gr.Normal():
            v = torch.randn(full.shape[0], full.shape[2], generator=generator(), dtype=full.dtype)
            return torch.einsum("bmn,bn->bm", full, v).square().sum(1)
        case gr.Rademacher():
            r = 2.0 * torch.randint(2, z.shape, generator=generator()) - 1
            return torch.einsum("bm,bmn->bn", r.to(full), full).square().sum(1)
    raise AssertionError(projection)


@pytest.mark.parametrize("engine", EXACT, ids=repr)
@pytest.mark.parametrize(
    "projection",
    [
        gr.LossDirection(),
        gr.ProbabilityWeighted(),
        gr.TrueClass(),
        gr.TopK(2),
        gr.RandomClass(),
        gr.TopSingular(200),
        gr.Normal(side="input"),
        gr.Rademacher(),
    ],
    ids=repr,
)
def test_every_other_projection_equals_its_formula(projection: gr.Projection, engine: gr.Engine) -> None:
    model, (x, y) = build("softplus"), batch()
    penalty = gr.JacobianPenalty(2.0, projection=projection, engine=engine)
    found = penalty(model, x, y, generator=generator())
    full = gr.dense.jacobian(model, x, create_graph=True)
    assert_same(found, 2.0 * projected(projection, full, model(x), y).mean(), model)


def magnitude_of(magnitude: gr.Magnitude, rows: Tensor) -> Tensor:
    """The magnitude of one gradient per example (B, n), written out."""
    match magnitude:
        case gr.L1():
            return rows.abs().sum(1)
        case gr.TargetNorm():
            distance = rows.norm(dim=1) - magnitude.norm
            return (distance.clamp(min=0) if magnitude.one_sided else distance) ** 2
        case gr.DistanceToGradients():
            return (rows - 0.01).square().sum(1)
    raise AssertionError(magnitude)


@pytest.mark.parametrize("engine", EXACT, ids=repr)
@pytest.mark.parametrize(
    "magnitude",
    [
        gr.L1(),
        gr.TargetNorm(0.05),
        gr.TargetNorm(0.02, one_sided=True),
        gr.DistanceToGradients(lambda x, y: torch.full_like(x, 0.01)),
    ],
    ids=lambda m: repr(m)[:25],
)
def test_every_magnitude_equals_its_formula(magnitude: gr.Magnitude, engine: gr.Engine) -> None:
    model, (x, y) = build("softplus"), batch()
    penalty = gr.JacobianPenalty(1.0, target=gr.Loss(cross_entropy), engine=engine, magnitude=magnitude)
    rows = gr.dense.jacobian(model, x, y, target=gr.Loss(cross_entropy), create_graph=True)[:, 0]
    assert_same(penalty(model, x, y), magnitude_of(magnitude, rows).mean(), model)


def test_tangents_measure_directional_derivatives() -> None:
    model, (x, _) = build("softplus"), batch()
    directions = torch.stack([x.roll(1, -1) - x, x.roll(1, -2) - x])
    full = gr.dense.jacobian(model, x, create_graph=True)
    expected = torch.einsum("bmn,tbn->tbm", full, directions.flatten(2)).square().sum(2).sum(0).mean()
    for engine in EXACT:
        penalty = gr.JacobianPenalty(1.0, projection=gr.Tangents(lambda x: directions), engine=engine)
        assert_same(penalty(model, x), expected, model)


def test_sobolev_distance_to_a_teachers_jacobian_by_random_projection() -> None:
    model, teacher, (x, _) = build("softplus"), build("mlp"), batch()
    given = gr.dense.jacobian(teacher, x).reshape(3, 4, 1, 8, 8)
    full = gr.dense.jacobian(model, x, create_graph=True)
    rows = rows_like(full[:, :, 0].detach(), "example", False, 1)[0]
    expected = torch.einsum("bm,bmn->bn", rows, full - given.flatten(2)).square().sum(1).mean()
    magnitude = gr.DistanceToGradients(lambda x, y: given)
    for engine in EXACT:
        penalty = gr.JacobianPenalty(1.0, projection=gr.Normal(), engine=engine, magnitude=magnitude)
        assert_same(penalty(model, x, generator=generator()), expected, model)


@pytest.mark.parametrize("name", MODELS)
def test_the_oracle_itself_equals_central_differences(name: str) -> None:
    """So that engines and oracle do not share one mistake of automatic differentiation."""
    model, (x, _) = build(name), batch()
    full = gr.dense.jacobian(model, x)
    h = 1e-6
    for entry in (0, 17, 63):
        v = torch.zeros(64, dtype=x.dtype)
        v[entry] = h
        v = v.reshape(1, 8, 8)
        difference = (model(x + v) - model(x - v)) / (2 * h)
        torch.testing.assert_close(full[:, :, entry], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("engine", EXACT, ids=repr)
def test_gradcheck_in_the_parameters(engine: gr.Engine) -> None:
    """The parameter gradient is the derivative of the value."""
    x, y = batch()
    weight = torch.randn(4, 64, dtype=torch.float64, requires_grad=True)

    def value(weight: Tensor) -> Tensor:
        def model(x: Tensor) -> Tensor:
            return torch.tanh(x.flatten(1) @ weight.T)

        return gr.SpectReg(1.0, engine=engine)(model, x, generator=generator()) + gr.DoubleBack(1.0, engine=engine)(
            model, x, y
        )

    assert torch.autograd.gradcheck(value, (weight,))
