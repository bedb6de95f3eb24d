"""Every method on every model in every dtype: finite, linear in the weight, repeatable, a mean over the examples."""

from collections.abc import Callable

import pytest
import torch
from models_for_tests import MODELS, batch, build, parameter_gradient
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr

Make = Callable[[float], gr.Penalty]


def composed(**slots: object) -> Make:
    return lambda weight: gr.JacobianPenalty(weight, **slots)  # type: ignore[arg-type]


def teacher(dtype: torch.dtype) -> nn.Module:
    return build("mlp").to(dtype).eval()


# Those that draw nothing are the same for each example in any batch.
FIXED: dict[str, Make] = {
    "DoubleBack": gr.DoubleBack,
    "L1DoubleBack": gr.L1DoubleBack,
    "DataGrad": lambda w: gr.DataGrad(w, step=0.1),
    "DataGrad l2": lambda w: gr.DataGrad(w, norm="l2", step=0.5),
    "ScaleableDoubleBack": lambda w: gr.ScaleableDoubleBack(w, step=0.5),
    "RightReasons": gr.RightReasons,
    "FrobReg": gr.FrobReg,
    "JacReg": gr.JacReg,
    "TangentProp": gr.TangentProp,
    "TangentProp forward": lambda w: gr.TangentProp(w, engine=gr.ForwardMode()),
    "TrueClass": composed(projection=gr.TrueClass()),
    "TopK": composed(projection=gr.TopK(2)),
    "ProbabilityWeighted": composed(projection=gr.ProbabilityWeighted()),
    "ConfidencePenalty": gr.ConfidencePenalty,
    "LabelSmoothing": gr.LabelSmoothing,
}
DRAWN: dict[str, Make] = {
    "SpectReg": gr.SpectReg,
    "SpectReg sphere": lambda w: gr.SpectReg(w, sphere=True),
    "SpectReg 4": lambda w: gr.SpectReg(w, samples=4),
    "RandomClass": composed(projection=gr.RandomClass()),
    "TopSingular": composed(projection=gr.TopSingular(3)),
    "GradientPenalty": lambda w: gr.GradientPenalty(w, norm=0.1, projection=gr.TopK()),
    "LayerwiseFrobenius": gr.LayerwiseFrobenius,
    "SpectralNorm": gr.SpectralNorm,
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def of_method(make: Make, model: nn.Module, x: Tensor, y: Tensor, weight: float = 0.5, seed: int = 3) -> Tensor:
    return make(weight)(model, x, y, generator=Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [*FIXED, *DRAWN])
def test_every_method_on_every_model_in_every_dtype(method: str, name: str, dtype: torch.dtype) -> None:
    make = {**FIXED, **DRAWN}[method]
    model, (x, y) = build(name).to(dtype), batch(4)
    x = x.to(dtype)
    value = of_method(make, model, x, y)
    gradient = parameter_gradient(value, model)
    assert value.ndim == 0
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0
    # Twice the weight is twice the value, the same seed the same value.
    twice = of_method(make, model, x, y, weight=1.0)
    torch.testing.assert_close(twice, 2 * value, rtol=1e-6, atol=0)
    assert torch.equal(of_method(make, model, x, y), value)
    if method in DRAWN and method != "TopSingular":  # which forgets its start
        assert not torch.equal(of_method(make, model, x, y, seed=4), value)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", FIXED)
def test_value_is_the_mean_over_the_examples(method: str, name: str) -> None:
    """Of each example by itself, without any sum over the batch or loss that was averaged first."""
    model, (x, y) = build(name), batch(4)
    alone = torch.stack([of_method(FIXED[method], model, x[i : i + 1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(of_method(FIXED[method], model, x, y), alone.mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", DRAWN)
def test_drawn_value_does_not_grow_with_the_batch(method: str) -> None:
    """The same example 8 and 512 times: means of the same thing, within the noise of 8 draws."""
    model, (x, y) = build("softplus"), batch(1)
    small, large = (of_method(DRAWN[method], model, x.expand(n, -1, -1, -1), y.expand(n)).detach() for n in (8, 512))
    assert 0.3 < small / large < 3


@pytest.mark.parametrize("projection", [gr.Full(), gr.Normal(), gr.Sphere()], ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sobolev_in_every_dtype(projection: gr.Projection, dtype: torch.dtype) -> None:
    model, (x, y) = build("lenet").to(dtype), batch(4)
    value = of_method(lambda w: gr.Sobolev(w, teacher=teacher(dtype), projection=projection), model, x.to(dtype), y)
    assert torch.isfinite(parameter_gradient(value, model)).all()
    assert value > 0


@pytest.mark.parametrize("method", [*FIXED, *DRAWN])
def test_every_method_trains_within_mixup_and_sam(method: str) -> None:
    """One step of both together; methods that need class indices say so."""
    model, (x, y) = build("softplus"), batch(4)
    objective = gr.Objective(cross_entropy, {**FIXED, **DRAWN}[method](0.1))
    mixed = gr.Mixup(objective, 0.4, classes=4)
    if method == "TrueClass":
        with pytest.raises(ValueError, match=r"TrueClass got labels of dtype torch.float.*expected class indices"):
            gr.SAM(mixed, model)(x, y, generator=Generator().manual_seed(0))
        return
    result = gr.SAM(mixed, model)(x, y, generator=Generator().manual_seed(0))
    assert torch.isfinite(result.total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
