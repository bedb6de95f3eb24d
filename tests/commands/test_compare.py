"""`gradreg compare` from end to end: stopped, continued and repeated; one's own data; wrong options; runs that fail."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from sweeps_for_tests import session, start, times

from gradreg.cli import main
from gradreg.studies._methods import METHODS, USUAL_GRIDS
from gradreg.study.profile import MEASURES
from gradreg.study.trained import load

SMALL = ("compare", "digits", "--steps", "200", "--seeds", "2", "--tuning-seeds", "1", "--methods", "spectreg")


def kept(store: Path) -> list[dict[str, Any]]:
    """Each finished run: its description together with its result."""
    folders = [store / "runs" / key for key in times(store)]
    return [
        {**json.loads((f / "config.json").read_text()), **json.loads((f / "result.json").read_text())} for f in folders
    ]


def message(*words: object) -> str:
    """What the command says as it fails."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, words)))
    assert isinstance(stopped.value.code, str)  # which Python prints, ending with status 1
    return stopped.value.code


def interrupt(process: subprocess.Popen[str], store: Path, after: int) -> str:
    """Presses Ctrl-C once so many results are there, and returns what the command said."""
    end = time.monotonic() + 120
    while len(times(store)) < after:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, said = process.communicate(timeout=60)
    assert process.returncode in (1, -signal.SIGINT)  # the latter where Python was just within an exec
    while session(process.pid):
        assert time.monotonic() < end, "processes are left after Ctrl-C"
        time.sleep(0.05)
    return said


def test_comparison_that_is_stopped_goes_on_ends_and_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Long enough that the runs that are left are not over before a busy machine gets to send the signal.
    command = (*SMALL, "--jobs", 1, "--store", tmp_path)
    said = interrupt(start(*command), tmp_path, after=1)
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said
    before = times(tmp_path)
    assert 1 <= len(before) < 8
    folder = tmp_path / "studies" / "digits"
    assert not (folder / "report.md").exists()

    process = start(*command)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    after = times(tmp_path)
    assert before.items() <= after.items()
    assert len(after) == 4 + 4  # four weights on one seed; two methods on two seeds
    check_report(tmp_path, out)

    main(list(map(str, command)))
    again = capsys.readouterr().out
    assert "digits: 8 runs done, 0 missing, 0 failed" in again
    assert times(tmp_path) == after
    check_report(tmp_path, again)


def check_report(store: Path, printed: str) -> None:
    """The table, the sentence and the files against the runs that are kept."""
    folder = store / "studies" / "digits"
    data = json.loads((folder / "report.json").read_text())
    tuning = [run for run in kept(store) if run["protocol"]["measure"] == "validation"]
    final = [run for run in kept(store) if run["protocol"]["measure"] == "test"]
    assert not any("test_accuracy" in run for run in tuning)
    tuning.sort(key=lambda run: run["penalties"][0]["weight"])
    best = max(tuning, key=lambda run: run["validation_accuracy"])["penalties"][0]["weight"]

    baseline, spectreg = data["groups"][0]["rows"]
    assert (baseline["values"], spectreg["values"]) == ([], [["weight", best]])
    for row, weights in ((baseline, []), (spectreg, [best])):
        runs = {run["seed"]: run for run in final if [p["weight"] for p in run["penalties"]] == weights}
        assert row["points"] == [runs[seed]["test_accuracy"] for seed in (0, 1)]
        assert row["norms"] == [runs[seed]["jacobian_norm"] for seed in (0, 1)]
        assert f"{sum(row['points']) / 2:.2f} (" in printed
        for measure in MEASURES:
            assert row["measures"][measure.key] == [runs[seed][measure.key] for seed in (0, 1)]
    measures = printed[printed.index("Measures") :]
    assert all(measure.name.split()[0] in measures for measure in MEASURES)
    assert imread(folder / "saliency.png").shape[1] > 500
    assert baseline["cost"] == 1 < spectreg["cost"]
    assert " ".join(data["verdict"].split()) in " ".join(printed.split())
    assert data["verdict"] in (folder / "report.md").read_text()
    assert imread(folder / "report.png").shape[1] > 500
    assert len(load(folder / "model.pt").predict(torch.zeros(3, 1, 8, 8))) == 3


