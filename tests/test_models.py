"""The networks: sizes, shapes, and the distribution that their weights are drawn from."""

import copy
import doctest
from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradreg import models
from gradreg.models import MLP, ConvNet, LeNet5, ResNet, ResNet18, SmallCNN, initialize

# The variance of each layer's weights, counted by hand: fans are the connections of one unit, 4 or 2 over their sum.
LENET_VARIANCES = {
    "features.0": 4 / (1 * 25 + 6 * 25),
    "features.3": 4 / (6 * 25 + 16 * 25),
    "classifier.1": 2 / (400 + 120),
    "classifier.3": 2 / (120 + 84),
    "classifier.6": 2 / (84 + 10),
}
SMALL_VARIANCES = {
    "layers.0": 4 / (1 * 9 + 16 * 9),
    "layers.2": 4 / (16 * 9 + 32 * 9),
    "layers.6": 2 / (512 + 64),
    "layers.8": 2 / (64 + 10),
}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --- sizes and shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regularization", "expected"),
    [("dropout", 61706), ("none", 61706), ("batchnorm", 61706 + 2 * 84), ("batch-statistics", 61706 + 168)],
)
def test_lenet_has_the_published_number_of_parameters(regularization: Any, expected: int) -> None:
    assert parameters(LeNet5(regularization)) == expected


def test_batch_statistics_couple_examples_in_evaluation_mode_as_in_training() -> None:
    model, x = LeNet5("batch-statistics"), torch.randn(6, 1, 28, 28)
    assert torch.equal(model.train()(x), model.eval()(x))
    assert not torch.allclose(model(x)[:3], model(x[:3]), rtol=1e-3, atol=1e-3)
    running = LeNet5("batchnorm").eval()
    torch.testing.assert_close(running(x)[:3], running(x[:3]), rtol=1e-4, atol=1e-5)


def test_lenet_drops_out_by_default_and_has_ten_classes() -> None:
    model = LeNet5()
    assert [type(m) for m in model.modules() if isinstance(m, (nn.Dropout, nn.BatchNorm1d))] == [nn.Dropout]
    assert model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_lenets_maps_have_the_published_sizes() -> None:
    x, shapes = torch.zeros(1, 1, 28, 28), []
    for layer in LeNet5().features.children():
        x = layer(x)
        if not isinstance(layer, nn.ReLU):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)]


def test_the_small_network_has_the_documented_layers() -> None:
    assert parameters(SmallCNN()) == (9 * 16 + 16) + (16 * 9 * 32 + 32) + (512 * 64 + 64) + (64 * 10 + 10)


def test_the_small_network_has_what_is_asked_for_in_front_of_its_last_layer() -> None:
    """And without it the names that its kept weights have."""
    assert set(SmallCNN().state_dict()) == {f"layers.{i}.{n}" for i in (0, 2, 6, 8) for n in ("weight", "bias")}
    dropped, normalized, batch = (SmallCNN(regularization=r) for r in ("dropout", "batchnorm", "batch-statistics"))
    assert isinstance(dropped.layers[8], nn.Dropout)
    assert isinstance(normalized.layers[8], nn.BatchNorm1d)
    assert isinstance(batch.layers[8], nn.BatchNorm1d)
    assert batch.layers[8].running_mean is None
    x = torch.randn(5, 1, 8, 8)
    assert normalized(x).shape == (5, 10)
    torch.manual_seed(0)
    one = SmallCNN()
    torch.manual_seed(0)
    two = SmallCNN(regularization="dropout").eval()
    assert torch.equal(one(x), two(x))  # the same draws
    with pytest.raises(ValueError, match="SmallCNN got regularization='drop'; expected 'dropout' or"):
        SmallCNN(regularization="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda classes: LeNet5(classes=classes), 28),
        (lambda classes: LeNet5("batchnorm", classes=classes), 28),
        (lambda classes: LeNet5("none", classes=classes), 28),
        (lambda classes: SmallCNN(classes=classes), 8),
    ],
    ids=["lenet-dropout", "lenet-batchnorm", "lenet-none", "small"],
)
def test_images_become_one_row_of_logits_each(make: Callable[[int], nn.Module], size: int, classes: int) -> None:
    model, x = make(classes).eval(), torch.randn(5, 1, size, size)
    z = model(x)
    assert z.shape == (5, classes)
    torch.testing.assert_close(model(x[2:3]), z[2:3], rtol=1e-4, atol=1e-5)  # an example does not see its neighbours
    assert z.min() < 0 < z.max()  # logits, not probabilities


