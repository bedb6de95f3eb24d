"""Networks by name: built in, the user's own from modules and files, and the check before any training."""

import copy
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gradreg.models import MLP, ConvNet, LeNet5, ResNet, ResNet18, SmallCNN
from gradreg.study import networks
from gradreg.study.config import StudyError
from gradreg.study.networks import network
from gradreg.study.source import code_hash

RGB = (3, 16, 16)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes a module of the user's own into the current directory; gives the name that is new each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    made = []

    def writer(source: str, name: str = "") -> str:
        name = name or f"own_network_{random.getrandbits(40)}"
        made.append(name)
        Path(f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{source}\n")
        return name

    yield writer
    for name in set(sys.modules) - before:
        if name in made or name.startswith("gradreg_network_"):
            del sys.modules[name]
    networks._imported.clear()


FLAT = "nn.Sequential(nn.Flatten(), nn.Linear({}, {}))"


# --- built in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("lenet5", (1, 28, 28), LeNet5),
        ("lenet5-batchnorm", (1, 28, 28), LeNet5),
        ("lenet5-batch-statistics", (1, 28, 28), LeNet5),
        ("lenet5-plain", (1, 28, 28), LeNet5),
        ("small-cnn", (1, 8, 8), SmallCNN),
        ("small-cnn-dropout", (1, 8, 8), SmallCNN),
        ("small-cnn-batchnorm", (1, 8, 8), SmallCNN),
        ("convnet", (3, 32, 32), ConvNet),
        ("convnet", (1, 20, 9), ConvNet),
        ("resnet", (3, 32, 32), ResNet),
        ("resnet-width8", (3, 32, 32), ResNet),
        ("resnet-width16", (1, 8, 8), ResNet),
        ("resnet18", (3, 64, 64), ResNet18),
        ("resnet18-width16", (3, 64, 64), ResNet18),
        ("mlp", (3, 8, 8), MLP),
        ("mlp", (20,), MLP),
    ],
)
def test_built_in_networks_fit_their_shapes(name: str, shape: tuple[int, ...], kind: type[nn.Module]) -> None:
    model = network(name, shape, 10)
    assert isinstance(model, kind)
    assert model(torch.zeros(2, *shape)).shape == (2, 10)
    assert code_hash(name) == ""


def test_built_in_networks_have_the_papers_sizes_and_the_widths_of_their_names() -> None:
    def parameters(name: str, shape: tuple[int, ...], classes: int) -> int:
        return sum(p.numel() for p in network(name, shape, classes).parameters())

    assert parameters("resnet", (3, 32, 32), 10) == 2412730
    assert parameters("resnet18", (3, 64, 64), 200) == 11279112
    for name, width in (("resnet-width8", 8), ("resnet-width16", 16), ("resnet18-width16", 16)):
        kind = ResNet18 if "18-" in name else ResNet
        expected = sum(p.numel() for p in kind(classes=7, width=width).parameters())
        assert parameters(name, (3, 32, 32), 7) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lenet5", [nn.Dropout]),
        ("lenet5-batchnorm", [nn.BatchNorm1d]),
        ("lenet5-batch-statistics", [nn.BatchNorm1d]),
        ("lenet5-plain", []),
    ],
)
def test_lenets_differ_in_what_stands_behind_the_layer_of_84(name: str, expected: list[type[nn.Module]]) -> None:
    model = network(name, (1, 28, 28), 10)
    found = [type(layer) for layer in model.modules() if isinstance(layer, (nn.Dropout, nn.BatchNorm1d))]
    assert found == expected
    # None of them has weights before it drawn otherwise: seeds of a study give the same start to each.
    torch.manual_seed(5)
    first = network("lenet5", (1, 28, 28), 10)
    torch.manual_seed(5)
    second = network(name, (1, 28, 28), 10)
    assert torch.equal(first.classifier[-1].weight, second.classifier[-1].weight)  # type: ignore[index, union-attr]


