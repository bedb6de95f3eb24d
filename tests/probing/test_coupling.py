"""The measured leak between examples, against the dense Jacobian of the whole batch, and the layers to blame."""

import pytest
import torch
from hard_models_for_tests import MinusMean
from torch import Tensor, nn

import gradreg as gr
from gradreg.jacobian.site import Hidden, Input, Site
from gradreg.jacobian.target import Logits
from gradreg.models import LeNet5
from gradreg.probing.coupling import Coupling, measure_coupling


def measured(model: nn.Module, x: Tensor, site: Site | None = None, rows: int = 2) -> Coupling:
    return measure_coupling(model, x, None, Logits(), site or Input(), rows=rows)


def dense_leak(model: nn.Module, x: Tensor) -> float:
    """The leak by its definition."""
    full = torch.autograd.functional.jacobian(lambda x: model(x).flatten(1), x)
    assert isinstance(full, Tensor)
    squares = full.flatten(3).square().sum((1, 3))  # (B, B)
    own = squares.diagonal().sum()
    return ((squares.sum() - own) / own).sqrt().item()


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)),
        MinusMean(),
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False).eval()),
    ],
    ids=["batch norm", "minus the mean", "without running statistics"],
)
def test_the_leak_is_that_of_the_dense_jacobian(model: nn.Module) -> None:
    """Six examples, 100 rows each: a sum of squares is off by sqrt(2 / 600) = 6 % or less, the leak by half of that."""
    model, x = model.double(), torch.randn(6, 6, dtype=torch.float64)
    expected = dense_leak(model, x)
    assert expected > 0.1
    found = measured(model, x, rows=100).leak
    assert found == pytest.approx(expected, rel=0.1)
    assert measured(model, x).leak == pytest.approx(expected, rel=0.5)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (LeNet5(), (6, 1, 28, 28)),
        (LeNet5("batchnorm").eval(), (6, 1, 28, 28)),
        (nn.Sequential(nn.Linear(6, 6), nn.GroupNorm(2, 6), nn.LayerNorm(6)), (6, 6)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (6, 5, 8)),
    ],
    ids=["dropout", "frozen batch norm", "other norms", "transformer"],
)
def test_nets_that_couple_nothing_leak_exactly_nothing(model: nn.Module, shape: tuple[int, ...]) -> None:
    assert measured(model, torch.randn(shape)) == Coupling(0.0)


def test_the_innermost_layers_are_named() -> None:
    block = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True))
    model = nn.Sequential(block, nn.Linear(6, 6), nn.BatchNorm1d(6).eval(), MinusMean(), nn.BatchNorm1d(4))
    found = measured(model, torch.randn(5, 6))
    assert set(found.layers) == {"0.1", "3", "4"}
    assert "Batch normalization: call eval() on these layers" in found.remedy
    assert "coupled by " in str(found)
    # behind the first two, only the others are left
    assert set(measured(model, torch.randn(5, 6), Hidden("1")).layers) >= {"3", "4"}


def test_a_layer_that_takes_the_batch_for_time() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=False), nn.Flatten(), nn.Linear(40, 3))
    found = measured(model, torch.randn(4, 5, 8))
    assert found.layers == ("0.self_attn",)
    assert "told batch_first=False takes the batch in dimension 1: write True" in found.remedy


def test_other_couplings_get_a_remedy_as_well() -> None:
    found = measured(MinusMean(), torch.randn(4, 6))
    assert found.layers == ("",)
    assert "coupled by the model's own forward" in str(found)
    assert "use statistics of each example alone (LayerNorm, GroupNorm), or accept it" in found.remedy


def test_one_example_alone_says_nothing() -> None:
    found = measured(nn.Linear(6, 3), torch.randn(1, 6))
    assert found == Coupling(None)
    assert str(found) == "Examples: one alone cannot be coupled to others; pass a batch of at least 2."
    assert gr.probe(nn.Linear(6, 3), torch.randn(1, 6), repeats=0).coupling.leak is None


def test_many_layers_are_shortened() -> None:
    found = Coupling(0.5, tuple(f"norm{i}" for i in range(9)), "Do this.")
    assert "coupled by norm0, norm1, norm2, norm3, norm4, norm5 and 3 more." in str(found)