@pytest.mark.parametrize(("regularization", "kind"), [("dropout", nn.Dropout), ("batchnorm", nn.BatchNorm1d)])
def test_the_regularization_is_on_the_layer_of_84(regularization: Any, kind: type[nn.Module]) -> None:
    model = LeNet5(regularization)
    seen: list[Tensor] = []
    (layer,) = (module for module in model.modules() if isinstance(module, kind))

    def watch(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.extend((*inputs, output))

    layer.register_forward_hook(watch)
    model(torch.randn(200, 1, 28, 28))
    before, after = seen
    assert before.shape == (200, 84)
    assert (before >= 0).all()  # behind its ReLU
    if kind is nn.Dropout:
        alive = before > 0
        kept = (after[alive] != 0).double().mean()
        assert abs(kept - 0.5) < 5 * 0.5 / sqrt(int(alive.sum()))  # five standard deviations
    else:
        assert after.mean(0).abs().max() < 1e-4


def test_without_regularization_training_and_evaluation_agree() -> None:
    model, x = LeNet5("none"), torch.randn(3, 1, 28, 28)
    assert torch.equal(model.train()(x), model.eval()(x))
    dropping = LeNet5("dropout")
    assert not torch.equal(dropping.train()(x), dropping.eval()(x))


# --- networks for any data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [8, 9, 15, 16, 28, 31, 32, 47, 48, 49, 50, 51, 64, 96, 100, (8, 30), (70, 20), (60, 48)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_convolutional_network_takes_any_size(size: int | tuple[int, int], channels: int) -> None:
    sides = (size, size) if isinstance(size, int) else size
    model, x = ConvNet(channels, size, classes=5, width=4).eval(), torch.randn(3, channels, *sides)
    assert 4 <= min(model.features(x).shape[2:]) <= 7
    z = model(x)
    assert z.shape == (3, 5)
    torch.testing.assert_close(model(x[1:2]), z[1:2], rtol=1e-4, atol=1e-5)


def test_the_convolutional_networks_stages_double_up_to_four_times_the_width() -> None:
    def widths(size: int) -> list[tuple[int, int]]:
        layers = [layer for layer in ConvNet(3, size, 10, width=8).features if isinstance(layer, nn.Conv2d)]
        return [(layer.out_channels, layer.kernel_size[0]) for layer in layers]

    assert widths(8) == [(8, 3)]
    assert widths(32) == [(8, 3), (16, 3), (32, 3)]
    assert widths(47) == [(8, 3), (16, 3), (32, 3)]
    assert widths(64) == [(8, 5), (16, 3), (32, 3)]
    assert widths(256) == [(8, 5), (16, 3), (32, 3), (32, 3), (32, 3)]
    expected = (3 * 9 * 32 + 32) + (32 * 9 * 64 + 64) + (64 * 9 * 128 + 128) + (128 * 10 + 10)
    assert parameters(ConvNet(3, 32, 10)) == expected


@pytest.mark.parametrize(("hidden", "layers"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_the_dense_network_has_the_layers_asked_for_and_flattens(hidden: int, layers: int) -> None:
    model = MLP(12, classes=3, width=7, hidden=hidden)
    assert sum(isinstance(layer, nn.Linear) for layer in model.modules()) == layers
    x = torch.randn(4, 3, 2, 2)
    assert model(x).shape == (4, 3)
    assert torch.equal(model(x), model(x.flatten(1)))


def test_networks_for_any_data_have_zero_biases_and_the_scripts_variance() -> None:
    for model in (ConvNet(3, 64, 10), MLP(100, 10)):
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fans = sum(nn.init._calculate_fan_in_and_fan_out(module.weight))
                bound = sqrt(3 * (4 if isinstance(module, nn.Conv2d) else 2) / fans)
                assert 0.9 * bound < module.weight.abs().max() <= bound * (1 + 1e-6)
                assert module.bias is not None
                assert module.bias.abs().max() == 0
    assert any(p.ndim == 1 and p.abs().max() > 0 for p in ConvNet(1, 8, 2, initialization="torch").parameters())
    assert any(p.ndim == 1 and p.abs().max() > 0 for p in MLP(8, 2, initialization="torch").parameters())


@pytest.mark.parametrize("kind", [ConvNet, MLP, ResNet, ResNet18])
def test_examples_of_networks_run(kind: type[nn.Module]) -> None:
    examples = doctest.DocTestParser().get_examples(kind.__doc__ or "")
    assert examples
    for example in examples:
        assert repr(eval(example.source, {**vars(models), "torch": torch})) == example.want.strip()


def test_networks_for_any_data_refuse_what_they_cannot_take() -> None:
    with pytest.raises(
        ValueError, match=r"^ConvNet got size=7; expected sides of at least 8\. Enlarge the images or use"
    ):
        ConvNet(3, 7, 10)
    with pytest.raises(ValueError, match=r"^ConvNet got size=\(32, 4\); expected sides of at least 8"):
        ConvNet(3, (32, 4), 10)
    with pytest.raises(ValueError, match=r"^ConvNet got channels=0; expected a whole number >= 1"):
        ConvNet(0, 32, 10)
    with pytest.raises(ValueError, match=r"^ResNet got blocks=0; expected a whole number >= 1"):
        ResNet(blocks=0)
    with pytest.raises(ValueError, match=r"^ResNet18 got width=0; expected a whole number >= 1"):
        ResNet18(width=0)
    with pytest.raises(ValueError, match=r"^MLP got hidden=-1; expected a whole number >= 1"):
        MLP(3, 10, hidden=-1)
    with pytest.raises(ValueError, match=r"^MLP got width=0; expected a whole number >= 1"):
        MLP(3, 10, width=0)


# --- the residual network ---------------------------------------------------------------------------------------------


def test_the_residual_network_has_the_papers_filters_and_about_2_5_million_parameters() -> None:
    model = ResNet()
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [48] * 7 + [96] * 6 + [192] * 6
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}  # none of 1 x 1 on a shortcut
    weights = 9 * (3 * 48 + 6 * 48**2 + 48 * 96 + 5 * 96**2 + 96 * 192 + 5 * 192**2)
    normalization = 2 * (7 * 48 + 6 * 96 + 6 * 192)
    assert parameters(model) == weights + normalization + (192 * 10 + 10) == 2412730


@pytest.mark.parametrize("side", [8, 9, 30, 32])
def test_the_residual_networks_levels_halve_the_sides(side: int) -> None:
    model, x = ResNet(1, classes=5, width=2, blocks=2).eval(), torch.randn(3, 1, side, side)
    shapes = []
    h = model.stem(x)
    for block in model.blocks:
        h = block(h)
        shapes.append(tuple(h.shape[1:]))
    half, quarter = (side + 1) // 2, ((side + 1) // 2 + 1) // 2
    assert shapes == [(2, side, side)] * 2 + [(4, half, half)] * 2 + [(8, quarter, quarter)] * 2
    z = model(x)
    assert z.shape == (3, 5)
    torch.testing.assert_close(model(x[1:2]), z[1:2], rtol=1e-4, atol=1e-5)


def test_a_block_of_zero_weights_is_its_shortcut_averaged_and_padded_with_zeros() -> None:
    block = ResNet(width=2, blocks=1).blocks[1].eval()
    with torch.no_grad():
        for p in block.parameters():
            p.zero_()
    x = torch.rand(3, 2, 6, 6)
    found = block(x)
    assert torch.equal(found[:, 2:], torch.zeros(3, 2, 3, 3))
    torch.testing.assert_close(found[:, :2], x.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5)))


