"""`gradreg compare` from end to end: stopped, continued and repeated; wrong options; runs that fail."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from gradreg.cli import main
from gradreg.study.train import dataset

SMALL = ["compare", "digits", "--steps", "10", "--seeds", "2", "--tuning-seeds", "1", "--methods", "spectreg"]


def results(out: Path) -> dict[Path, int]:
    """The kept results with the times of their last change."""
    return {file: file.stat().st_mtime_ns for file in (out / "runs").glob("*/result.json")}


def kept(out: Path) -> list[dict[str, Any]]:
    """Each kept run: its description together with its result."""
    return [json.loads((f.parent / "config.json").read_text()) | json.loads(f.read_text()) for f in results(out)]


def message(arguments: list[str]) -> str:
    """What the command says as it fails."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert isinstance(stopped.value.code, str)  # which Python prints, ending with status 1
    return stopped.value.code


def interrupt(command: list[str], out: Path, after: int) -> str:
    """Starts the command, presses Ctrl-C once so many results are there, and returns what it said."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 120
    while len(results(out)) < after:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, said = process.communicate(timeout=60)
    assert process.returncode in (1, -signal.SIGINT)  # the latter where Python was just within an exec
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return said
        time.sleep(0.05)
    raise AssertionError("processes are left after Ctrl-C")


def test_comparison_that_is_stopped_goes_on_ends_and_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [*SMALL, "--jobs", "1", "--out", str(out)]
    command = [sys.executable, "-m", "gradreg", *options]

    said = interrupt(command, out, after=4)  # weights are chosen, and the next process is about to start
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said
    before = results(out)
    assert 4 <= len(before) < 8
    assert not (out / "comparison.md").exists()

    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    after = results(out)
    assert before.items() <= after.items()
    assert len(after) == 4 + 4  # four weights on one seed; two methods on two seeds
    check_report(out, done.stdout)

    main(options)
    again = capsys.readouterr().out
    assert "choosing weights: 4 of 4 done before" in again
    assert "final runs: 4 of 4 done before" in again
    assert results(out) == after
    check_report(out, again)


def check_report(out: Path, printed: str) -> None:
    """The table, the sentence and the files against the runs that are kept."""
    data = json.loads((out / "comparison.json").read_text())
    tuning = [run for run in kept(out) if run["report"] == "validation"]
    final = [run for run in kept(out) if run["report"] == "test"]
    assert not any("test_accuracy" in run for run in tuning)
    best = max(sorted(tuning, key=lambda run: run["penalties"]), key=lambda run: run["validation_accuracy"])

    baseline, spectreg = data["rows"]
    assert (baseline["weight"], spectreg["weight"]) == (None, best["penalties"][0][1])
    for row, penalties in ((baseline, []), (spectreg, best["penalties"])):
        runs = {run["seed"]: run for run in final if run["penalties"] == penalties}
        assert row["points"] == [runs[seed]["test_accuracy"] for seed in (0, 1)]
        assert row["jacobian_norm"] == pytest.approx(sum(runs[s]["jacobian_norm"] for s in (0, 1)) / 2)
        assert f"{sum(row['points']) / 2:.2f} (" in printed
    assert baseline["cost"] == 1 < spectreg["cost"]
    assert " ".join(printed.split()).endswith(data["verdict"])
    assert data["verdict"] in (out / "comparison.md").read_text()
    assert imread(out / "comparison.png").shape[1] == 1200


def test_run_that_fails_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    options = ["--methods", "doubleback=1e39", "--steps", "1", "--seeds", "1", "--jobs", "1", "--out", str(tmp_path)]
    said = message(["compare", "digits", *options])
    assert said.startswith("error: 1 of 2 runs failed; the others are kept")
    assert "(('DoubleBack', 1e+39),) seed 0: StudyError: the loss became" in said
    assert [run["penalties"] for run in kept(tmp_path)] == [[]]


METHODS = "expected one or more of doubleback, spectreg, frobreg, jacreg, confidencepenalty, or spectreg=0.03"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--methods", "foo"], f"--methods got 'foo'; {METHODS}"),
        (["--methods", "baseline"], f"--methods got 'baseline'; {METHODS}"),
        (["--methods", "spectreg=-1"], "--methods got 'spectreg=-1'; expected a weight > 0, as in spectreg=0.03"),
        (["--methods", "frobreg=nan"], "--methods got 'frobreg=nan'; expected a weight > 0, as in frobreg=0.03"),
        (["--methods", "spectreg=much"], "--methods got 'spectreg=much'; expected a weight > 0"),
        (["--methods", "spectreg="], "--methods got 'spectreg='; expected a weight > 0"),
        (["--methods", "spectreg=0.1", "spectreg=1"], "--methods names spectreg 2 times; expected each method once"),
        (["--steps", "0"], "--steps got 0; expected a whole number >= 1"),
        (["--seeds", "0"], "--seeds got 0; expected a whole number >= 1"),
        (["--tuning-seeds", "-1"], "--tuning-seeds got -1; expected a whole number >= 1"),
        (["--jobs", "0"], "--jobs got 0; expected a whole number >= 1"),
        (["--train-size", "5000"], "train_size=5000 is out of range: digits has 1797 images"),
        (["--train-size", "0"], "--train-size got 0; expected a whole number >= 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_option_is_answered_with_what_to_write(options: list[str], expected: str, tmp_path: Path) -> None:
    said = message(["compare", "digits", "--out", str(tmp_path), *options])
    assert said.startswith(f"error: {expected}")
    assert "Traceback" not in said
    assert not results(tmp_path)


def test_out_that_is_a_file_is_answered_with_a_message(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert message(["compare", "digits", "--out", str(file)]).startswith(f"error: --out got {file}, where no directory")
    assert file.read_text() == "mine"


def test_digits_without_scikit_learn_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    dataset.cache_clear()
    said = message(["compare", "digits", "--out", str(tmp_path)])
    assert said == "error: the digits come with scikit-learn: pip install 'gradreg[study]'"
