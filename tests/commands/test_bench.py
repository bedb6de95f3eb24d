"""`gradreg bench`: the rows, what does not work, the sentence, JSON, and errors. How long steps take is not tested."""

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import gradreg as gr
from gradreg._timing import Spread
from gradreg.cli import main
from gradreg.commands.bench import recommendation
from gradreg.study import networks
from gradreg.study.steps import Row, accepts

FORMATS = ["contiguous", "channels_last"]
NAMES = ["plain", "SpectReg", "SpectReg, ForwardMode", "SpectReg, FiniteDifference", "DoubleBack"]
if accepts(gr.SpectReg, "every"):
    NAMES.insert(4, "SpectReg, every=8")

NETS = """
class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g

class Marked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return Once.apply(self.layer(x)).tanh()

class Two(nn.Bilinear):
    def __init__(self):
        super().__init__(2, 3, 4)

def image():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 7))

def flat():
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))

def scalar():
    return nn.Sequential(flat(), nn.Flatten(0))

def fixed():
    return flat().requires_grad_(False)

def vectors():
    return torch.randn(5, 6)

def pairs():
    return torch.randn(5, 6), torch.randn(5, 1)

def arguments():
    import gradreg as gr
    return gr.Args(torch.randn(5, 2), torch.randn(5, 3)), torch.randint(4, (5,))

def raising():
    raise KeyError("no data")

def nothing():
    return "nothing"

constant = 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with the networks above, in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"own_nets_{random.getrandbits(40)}"
    Path(f"{name}.py").write_text(f"import torch\nfrom torch import nn\n{NETS}")
    yield name
    sys.modules.pop(name, None)
    networks._imported.clear()


@pytest.fixture
def bench(nets: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, dict]]:
    """Runs the command with 2 repeats; gives what it printed and its JSON."""

    def run(*words: str) -> tuple[str, dict]:
        main(["bench", *(word.replace("NETS", nets) for word in words), "--repeats", "2", "--json", "found.json"])
        return capsys.readouterr().out, json.loads(Path("found.json").read_text())

    return run


def message(*words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *words])
    assert isinstance(stopped.value.code, str)
    return stopped.value.code


def test_images_are_timed_in_both_formats(bench: Callable[..., tuple[str, dict]]) -> None:
    text, found = bench("NETS:image", "--shape", "3", "8", "8", "--batch", "4", "--threads", "1")
    assert [(row["name"], row["format"]) for row in found["rows"]] == [(n, f) for f in FORMATS for n in NAMES]
    assert found["failed"] == []
    assert (found["parameters"], found["batch"], found["threads"], found["dtype"]) == (1127, 4, 1, "float32")
    assert found["environment"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "1,127 parameters, batch 4, float32, 1 thread, median of 2 steps in turn" in text
    assert text.count("channels_last ") == len(NAMES)
    assert found["recommendation"] in text
    assert found["recommendation"].startswith("Fastest exact form: gr.SpectReg(weight")
    assert text.rstrip().endswith("written to found.json")
    for row in found["rows"]:
        assert row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
    assert min(row["to_fastest"] for row in found["rows"] if row["name"] == "plain") == 1


def test_vectors_have_one_format_and_engines_that_do_not_work_are_named(
    bench: Callable[..., tuple[str, dict]],
) -> None:
    text, found = bench("NETS:Marked", "--shape", "6", "--batch", "4")
    assert [row["name"] for row in found["rows"]] == ["plain", "SpectReg, FiniteDifference"]
    failed = {entry["name"]: entry["reason"] for entry in found["failed"]}
    assert set(failed) == set(NAMES) - {"plain", "SpectReg, FiniteDifference"}
    assert all("UnsupportedOperationError" in reason for reason in failed.values())
    assert "SpectReg, contiguous: does not work here: UnsupportedOperationError: " in text
    assert "No exact engine works for this model; gr.SpectReg(weight, engine=gr.FiniteDifference()) costs" in text


@pytest.mark.parametrize(
    ("network", "example"),
    [
        ("NETS:flat", "NETS:vectors"),
        ("NETS:flat", "NETS:pairs"),
        ("NETS:Two", "NETS:arguments"),
        ("mlp", "NETS:vectors"),
    ],
)
def test_a_batch_of_ones_own(bench: Callable[..., tuple[str, dict]], network: str, example: str) -> None:
    _, found = bench(network, "--example", example)
    assert [row["name"] for row in found["rows"]] == NAMES
    assert found["batch"] == 5


def test_built_in_networks_know_their_shape_and_bfloat16_runs(bench: Callable[..., tuple[str, dict]]) -> None:
    text, found = bench("small-cnn", "--batch", "3", "--dtype", "bfloat16", "--classes", "4")
    assert found["dtype"] == "bfloat16"
    assert [row["name"] for row in found["rows"] if row["format"] == "contiguous"] == NAMES
    assert "batch 3, bfloat16" in text


def test_threads_are_put_back(bench: Callable[..., tuple[str, dict]]) -> None:
    bench("NETS:flat", "--shape", "6", "--threads", "2")
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mlp", "--shape", "6", "--batch", "0"], "--batch got 0; expected a whole number >= 1."),
        (["mlp", "--shape", "6", "--repeats", "0"], "--repeats got 0; expected a whole number >= 1."),
        (["mlp", "--shape", "6", "--threads", "0"], "--threads got 0; expected a whole number >= 1."),
        (["mlp", "--shape", "0"], "--shape got 0; expected a whole number >= 1."),
        (["mlp"], "gradreg bench mlp does not know what inputs look like; write --shape for one input, as in --shape"),
        (["mlp", "--shape", "6", "--example", "NETS:vectors"], "--shape and --example both say what inputs are; leave"),
        (["mlp", "--example", "vectors"], "--example got 'vectors'; expected module:function, as in mydata:batch or"),
        (["mlp", "--example", "NETS:vector"], "the module has no such name: 'vector' is not known; did you mean"),
        (["mlp", "--example", "NETS:constant"], "an object of type int; expected a function without arguments that"),
        (["mlp", "--example", "NETS:raising"], "raising() raised KeyError: 'no data'"),
        (["mlp", "--example", "NETS:nothing"], "returned str without a tensor; expected x (B, ...) or (x, y)."),
        (["NETS:fixed", "--shape", "6"], "has no parameters that require grad: nothing to train."),
        (["NETS:flat", "--shape", "7"], "fails on inputs of shape (64, 7): RuntimeError: mat1 and mat2 shapes cannot"),
        (["NETS:flat", "--shape", "7"], "Write --shape for one input's shape without the batch, or --example module"),
        (["NETS:scalar", "--shape", "6"], "gave an output of shape (64,); expected class scores (B, C, ...). For"),
        (["lenet", "--shape", "6"], "there is no network of that name: 'lenet' is not known; did you mean 'lenet5'?"),
        (["mlp", "--shape", "6", "--device", "cuda:99"], "--device got cuda:99, which cannot be used here: "),
    ],
)
def test_errors_say_what_to_write(nets: str, words: list[str], expected: str) -> None:
    assert expected in message(*(word.replace("NETS", nets) for word in words))


def test_the_sentence_names_the_fastest_exact_form_and_a_lazy_one() -> None:
    def row(name: str, memory_format: str, to_fastest: float) -> Row:
        return Row(name, memory_format, 2.0, Spread(to_fastest / 100, 0.0, 1.0, 0.0), 9.0, to_fastest, 9.0)

    rows = (
        row("plain", "contiguous", 1.2),
        row("SpectReg", "contiguous", 2.5),
        row("SpectReg, ForwardMode", "contiguous", 2.6),
        row("SpectReg, FiniteDifference", "contiguous", 2.1),
        row("plain", "channels_last", 1.0),
        row("SpectReg, ForwardMode", "channels_last", 2.25),
    )
    assert recommendation(rows) == (
        "Fastest exact form: gr.SpectReg(weight, engine=gr.ForwardMode()) costs 2.25x the fastest plain step "
        "(model.to(memory_format=torch.channels_last), and x as well, 22.50 ms)."
    )
    assert recommendation((*rows[:3], row("SpectReg, every=8", "contiguous", 1.4))) == (
        "Fastest exact form: gr.SpectReg(weight) costs 2.50x the fastest plain step (25.00 ms); "
        "with every=8 it is 1.40x."
    )
    assert recommendation(rows[:1]) == "No engine works for this model; the reasons above say what to change."