def test_resnet_18_has_its_filters_and_about_11_3_million_parameters() -> None:
    model = ResNet18()
    convolutions = [(c.out_channels, c.kernel_size[0]) for c in model.modules() if isinstance(c, nn.Conv2d)]
    levels = [(64, 3)] * 4
    for width in (128, 256, 512):
        levels += [(width, 3), (width, 3), (width, 1), (width, 3), (width, 3)]
    assert convolutions == [(64, 7), *levels]
    assert sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in model.modules()) - 3 == 18  # 3 are of shortcuts
    weights = 3 * 64 * 49 + 9 * (4 * 64**2 + sum(m * m // 2 + 3 * m * m for m in (128, 256, 512)))
    weights += sum(m * m // 2 for m in (128, 256, 512))
    normalization = 2 * (5 * 64 + 5 * (128 + 256 + 512))
    assert parameters(model) == weights + normalization + (512 * 200 + 200) == 11279112


def test_resnet_18_divides_the_sides_of_64_by_4_and_then_halves_them() -> None:
    model, x = ResNet18(classes=7, width=2).eval(), torch.randn(3, 3, 64, 64)
    shapes = []
    h = model.stem(x)
    for block in model.blocks:
        h = block(h)
        shapes.append(tuple(h.shape[1:]))
    assert shapes[::2] == shapes[1::2] == [(2, 16, 16), (4, 8, 8), (8, 4, 4), (16, 2, 2)]
    z = model(x)
    assert z.shape == (3, 7)
    torch.testing.assert_close(model(x[1:2]), z[1:2], rtol=1e-4, atol=1e-5)


def test_a_projected_block_of_zero_residual_is_its_normalized_projection() -> None:
    block, same = ResNet18(width=2).eval().blocks[2], ResNet18(width=2).eval().blocks[1]
    assert isinstance(block, models._ProjectedBlock)
    assert isinstance(same, models._ProjectedBlock)
    assert isinstance(block.projection, nn.Sequential)
    with torch.no_grad():
        for p in block.residual.parameters():
            p.zero_()
    x = torch.rand(3, 2, 6, 6)
    convolution, norm = block.projection
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    expected = torch.einsum("oi,bihw->bohw", convolution.weight[:, :, 0, 0], x[:, :, ::2, ::2])
    torch.testing.assert_close(block(x), torch.relu(expected / (1 + norm.eps) ** 0.5))
    with torch.no_grad():
        for p in same.residual.parameters():
            p.zero_()
    assert torch.equal(same(x), x)


# --- initialization ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "variances"),
    [(LeNet5, LENET_VARIANCES), (lambda: LeNet5("batchnorm"), LENET_VARIANCES), (SmallCNN, SMALL_VARIANCES)],
    ids=["lenet", "lenet-batchnorm", "small"],
)
def test_the_scripts_weights_are_uniform_with_their_variance(
    make: Callable[[], nn.Module], variances: dict[str, float]
) -> None:
    """Mean, variance, fourth moment and range of n draws, each within five of its standard deviations.

    For U(-b, b): the mean of w has the deviation b/sqrt(3n), that of w^2 (its expectation is b^2/3) sqrt(4/45) b^2 /
    sqrt(n), that of w^4 (b^4/5) sqrt(1/9 - 1/25) b^4 / sqrt(n); the largest |w| is below (1 - 20/n) b with
    probability e^-20.
    """
    models = [make() for _ in range(20)]
    for name, variance in variances.items():
        w = torch.cat([model.get_parameter(f"{name}.weight").detach().flatten() for model in models]).double()
        n, b = len(w), sqrt(3 * variance)
        assert w.abs().max() <= b * (1 + 1e-6), name
        assert w.abs().max() >= b * (1 - 20 / n), name
        assert abs(w.mean()) <= 5 * b / sqrt(3 * n), name
        assert abs(w.square().mean() - variance) <= 5 * sqrt(4 / 45) * b**2 / sqrt(n), name
        assert abs((w**4).mean() - b**4 / 5) <= 5 * sqrt(1 / 9 - 1 / 25) * b**4 / sqrt(n), name


@pytest.mark.parametrize(
    ("make", "variances"), [(LeNet5, LENET_VARIANCES), (SmallCNN, SMALL_VARIANCES)], ids=["lenet", "small"]
)
def test_the_scripts_biases_are_zero(make: Callable[[], nn.Module], variances: dict[str, float]) -> None:
    model = make()
    with_bias = [name.removesuffix(".bias") for name, _ in model.named_parameters() if name.endswith(".bias")]
    assert with_bias == list(variances)  # so that the tables above leave no layer out
    assert all(model.get_parameter(f"{name}.bias").abs().max() == 0 for name in with_bias)


def test_torchs_initialization_is_left_alone() -> None:
    """The same numbers as torch draws for the same layers in the same order."""
    torch.manual_seed(1)
    found = SmallCNN("torch")
    torch.manual_seed(1)
    plain = [nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1), nn.Linear(512, 64), nn.Linear(64, 10)]
    drawn = [p for layer in plain for p in layer.parameters()]
    for p, expected in zip(found.parameters(), drawn, strict=True):
        assert torch.equal(p, expected)
    assert found.get_parameter("layers.0.bias").abs().max() > 0
    before = copy.deepcopy(found.state_dict())
    initialize(found, "torch")
    assert all(torch.equal(value, before[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize("make", [LeNet5, SmallCNN])
def test_the_global_seed_decides_the_weights(make: Callable[[], nn.Module]) -> None:
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(torch.cat([p.detach().flatten() for p in make().parameters()]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_initialize_draws_convolutions_and_dense_layers_of_any_model() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Sequential(nn.Linear(4, 5, bias=False)))
    before = copy.deepcopy(model.state_dict())
    initialize(model, "scripts")
    after = model.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"0.weight", "2.0.weight"}
    assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())


# --- errors -----------------------------------------------------------------------------------------------------------


def test_bad_arguments_say_what_to_write() -> None:
    bad: Any = "drop-out"
    expected = r"'dropout' or 'batchnorm' or 'batch-statistics' or 'none'\.$"
    with pytest.raises(ValueError, match=rf"^LeNet5 got regularization='drop-out'; expected {expected}"):
        LeNet5(bad)
    bad = "he"
    for make in (LeNet5, SmallCNN):
        with pytest.raises(ValueError, match=r"got initialization='he'; expected 'scripts' or 'torch'\.$"):
            make(initialization=bad)
    with pytest.raises(ValueError, match=r"^initialize got initialization='he'; expected 'scripts' or 'torch'\.$"):
        initialize(nn.Linear(1, 1), bad)