def test_built_in_networks_are_drawn_as_when_made_by_hand() -> None:
    torch.manual_seed(3)
    expected = LeNet5().state_dict()
    torch.manual_seed(3)
    found = network("lenet5", (1, 28, 28), 10).state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lenet5", RGB, r"'lenet5' takes inputs \(1, 28, 28\), but these are \(3, 16, 16\); write 'convnet'\.$"),
        (
            "small-cnn",
            (1, 28, 28),
            r"'small-cnn' takes inputs \(1, 8, 8\), but these are \(1, 28, 28\); write 'lenet5'",
        ),
        ("convnet", (20,), r"'convnet' takes inputs \(channels, height, width\) with sides .* \(20,\); write 'mlp'\.$"),
        ("convnet", (1, 7, 9), r"with sides of at least 8, but these are \(1, 7, 9\); write 'mlp'\.$"),
        (
            "lenet",
            RGB,
            r"there is no network of that name: 'lenet' is not known; did you mean 'lenet5'\? \(or module:fa",
        ),
        ("resnet", (20,), r"'resnet' takes inputs .* \(20,\); write 'mlp'\.$"),
        ("vgg", RGB, r"'vgg' is not known"),
    ],
)
def test_built_in_networks_that_do_not_fit_name_another(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        network(name, shape, 10)


# --- the user's own ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("def build(classes, shape)", "assert shape == (3, 16, 16)\n    return " + FLAT.format(768, "classes")),
        ("def build(features, *, classes)", "return " + FLAT.format("features", "classes")),
        ("def build(channels, size, classes)", "return " + FLAT.format("channels * size**2", "classes")),
        ("def build(*args, width=3)", "assert not args\n    return " + FLAT.format(768, 4)),
        ("def build(features, **more)", "assert set(more) == {'classes', 'shape'}\n    return " + FLAT.format(768, 4)),
        ("def build()", "return " + FLAT.format(768, 4)),
    ],
    ids=["shape", "features", "size", "nothing asked for", "kwargs", "none"],
)
def test_a_factory_gets_the_keywords_that_it_names(write: Callable[..., str], head: str, body: str) -> None:
    module = write(f"{head}:\n    {body}")
    for name in (f"{module}:build", f"{module}.py:build"):
        assert network(name, RGB, 4)(torch.zeros(5, *RGB)).shape == (5, 4)


