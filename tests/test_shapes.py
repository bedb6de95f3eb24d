"""Outputs and inputs of every shape: regression, segmentation, sequences, several inputs; each against the oracle."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from models_for_tests import parameter_gradient
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import gradreg as gr

EXACT = [gr.DoubleBackward(), gr.ForwardMode()]


class Segmenter(nn.Module):
    """(B, 2, 4, 4) to class scores (B, 3, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Tagger(nn.Module):
    """(B, T, 4) to class scores (B, T, 3); each position sees its neighbour."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x + x.roll(1, 1))))


def case(name: str) -> tuple[nn.Module, Tensor, Tensor, Any]:
    """Model, inputs, labels and the loss of each example written out."""
    torch.manual_seed(3)
    match name:
        case "segmentation":
            model, x, y = Segmenter(), torch.randn(2, 2, 4, 4), torch.randint(3, (2, 4, 4))
            return model.double(), x.double(), y, lambda z, y: cross_entropy(z, y, reduction="none").mean((1, 2))
        case "sequence":
            model, x, y = Tagger(), torch.randn(2, 5, 4), torch.randint(3, (2, 5))

            def each(z: Tensor, y: Tensor) -> Tensor:
                return cross_entropy(z.movedim(2, 1), y, reduction="none").mean(1)

            return model.double(), x.double(), y, each
        case "regression-vector":
            model, x, y = (
                nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)),
                torch.randn(3, 4),
                torch.randn(3, 2),
            )
            return model.double(), x.double(), y.double(), lambda z, y: (z - y).square().mean(1)
        case "regression-number":
            layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0))
            x, y = torch.randn(3, 4), torch.randn(3)
            return layers.double(), x.double(), y.double(), lambda z, y: (z - y).square()
        case "regression-image":
            model, x, y = Segmenter(), torch.randn(2, 2, 4, 4), torch.randn(2, 3, 4, 4)
            return model.double(), x.double(), y.double(), lambda z, y: (z - y).square().mean((1, 2, 3))
    raise AssertionError(name)


CASES = ["segmentation", "sequence", "regression-vector", "regression-number", "regression-image"]


@pytest.mark.parametrize("engine", EXACT, ids=repr)
@pytest.mark.parametrize("name", CASES)
def test_frobreg_and_doubleback_equal_the_oracle_on_outputs_of_any_shape(name: str, engine: gr.Engine) -> None:
    model, x, y, each = case(name)
    full = gr.dense.jacobian(model, x, create_graph=True)
    gradient = gr.dense.jacobian(model, x, y, target=gr.FunctionOf(each), create_graph=True)
    for found, expected in (
        (gr.FrobReg(1.0, engine=engine)(model, x), full.square().sum((1, 2)).mean()),
        (gr.DoubleBack(1.0, loss=each, engine=engine)(model, x, y), gradient.square().sum((1, 2)).mean()),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
        a, b = parameter_gradient(found, model), parameter_gradient(expected, model)
        assert (a - b).norm() <= 1e-9 * b.norm()


@pytest.mark.parametrize(
    ("name", "loss"), [("segmentation", cross_entropy), ("regression-image", mse_loss), ("regression-vector", mse_loss)]
)
def test_torchs_losses_are_averaged_over_positions_and_never_over_the_batch(name: str, loss: Any) -> None:
    model, x, y, each = case(name)
    found = gr.DoubleBack(1.0, loss=loss)(model, x, y)
    torch.testing.assert_close(found, gr.DoubleBack(1.0, loss=each)(model, x, y), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_spectreg_draws_a_row_as_long_as_the_outputs(name: str) -> None:
    model, x, _, _ = case(name)
    z = model(x)
    row = torch.randn(z.shape, generator=Generator().manual_seed(5), dtype=z.dtype)
    full = gr.dense.jacobian(model, x)
    expected = torch.einsum("bm,bmn->bn", row.flatten(1) if row.ndim > 1 else row[:, None], full).square().sum(1).mean()
    found = gr.SpectReg(1.0)(model, x, generator=Generator().manual_seed(5))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_class_dimensions_of_sequences_are_asked_for_and_then_right() -> None:
    model, x, y, each = case("sequence")
    with pytest.raises(ValueError, match=r"classes could be dimension 1 or 2. Write class_dim=2 for sequences"):
        gr.JacReg(1.0)(model, x)
    softmax = gr.FunctionOf(lambda z: z.softmax(2))
    expected = gr.dense.jacobian(model, x, target=softmax).square().sum((1, 2)).mean()
    torch.testing.assert_close(gr.JacReg(1.0, class_dim=2)(model, x).detach(), expected, rtol=1e-9, atol=0)
    row = gr.JacobianPenalty(1.0, projection=gr.LossDirection(class_dim=2))
    torch.testing.assert_close(row(model, x, y), gr.DoubleBack(1.0, loss=each)(model, x, y), rtol=1e-9, atol=0)


# Input trees: a model of an image, a vector of numbers and integer codes, fed in every form.


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.extra, self.code = nn.Linear(6, 4), nn.Linear(2, 4), nn.Embedding(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor, extra: Tensor, code: Tensor) -> Tensor:
        return self.head(torch.tanh(self.image(image) * self.extra(extra) + self.code(code)))


Three = namedtuple("Three", "image extra code")


@pytest.fixture
def mixed() -> tuple[Mixed, Three]:
    torch.manual_seed(4)
    model = Mixed().double()
    return model, Three(torch.randn(3, 6).double(), torch.randn(3, 2).double(), torch.randint(5, (3,)))


def forms(model: Mixed, parts: Three) -> dict[str, tuple[Any, Any, tuple[str, str]]]:
    """How the model is called, the inputs, and the names of image and extra."""
    return {
        "tuple": (lambda x: model(*x), tuple(parts), ("0", "1")),
        "list": (lambda x: model(*x), list(parts), ("0", "1")),
        "namedtuple": (lambda x: model(x.image, x.extra, x.code), parts, ("0", "1")),
        "dict": (lambda x: model(**x), parts._asdict(), ("image", "extra")),
        "nested": (lambda x: model(x["a"][0], x["a"][1], x["b"]), {"a": parts[:2], "b": parts[2]}, ("a.0", "a.1")),
        "args": (model, gr.Args(parts.image, extra=parts.extra, code=parts.code), ("0", "extra")),
    }


@pytest.mark.parametrize("engine", EXACT, ids=repr)
@pytest.mark.parametrize("form", ["tuple", "list", "namedtuple", "dict", "nested", "args"])
def test_all_floating_point_tensors_of_a_tree_or_those_named(mixed: Any, form: str, engine: gr.Engine) -> None:
    model, parts = mixed
    call, x, (image, extra) = forms(model, parts)[form]

    def norm(index: int) -> Tensor:
        def along(one: Tensor) -> Tensor:
            return model(*[one if i == index else part for i, part in enumerate(parts)])

        leaf = parts[index].clone().requires_grad_()
        rows = [torch.autograd.grad(along(leaf)[:, k].sum(), leaf)[0].square().sum() for k in range(3)]
        return torch.stack(rows).sum() / 3

    for site, expected in (
        (gr.Input(), norm(0) + norm(1)),
        (gr.Input(image), norm(0)),
        (gr.Input(extra), norm(1)),
        (gr.Input(extra, image), norm(0) + norm(1)),
    ):
        value = gr.FrobReg(1.0, site=site, engine=engine)(call, x)
        torch.testing.assert_close(value.detach(), expected, rtol=1e-9, atol=0)


def test_a_name_that_the_tree_lacks_is_refused_with_those_it_has(mixed: Any) -> None:
    model, parts = mixed
    with pytest.raises(ValueError, match="no tensor named 'picture'; it has 'image', 'extra', 'code'"):
        gr.FrobReg(1.0, site=gr.Input("picture"))(lambda x: model(**x), parts._asdict())


def test_a_tuple_for_a_model_of_several_arguments_gets_the_remedy() -> None:
    with pytest.raises(TypeError) as caught:
        gr.FrobReg(1.0)(nn.Bilinear(2, 3, 4), (torch.randn(5, 2), torch.randn(5, 3)))
    assert any("pass gr.Args(*x)" in note for note in caught.value.__notes__)


def test_token_ids_are_served_at_their_embedding() -> None:
    torch.manual_seed(0)
    head = nn.Linear(12, 3).double()
    model = nn.Sequential(nn.Embedding(10, 4).double(), nn.Flatten(), head)
    tokens = torch.randint(10, (5, 3))
    expected = head.weight.square().sum()
    for engine in (*EXACT, gr.FiniteDifference()):
        value = gr.FrobReg(1.0, site=gr.Hidden("0"), engine=engine)(model, tokens)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_outputs_in_a_container_are_reached_by_a_function_target() -> None:
    layer = nn.Linear(4, 3).double()
    x = torch.randn(5, 4).double()
    value = gr.FrobReg(1.0, target=lambda out: out["logits"])(lambda x: {"logits": layer(x), "aux": None}, x)
    torch.testing.assert_close(value, layer.weight.square().sum())


class WithLogits(nn.Module):
    """Returns an object that holds its logits, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    def forward(self, x: Tensor) -> Any:
        found = namedtuple("Found", ["loss", "logits"])
        return found(None, self.inner(x))


@pytest.mark.parametrize(
    "penalty", [gr.FrobReg(0.1), gr.JacReg(0.1), gr.ConfidencePenalty(0.1)], ids=lambda p: type(p).__name__
)
def test_the_logits_of_an_object_are_found(penalty: gr.Penalty) -> None:
    model, x = WithLogits(), torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(penalty(model, x), penalty(model.inner, x))
