"""`gradreg probe`: what it prints, JSON, options and errors."""

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gradreg.cli import main
from gradreg.study import networks

NETS = """
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 6), nn.Linear(6, 3)

    def forward(self, x):
        return {"logits": self.head(self.embedding(x).tanh().mean(1))}

def image():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 7))

def attending():
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

def tokens():
    return torch.randint(11, (5, 4)), torch.randint(3, (5,))
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with the networks above, in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"own_nets_{random.getrandbits(40)}"
    Path(f"{name}.py").write_text(NETS)
    yield name
    sys.modules.pop(name, None)
    networks._imported.clear()


@pytest.fixture
def probe(nets: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, dict]]:
    """Runs the command without timing; gives what it printed and its JSON."""

    def run(*words: str) -> tuple[str, dict]:
        given = (word.replace("NETS", nets) for word in words)
        main(["probe", *given, "--repeats", "0", "--json", "found.json"])
        return capsys.readouterr().out, json.loads(Path("found.json").read_text())

    return run


def test_a_report_is_printed_and_written(probe: Callable[..., tuple[str, dict]]) -> None:
    text, found = probe("NETS:image", "--shape", "3", "8", "8", "--batch", "4", "--threads", "1")
    assert text.startswith("Sequential: 1,135 parameters, 4 examples, cpu, training mode\n")
    assert "Examples: coupled by 1." in text
    assert "Recommended: DoubleBackward(). It is exact on this model." in text
    assert text.rstrip().endswith("written to found.json")
    assert found["recommended"] == "gr.DoubleBackward()"
    assert found["coupling"]["layers"] == ["1"]
    assert (found["batch"], found["threads"], found["dtype"], found["repeats"]) == (4, 1, "float32", 0)
    assert found["environment"]["torch"].startswith(torch.__version__.split("+")[0])
    assert all(engine["works"] for engine in found["engines"].values())


def test_evaluation_mode_couples_nothing(probe: Callable[..., tuple[str, dict]]) -> None:
    text, found = probe("NETS:image", "--shape", "3", "8", "8", "--evaluation")
    assert "evaluation mode" in text
    assert found["coupling"]["leak"] == 0


def test_costs_are_printed(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["probe", "mlp", "--shape", "6", "--repeats", "1"])
    text = capsys.readouterr().out
    assert "Time and memory are relative to a plain step: " in text
    assert text.count("x\n") == 3


def test_what_does_not_work_is_said(probe: Callable[..., tuple[str, dict]]) -> None:
    text, found = probe("NETS:attending", "--shape", "5", "8")
    assert "DoubleBackward() does not work, in self_attn:" in text
    assert found["engines"]["ForwardMode"]["failure"]["layers"] == ["self_attn"]
    assert found["recommended"] == "gr.FiniteDifference(step=None, central=False)"


def test_token_ids_with_a_site_and_outputs_by_name(probe: Callable[..., tuple[str, dict]]) -> None:
    _, found = probe("NETS:Words", "--example", "NETS:tokens", "--site", "embedding", "--output", "logits")
    assert found["batch"] == 5
    assert found["recommended"] == "gr.DoubleBackward()"


def test_bfloat16_runs_under_autocast(probe: Callable[..., tuple[str, dict]]) -> None:
    _, found = probe("small-cnn", "--dtype", "bfloat16", "--batch", "2")
    assert found["dtype"] == "bfloat16"
    assert found["engines"]["DoubleBackward"]["works"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mlp"], "gradreg probe mlp does not know what inputs look like; write --shape for one input, as in --shape"),
        (["mlp", "--shape", "6", "--batch", "0"], "--batch got 0; expected a whole number >= 1."),
        (["mlp", "--shape", "6", "--repeats", "-1"], "--repeats got -1; expected a whole number >= 0."),
        (["mlp", "--shape", "6", "--device", "cuda:99"], "--device got cuda:99, which cannot be used here: "),
        (["lenet", "--shape", "6"], "there is no network of that name: 'lenet' is not known; did you mean 'lenet5'?"),
        (["NETS:image", "--shape", "3", "9", "9"], "cannot be probed on inputs of shape (8, 3, 9, 9): RuntimeError: "),
        (["NETS:Words", "--example", "NETS:tokens"], "site=gr.Hidden('embedding').\nWrite --shape for one input's"),
        (["mlp", "--shape", "6", "--site", "layer"], "the model has no submodule named 'layer'; did you mean"),
        (["mlp", "--shape", "6", "--output", "logits"], "AttributeError: 'Tensor' object has no attribute 'logits'"),
    ],
)
def test_errors_say_what_to_write(nets: str, words: list[str], expected: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["probe", *(word.replace("NETS", nets) for word in words)])
    assert isinstance(stopped.value.code, str)
    assert expected in stopped.value.code