def test_all_methods_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every one at its smallest size: a row of the table with its accuracy and its cost; some weights are searched."""
    searched = ("mixup", "sam", "adamw", "spectralnorm")
    fixed = [f"{name}={grid[0]:g}" for name, grid in USUAL_GRIDS.items() if grid and name not in searched]
    options = ("--methods", "all", *fixed, "--scale", "smoke", "--seeds", 1, "--jobs", 1, "--store", tmp_path)
    main(list(map(str, ("compare", "digits", *options))))
    capsys.readouterr()
    data = json.loads((tmp_path / "studies" / "digits-smoke" / "report.json").read_text())
    rows = {row["arm"]["name"]: row for row in data["groups"][0]["rows"]}
    assert set(rows) == {"Baseline"} | {kind.name for kind in METHODS.values()} - {"no dropout"}
    for name, row in rows.items():
        assert 0 <= row["points"][0] <= 100, name
        assert row["cost"] > 0, name
    assert rows["SAM"]["values"][0][0] == "technique.sam"
    assert len(kept(tmp_path)) == len(rows) + 2 * len(searched)
    assert data["command"].startswith("gradreg compare digits --seeds 1 --methods all doubleback=5 ")
    assert data["command"].endswith(f"--scale smoke --store {tmp_path}")


def test_run_that_fails_is_named_and_the_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--methods", "doubleback=1e39", "--steps", 1, "--seeds", 1, "--jobs", 1, "--store", tmp_path)
    assert message("compare", "digits", *options).startswith("error: 1 final runs failed, as the notes say; the others")
    assert "the loss became" in " ".join(capsys.readouterr().out.split())
    assert [run["penalties"] for run in kept(tmp_path)] == [[]]
    assert (tmp_path / "studies" / "digits" / "model.pt").exists()  # the baseline's


def test_own_data_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    y = np.arange(90) % 3
    np.savez(tmp_path / "sensors.npz", X=(draw.normal(size=(90, 5)) + y[:, None]).astype("float32"), y=y)
    words = ("--methods", "spectreg=0.03", "--steps", 20, "--seeds", 1, "--jobs", 1, "--store", tmp_path / "runs")
    main(list(map(str, ("compare", tmp_path / "sensors.npz", *words))))
    out = " ".join(capsys.readouterr().out.split())
    assert "sensors: 90 points of 3 classes" in out
    assert "sensors: 0 runs done, 2 missing, 0 failed" in out
    classifier = load(tmp_path / "runs" / "studies" / "sensors" / "model.pt")
    assert len(classifier.predict(torch.zeros(2, 5))) == 2
    folder = tmp_path / "runs" / "studies" / "sensors"
    rows = json.loads((folder / "report.json").read_text())["groups"][0]["rows"]
    assert [set(row["measures"]) for row in rows] == [{measure.key for measure in MEASURES}] * 2
    assert not (folder / "saliency.png").exists()  # of five numbers


def test_unlabelled_inputs_are_for_the_methods_that_need_no_labels(tmp_path: Path) -> None:
    options = ("--steps", 3, "--seeds", 1, "--methods", "doubleback=3", "spectreg=0.03", "--unlabelled", 70)
    main(list(map(str, ("compare", "digits", *options, "--jobs", 1, "--store", tmp_path))))
    data = json.loads((tmp_path / "studies" / "digits" / "report.json").read_text())
    assert [row["arm"]["name"] for row in data["groups"][0]["rows"]] == [
        *("Baseline", "DoubleBack", "SpectReg + unlabelled"),
    ]
    assert "--unlabelled 70" in data["command"]
    assert sorted((len(run["penalties"]), run["split"]["unlabelled"]) for run in kept(tmp_path)) == [
        *((0, 0), (1, 0), (1, 70)),
    ]
    assert (
        "100 labels of digits and 70 unlabelled inputs" in (tmp_path / "studies" / "digits" / "report.html").read_text()
    )


def test_unlabelled_inputs_of_own_data_need_a_training_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "points.npz", X=np.zeros((60, 5), "float32"), y=np.arange(60) % 3)
    said = message("compare", tmp_path / "points.npz", "--unlabelled", 9, "--store", tmp_path / "runs")
    assert said.endswith(
        "takes points that training leaves; without --train-size, training takes all of your own data."
    )
    assert not times(tmp_path / "runs")


def test_report_by_name_is_that_of_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--steps", 2, "--seeds", 2, "--methods", "spectreg=0.03", "--store", tmp_path)
    main(list(map(str, ("compare", "digits", *options))))
    capsys.readouterr()
    main(["report", "digits", "--store", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "2 steps, 2 seeds" in printed
    assert "X" not in {word for line in printed.splitlines() for word in line.split()}
    data = json.loads((tmp_path / "studies" / "digits" / "report.json").read_text())
    assert data["command"].startswith("gradreg compare digits --seeds 2 --steps 2")


def test_store_within_the_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "lies within the data" in message("compare", ".")
    assert [entry.name for entry in tmp_path.iterdir()] == ["cat"]


def test_two_folders_of_one_name_keep_reports_of_their_own(tmp_path: Path) -> None:
    for number in (1, 2):
        x = np.random.default_rng(number).normal(size=(60, 5)).astype("float32")
        (tmp_path / str(number)).mkdir()
        np.savez(tmp_path / str(number) / "points.npz", X=x, y=np.arange(60) % 3)
        options = ("--steps", 2, "--seeds", 2, "--methods", "spectreg=0.03", "--store", tmp_path / "runs")
        main(list(map(str, ("compare", tmp_path / str(number) / "points.npz", *options))))
    names = sorted(entry.name for entry in (tmp_path / "runs" / "studies").iterdir())
    assert len(names) == 2
    assert names[0] == "points"
    assert names[1].startswith("points-")


def test_damaged_network_is_not_handed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--steps", 2, "--seeds", 2, "--methods", "spectreg=0.03", "--store", tmp_path)
    main(list(map(str, ("compare", "digits", *options))))
    (tmp_path / "studies" / "digits" / "model.pt").unlink()
    for file in (tmp_path / "runs").glob("*/model.pt"):
        file.write_bytes(file.read_bytes()[:1000])
    capsys.readouterr()
    main(list(map(str, ("compare", "digits", *options))))
    assert "is missing or damaged" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "studies" / "digits" / "model.pt").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--methods", "foo"], "--methods: 'foo' is not known; "),
        (["--methods", "specreg"], "--methods: 'specreg' is not known; did you mean 'spectreg'?"),
        (["--methods", "baseline"], "--methods: 'baseline' is not known; "),
        (["--methods", "spectreg=-1"], "--methods got 'spectreg=-1'; expected a weight > 0, as in spectreg=0.03"),
        (["--methods", "frobreg=nan"], "--methods got 'frobreg=nan'; expected a weight > 0, as in frobreg=0.03"),
        (["--methods", "spectreg=much"], "--methods got 'spectreg=much'; expected a weight > 0"),
        (["--methods", "spectreg="], "--methods got 'spectreg='; expected a weight > 0"),
        (["--methods", "spectreg=0.1", "spectreg=1"], "--methods names SpectReg 2 times; expected each method once"),
        (["--steps", "0"], "--steps got 0; expected a whole number >= 1"),
        (["--seeds", "0"], "--seeds got 0; expected a whole number >= 1"),
        (["--tuning-seeds", "-1"], "--tuning-seeds got -1; expected a whole number >= 1"),
        (["--train-size", "0"], "--train-size got 0; expected a whole number >= 1"),
        (["--batch-size", "0"], "--batch-size got 0; expected a whole number >= 1"),
        (["--unlabelled", "-1"], "--unlabelled got -1; expected a whole number >= 0"),
        (
            ["--unlabelled", "9", "--methods", "doubleback", "sam"],
            "--unlabelled got 9, but of the methods (DoubleBack, SAM) none is a penalty on inputs that needs no labels",
        ),
        (["--image-size", "32"], "--image-size is for your own images; digits has one size"),
        (["--methods", "all", "nodropout"], "--methods: nodropout is a variant of the network, which small-cnn"),
        (["--jobs", "0"], "--jobs got 0; expected a whole number >= 1"),
        (["--executor", "ray", "--jobs", "2"], "--jobs is for --executor local"),
        (["--model", "nowhere_to_be_found:build"], "the network 'nowhere_to_be_found:build' is in a module"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_option_is_answered_with_what_to_write(options: list[str], expected: str, tmp_path: Path) -> None:
    assert message("compare", "digits", "--store", tmp_path, *options).startswith(f"error: {expected}")
    assert not times(tmp_path)


def test_sizes_that_do_not_fit_are_told_before_anything_runs(tmp_path: Path) -> None:
    said = message("compare", "digits", "--store", tmp_path, "--train-size", 5000, "--methods", "spectreg=1")
    assert "train_size=5000" in said
    assert "digits has 1797" in said
    assert not times(tmp_path)


def test_data_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert message("compare", "letters", "--store", tmp_path).startswith(
        "error: there is no data set 'letters': expected digits, mnist, cifar10, cifar10-jpeg, cifar100, "
    )
    assert "none.zip" in message("compare", tmp_path / "none.zip", "--store", tmp_path)
    assert message("compare", "sin", "--store", tmp_path).endswith("sin is a regression: gradreg run table7.")


def test_store_that_is_a_file_is_answered_with_a_message(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert message("compare", "digits", "--store", file).startswith(f"error: the store got {file}, where no directory")
    assert file.read_text() == "mine"