def test_a_class_is_a_factory_and_a_file_may_import_its_neighbours(write: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    neighbour = write("width = 5", f"deep/own_neighbour_{random.getrandbits(40)}")
    write(
        f"from {neighbour[5:]} import width\nclass Net(nn.Module):\n    def __init__(self, classes):\n"
        "        super().__init__()\n        self.layer = nn.Linear(7, classes)\n"
        "    def forward(self, x):\n        return self.layer(x)\n",
        "deep/net",
    )
    path = list(sys.path)
    model = network("deep/net.py:Net", (7,), 3)
    assert type(model).__name__ == "Net"
    assert sys.path == path
    assert network(f"{tmp_path}/deep/net.py:Net", (7,), 3)(torch.zeros(1, 7)).shape == (1, 3)


def test_a_changed_source_has_another_hash_and_is_imported_anew(write: Callable[..., str]) -> None:
    module = write("def build(): return nn.Linear(7, 3)")
    names = (f"{module}:build", f"{module}.py:build")
    first = {code_hash(name) for name in names}
    assert len(first) == 1
    assert len(first.pop()) == 16
    assert all(isinstance(network(name, (7,), 3), nn.Linear) for name in names)
    before = code_hash(names[0])
    write("def build(): return nn.Sequential(nn.Linear(7, 3), nn.Identity())", module)
    assert code_hash(names[0]) != before
    assert all(isinstance(network(name, (7,), 3), nn.Sequential) for name in names)


REFUSED = {
    "no such factory": (
        "def build(): ...",
        "bild",
        (7,),
        r"the module has no such factory: 'bild' is not known; did you",
    ),
    "instance": (
        "net = nn.Linear(7, 3)",
        "net",
        (7,),
        r"is an object of type Linear, but each run trains a network of its own; write",
    ),
    "number": ("net = 3", "net", (7,), r"is an object of type int, but .*write def factory\(\*, classes, shape, ch"),
    "other keyword": (
        "def build(classes, num_layers): ...",
        "build",
        (7,),
        r"wants 'num_layers', which is not known here; write def factory\(\*, classes, shape, channels, size, f",
    ),
    "positional": ("def build(classes, /): ...", "build", (7,), r"wants 'classes', which is not known here; write def"),
    "channels of features": (
        "def build(channels): ...",
        "build",
        (7,),
        r"wants 'channels', which inputs of shape \(7,\) do not have",
    ),
    "side of an oblong": (
        "def build(size): ...",
        "build",
        (1, 8, 9),
        r"wants 'size', which inputs of shape \(1, 8, 9\) do",
    ),
    "factory fails": (
        "def build(classes): 1 / 0",
        "build",
        (7,),
        r"build\(classes=3\) raised ZeroDivisionError: division",
    ),
    "no module": ("def build(): return 3", "build", (7,), r"build returned int; expected a torch\.nn\.Module\.$"),
    "forward fails": (
        "def build(): return nn.Linear(8, 3)",
        "build",
        (7,),
        r"fails on inputs of shape \(2, 7\): RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    "other classes": (
        "def build(): return nn.Linear(7, 4)",
        "build",
        (7,),
        r"gave an output of shape \(2, 4\) for inputs of shape \(2, 7\); expected class scores of shape \(2, 3\)",
    ),
    "no tensor": ("def build(): return nn.LSTM(7, 3)", "build", (7,), r"gave an output of type tuple for inputs"),
    "broken source": ("1 / 0", "build", (7,), r"cannot be imported: ZeroDivisionError: division by zero"),
    "bad syntax": ("def", "build", (7,), r"cannot be imported: SyntaxError"),
}


@pytest.mark.parametrize(("source", "factory", "shape", "message"), REFUSED.values(), ids=REFUSED)
def test_a_network_that_does_not_fit_says_why(
    write: Callable[..., str], source: str, factory: str, shape: tuple[int, ...], message: str
) -> None:
    module = write(source)
    for name in (f"{module}:{factory}", f"{module}.py:{factory}"):
        with pytest.raises(StudyError, match=message):
            network(name, shape, 3)


def test_modules_that_are_not_there_say_where_they_were_looked_for(write: Callable[..., str], tmp_path: Path) -> None:
    for ask in (code_hash, lambda name: network(name, (7,), 3)):
        with pytest.raises(StudyError, match=r"is in a module 'nowhere' that is not there; expected nowhere\.py in /"):
            ask("nowhere:build")
        with pytest.raises(StudyError, match=r"'nets\.deep:build' cannot be imported: ModuleNotFoundError"):
            ask("nets.deep:build")
        with pytest.raises(StudyError, match=r"'x/nowhere\.py:build' is in /.*/x/nowhere\.py, which is not there\.$"):
            ask("x/nowhere.py:build")
        with pytest.raises(
            StudyError, match=r"is in a module without a source file \(built-in\), so that changes to it"
        ):
            ask("sys:exit")
        for bad in ("a:", ":b", "a:b c"):
            with pytest.raises(StudyError, match=r"expected module:factory, as in mynet:build or mynet\.py:Net\.$"):
                ask(bad)


# --- the check changes nothing ----------------------------------------------------------------------------------------

DRAWS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
        self.layers[1].eval()
    def forward(self, x):
        return self.layers(x + torch.rand(7))
"""


def test_the_check_leaves_generators_buffers_and_modes_alone(write: Callable[..., str]) -> None:
    name = f"{write(DRAWS)}:Net"
    torch.manual_seed(1)
    model = network(name, (7,), 3)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    expected = type(model)()
    assert torch.equal(torch.get_rng_state(), after)
    state = copy.deepcopy(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())
    assert [module.training for module in model.modules()] == [module.training for module in expected.modules()]
    assert model.training
    assert all(p.grad is None for p in model.parameters())
