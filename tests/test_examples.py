"""The examples in their smoke form: each trains without and with a penalty, and prints both accuracies."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

import gradreg as gr

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.mark.parametrize("name", ["vit_digits", "text_lstm", "text_bert", "tabular_sklearn"])
def test_it_trains_prints_both_accuracies_and_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    import_module(name).main(["--smoke"])
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert re.search(r"no penalty +test accuracy, % by seed: \d+\.\d +mean \d", printed)
    assert re.search(r"SpectReg.* +test accuracy, % by seed: \d+\.\d +mean \d", printed)
    assert re.search(r"SpectReg.* - no penalty: [+-]\d+\.\d\d, better in [01] of 1 seeds", printed)


def test_the_training_loop_prints_accuracy_and_steepness(capsys: pytest.CaptureFixture[str]) -> None:
    import_module("training_loop").main(2, 1)
    printed = capsys.readouterr().out
    assert re.search(r"baseline +test accuracy \d+\.\d %, mean norm of the Jacobian \d", printed)
    assert re.search(r"SpectReg\(0.03\) +test accuracy \d+\.\d %, mean norm of the Jacobian \d", printed)


def test_the_text_is_real_and_every_topic_has_enough_of_it() -> None:
    text, split = import_module("_text").load(), import_module("_text").split
    assert text.ids.shape[1] == 24
    assert text.y.bincount().min() > 300
    assert text.ids.max() == text.words - 1
    (ids, y), (test_ids, test_y) = split(text, 30, 0)
    assert len(ids) == len(y) == 180
    assert len(test_ids) == len(test_y) == 1200
    assert torch.equal(split(text, 30, 1)[1][0], test_ids)
    assert not torch.equal(split(text, 30, 1)[0][0], ids)


@pytest.mark.parametrize("penalty", [gr.SpectReg, gr.FrobReg, gr.DoubleBack])
def test_the_embedding_of_the_lstm_has_the_gradients_of_the_oracle(penalty: type[gr.JacobianPenalty]) -> None:
    """Double backward and forward mode agree on the site at the embedding, and FrobReg with the dense Jacobian."""
    torch.manual_seed(0)
    model = import_module("text_lstm").Reader(9, width=5).double().eval()
    ids, y = torch.randint(1, 9, (3, 4)), torch.tensor([0, 3, 5])
    found = []
    for engine in (gr.DoubleBackward(), gr.ForwardMode()):
        model.zero_grad()
        made = penalty(1.0, site=gr.Hidden("embedding"), engine=engine)
        value = made(model, ids, y, generator=torch.Generator().manual_seed(1))
        value.backward()
        found.append([value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    if penalty is gr.FrobReg:

        def above(embedded: torch.Tensor) -> torch.Tensor:
            return model.head(model.lstm(embedded)[0].mean(1))

        jacobian = gr.dense.jacobian(above, model.embedding(ids).detach())
        torch.testing.assert_close(found[0][0], jacobian.square().sum() / 3)


def test_how_a_weight_was_chosen_is_printed_with_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in {
        "vit_digits": "validation",
        "text_lstm": "same test sentences",
        "text_bert": "No search",
    }.items():
        assert words in import_module(name).NOTE
    import_module("vit_digits").main(["--smoke", "--validation"])
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"no penalty +validation accuracy, % by seed: \d", lines[0])
    assert lines[-1] == import_module("vit_digits").NOTE


def test_what_is_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    import_module("_summary").summarize({"a": [90.0, 91.0], "long": [91.0, 90.5]})
    assert capsys.readouterr().out.splitlines() == [
        "a     test accuracy, % by seed: 90.0 91.0   mean 90.50",
        "long  test accuracy, % by seed: 91.0 90.5   mean 90.75",
        "long - a: +0.25 (standard deviation 1.06), better in 1 of 2 seeds",
    ]
