"""benchmarks/overhead.py: the rows of a small model, the floors, JSON, errors. How long steps take is not tested."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FLOORS = {
    "plain": 1.0,
    "textbook SpectReg": 2.0,
    "textbook DoubleBack": 2.0,
    "SpectReg": 2.0,
    "SpectReg, FiniteDifference(0.1)": 7 / 3,
    "SpectReg, ForwardMode": 3.0,
    "probe, FiniteDifference(0.1)": 2.0,
    "probe, ForwardMode": 2.0,
    "DoubleBack": 2.0,
    "FrobReg": 11.0,
    "JacReg": 11.0,
}
# Only where the library, or the machine, has them.
FLOORS_OF_MORE = {
    "SpectReg, every=4": 1.25,
    "SpectReg, every=8": 1.125,
    "SpectReg, fraction=0.5": 1.5,
    "jacobian_regularizer, 1 row": 2.0,
    "jacobian_regularizer, all rows": 11.0,
}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of benchmarks/."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield __import__
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


def test_a_small_model_is_timed_by_every_configuration(
    module: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    words = [
        "--models",
        "mlp10",
        "--threads",
        "1",
        "--repeats",
        "2",
        "--warm",
        "1",
        "--batch",
        "4",
        "--json",
        str(path),
    ]
    module("overhead").main(words)
    text, found = capsys.readouterr().out, json.loads(path.read_text())
    (table,) = found["results"]
    floors = {row["name"]: row["floor"] for row in table["rows"]}
    assert floors.items() >= FLOORS.items()
    assert floors.items() <= {**FLOORS, **FLOORS_OF_MORE}.items()
    assert table["failed"] == []
    assert (table["model"], table["batch"], table["threads"], table["dtype"]) == ("mlp10", 4, 1, "float32")
    assert all(row["memory"] > 0 and row["peak_bytes"] > 0 for row in table["rows"])
    assert all(f"| {name} | contiguous | " in text for name in floors)
    assert found["environment"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["command"].startswith("benchmarks/overhead.py --models mlp10")


def test_patterns_and_the_number_of_outputs_choose(module: Callable[[str], ModuleType]) -> None:
    configurations = module("_configurations").configurations
    found = configurations(10, formats=(False, True), patterns=["DoubleBack", "probe*"])
    names = ["plain", "probe, FiniteDifference(0.1)", "probe, ForwardMode", "DoubleBack"]
    assert [(c.name, c.channels_last) for c in found] == [(name, last) for last in (False, True) for name in names]
    assert "FrobReg" not in [c.name for c in configurations(200)]
    assert [c.floor for c in configurations(200, most_outputs=200) if c.name == "FrobReg"] == [201.0]
    with pytest.raises(ValueError, match=r"^no configuration is named 'Spect'; expected some of 'plain', 'textbook Sp"):
        configurations(10, patterns=["Spect"])


def test_the_textbook_recipes_are_the_librarys_penalties(module: Callable[[str], ModuleType]) -> None:
    recipes, steps = module("_recipes"), __import__("gradreg.study.steps", fromlist=["steps"])
    import gradreg as gr

    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(4, 6, dtype=torch.float64), torch.randint(3, (4,))
    for textbook, penalty in (
        (recipes.textbook_spectreg, gr.SpectReg(recipes.WEIGHT)),
        (recipes.textbook_doubleback, gr.DoubleBack(recipes.WEIGHT)),
    ):
        torch.manual_seed(1)
        expected = textbook(model, x, y)
        torch.manual_seed(1)
        found = steps.penalized(nn.functional.cross_entropy, penalty)(model, x, y)
        torch.testing.assert_close(found, expected)


def test_the_public_package_is_called_where_it_is_installed(
    module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    class JacobianReg(nn.Module):
        def __init__(self, n: int = 1):
            super().__init__()
            self.n = n

        def forward(self, x: Tensor, logits: Tensor) -> Tensor:
            assert x.requires_grad
            return self.n * logits.sum() * 0 + self.n

    package = ModuleType("jacobian_regularizer")
    package.JacobianReg = JacobianReg  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jacobian_regularizer", package)
    recipes = module("_recipes")
    model, x, y = nn.Linear(3, 2), torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
    loss = nn.functional.cross_entropy(model(x), y)
    torch.testing.assert_close(recipes.peer(1)(model, x, y) - loss, torch.tensor(2 * recipes.WEIGHT))


def test_the_transformer_can_be_differentiated_twice_and_sees_one_example_at_a_time(
    module: Callable[[str], ModuleType],
) -> None:
    model, x = module("vit").ViT(side=8, width=12, heads=3), torch.randn(3, 3, 8, 8, requires_grad=True)
    z = model(x)
    assert z.shape == (3, 10)
    torch.testing.assert_close(model(x[1:2]), z[1:2], rtol=1e-4, atol=1e-5)
    (g,) = torch.autograd.grad(z.sum(), x, create_graph=True)
    g.square().sum().backward()
    assert model.positions.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--device", "cuda:99"], "error: --device got cuda:99, which cannot be used here: "),
        (
            ["--models", "mlp10", "--configurations", "Spect"],
            "error: --configurations: no configuration is named 'Spect'",
        ),
        (
            ["--processes", "--device", "meta"],
            "error: --processes is about threads of the CPU; leave --device meta out.",
        ),
    ],
)
def test_errors_say_what_to_write(module: Callable[[str], ModuleType], words: list[str], expected: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        module("overhead").main(words)
    assert expected in str(stopped.value.code)


def test_numbers_are_checked(module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        module("overhead").main(["--repeats", "0"])
    assert "argument --repeats: got '0'; expected a whole number >= 1" in capsys.readouterr().err


def test_models_and_configurations_are_listed(
    module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    module("overhead").main(["--list"])
    text = capsys.readouterr().out
    assert "lenet5: 61,706 parameters, batch 50 of (1, 28, 28)\n  plain; textbook SpectReg; " in text
    assert all(f"{name}: " in text for name in ("resnet", "vit", "mlp10", "mlp200", "mlp1000"))


def test_measures_are_tabled_and_drawn(
    module: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "saliency.png"
    words = ["--seeds", "1", "--epochs", "1", "--points", "20", "--picture", str(path)]
    module("measures").main(words)
    head, _, first, *rest = capsys.readouterr().out.splitlines()
    assert head == "| measure | no penalty | DoubleBack(3) | SpectReg(0.1) |"
    assert re.fullmatch(r"\| test accuracy, % (\| [0-9.]+ ){3}\|", first)
    assert len(rest) > 15
    assert path.read_bytes().startswith(b"\x89PNG")


def test_weights_that_move_are_compared_within_their_group(
    module: Callable[[str], ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        (group, arm, seed, 90 + seed + more)
        for group, gain in (("500", 0.5), ("2000", 1.0))
        for arm, more in (("Baseline", 0.0), ("SpectReg", 1.0), ("SpectReg(auto)", 1.0 + gain))
        for seed in (0, 1)
    ]
    lines = ["group,arm,seed,key,test_accuracy", *(f"{g},{a},{s},k,{value}" for g, a, s, value in rows)]
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "study.json").write_text(
        json.dumps({"title": "one", "arms": [{"run": {"split": {"train_size": size}}} for size in (500, 2000)]})
    )
    monkeypatch.setattr(sys, "argv", ["auto_weight.py", str(tmp_path), "--csv", str(tmp_path / "all.csv")])
    module("auto_weight").main()
    assert [line.partition(" [")[0] for line in capsys.readouterr().out.splitlines()[2:]] == [
        "| one, 500 | SpectReg | 2 | 91.50 | 92.00 | +0.50",
        "| one, 2000 | SpectReg | 2 | 91.50 | 92.50 | +1.00",
    ]
    assert (tmp_path / "all.csv").read_text().splitlines()[-1] == "one,2000,SpectReg(auto),1,k,93.0"
