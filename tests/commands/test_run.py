"""`gradreg run`, `report`, `status`, `show`, `export` and `train` on small studies."""

import csv
import io
import json
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from runs_for_tests import DAMAGES, spoil
from sweeps_for_tests import Here, results, sweep, times, toml

from gradreg.cli import main
from gradreg.commands.run import Report
from gradreg.study.files import load_study
from gradreg.study.grid import final_runs
from gradreg.study.index import FIELDS, Index
from gradreg.study.store import Store
from gradreg.study.sweep import Sweep


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mine.toml, which is done but for its report, in runs."""
    folder = tmp_path_factory.mktemp("finished")
    sweep(toml(folder), Store(folder / "runs"), Here())
    return folder


@pytest.fixture
def mine(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil; the study, since its network is named by its place, stays where it is."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def forbidden(*_: Any) -> None:
        raise AssertionError("something was trained")

    monkeypatch.setattr(Sweep, "go", forbidden)
    return finished / "mine.toml"


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints."""
    capsys.readouterr()
    main(list(map(str, words)))
    return capsys.readouterr().out


def message(*words: object) -> str:
    """What a command says as it fails."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, words)))
    assert isinstance(stopped.value.code, str)
    return stopped.value.code


def final(study: Path, seed: int = 0) -> str:
    """The key of a final run of the baseline."""
    arm = load_study(str(study), Store(Path("runs"))).study.arms[0]
    return final_runs(arm, (), seed + 1)[seed].key


# --- run, report ------------------------------------------------------------------------------------------------------


def test_finished_study_is_told_and_trains_nothing(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(Path("runs"))
    out = said(capsys, "run", mine)
    assert "mine: 6 runs done, 0 missing, 0 failed" in out
    folder = Path("runs/studies/mine")
    plain = json.loads((folder / "report.json").read_text())
    assert " ".join(out.split()).endswith(" ".join(plain["verdict"].split()))
    for name in ("report.html", "report.md", "report.csv", "runs.csv", "report.tex", "report.png", "study.json"):
        assert (folder / name).stat().st_size > 0
    kept = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert said(capsys, "run", "mine").splitlines()[-1] == out.splitlines()[-1]
    assert times(Path("runs")) == before
    # Called by its name now, which the report says.
    assert "gradreg run mine" in (folder / "report.html").read_text()
    again = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert again != kept
    said(capsys, "run", "mine")
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == again


def test_command_that_repeats_a_study_names_its_scale_and_protocol() -> None:
    which = Report(study="table6", scale="smoke", protocol="scripts")
    assert which.command("run", Path("runs")) == "gradreg run table6 --scale smoke --protocol scripts"
    assert Report(study="table6").command("run", Path("x")) == "gradreg run table6 --store x"


def test_report_follows_another_choice_of_the_same_runs(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "run", mine)
    said(capsys, "run", mine, "--only", "Baseline")
    report = json.loads(Path("runs/studies/mine/report.json").read_text())
    assert [row["arm"]["name"] for row in report["groups"][0]["rows"]] == ["Baseline"]


def test_report_in_mid_way_shows_what_is_missing(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(f"runs/runs/{final(mine, seed=1)}")
    out = said(capsys, "report", mine, "--out", "here")
    assert "1 of 4 final runs" in out or "1 final run" in out
    assert not Path("runs/studies/mine/report.md").exists()
    report = json.loads(Path("here/report.json").read_text())
    baseline, spectreg = (row["points"] for row in report["groups"][0]["rows"])
    assert [point is None for point in baseline + spectreg] == [False, True, False, False]


def test_report_of_a_failed_run_names_it_and_ends_with_status_1(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Store(Path("runs")).find(final(mine, seed=1))
    (files.folder / "result.json").unlink()
    files.save_failure("the loss became nan by step 20")
    for words in (("run", mine), ("report", "mine")):
        assert message(*words).startswith("error: 1 final runs failed, as the notes say")
        assert "the loss became nan by step 20" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--jobs", "0"], "--jobs got 0; expected a whole number >= 1"),
        (["--executor", "ray", "--jobs", "3"], "--jobs is for --executor local"),
        (["--address", "auto"], "--address got auto, but runs are local; add --executor ray"),
        (["--tensorboard"], "--tensorboard needs TensorBoard: pip install tensorboard"),
        (["--set", "seed=3"], "--set has mistakes: 'seed' is not known; did you mean 'seeds'?"),
        (["--only", "SpectRag"], "--only: 'SpectRag' is not known; did you mean 'SpectReg'?"),
        (["--scale", "paper"], "--scale got 'paper'"),
        (["--protocol", "paper"], "--protocol got 'paper'"),
    ],
)
def test_wrong_option_is_answered_before_anything_runs(
    words: list[str], expected: str, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert message("run", mine, *words).startswith(f"error: {expected}")
    assert not Path("runs/studies/mine").exists()


def test_configuration_that_cannot_be_built_is_told_before_anything_runs(tmp_path: Path) -> None:
    path = toml(tmp_path, preset="SpectRag")
    said = message("run", path, "--store", tmp_path / "runs")
    assert "SpectRag" in said
    assert "did you mean 'SpectReg'?" in said
    assert not results(tmp_path / "runs")


# --- status, show, export ---------------------------------------------------------------------------------------------


def test_status_counts_the_store_and_a_study(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "status") == "6 done, 0 failed, 0 running, 0 missing in runs\n"
    key = final(mine)
    files = Store(Path("runs")).find(key)
    (files.folder / "result.json").unlink()
    assert "5 done, 0 failed, 0 running, 1 missing in runs" in said(capsys, "status")
    files.save_failure("out of luck\nand more")
    out = said(capsys, "status")
    assert "5 done, 1 failed, 0 running, 0 missing in runs" in out
    (line,) = [line for line in out.splitlines() if key in line]
    assert "no penalty, 100 labels of digits, seed 0: out of luck" in line
    with files.claim():
        files.beat(7, 40)
        out = said(capsys, "status")
        assert "5 done, 0 failed, 1 running, 0 missing in runs" in out
        assert "7/40" in out
        assert "5 runs done, 1 running, 0 failed, 0 missing" in said(capsys, "status", mine)
    assert "5 runs done, 0 running, 1 failed, 0 missing" in said(capsys, "status", mine)
    assert "5 runs done, 0 running, 1 failed, 2 missing" in said(capsys, "status", mine, "--set", "seeds=3")


@pytest.mark.parametrize("damage", DAMAGES)
def test_index_is_made_anew_where_it_is_damaged(damage: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = said(capsys, "export")
    spoil(Path("runs/index.sqlite"), damage)
    assert said(capsys, "export") == whole
    assert said(capsys, "status").startswith("6 done")


def test_index_that_cannot_be_kept_is_done_without(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = said(capsys, "export")
    Path("runs/index.sqlite").unlink()
    Path("runs/index.sqlite").mkdir()
    assert said(capsys, "export") == whole


def test_index_reads_only_what_changed_and_forgets_what_is_gone(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradreg.study import index

    read = []
    whole = index._row
    monkeypatch.setattr(index, "_row", lambda key, files: read.append(key) or whole(key, files))
    store = Store(Path("runs"))
    rows = Index(store).rows()
    assert len(read) == 6
    assert Index(store).rows() == rows
    assert len(read) == 6
    key = final(mine)
    store.find(key).save_result({"validation_accuracy": 12.5, "steps": 40})
    changed = {row["key"]: row["validation_accuracy"] for row in Index(store).rows()}
    assert read[6:] == [key]
    assert changed[key] == 12.5
    shutil.rmtree(store.find(key).folder)
    assert {row["key"] for row in Index(store).rows()} == {row["key"] for row in rows} - {key}
    with sqlite3.connect(Index(store).path) as base:
        assert base.execute("SELECT count(*) FROM runs").fetchone() == (5,)
    base.close()


def test_export_has_a_line_for_each_run(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["key"]: row for row in csv.DictReader(io.StringIO(said(capsys, "export")))}
    kept = results(Path("runs"))
    assert set(rows) == set(kept)
    for key, row in rows.items():
        assert tuple(row) == FIELDS
        assert (row["state"], row["data"], row["train_size"], row["steps"]) == ("done", "digits", "100", "40")
        assert row["test_accuracy"] == str(kept[key].get("test_accuracy", ""))
    assert {row["penalties"] for row in rows.values()} == {"", "SpectReg(0.01)", "SpectReg(0.1)"}
    assert said(capsys, "export", "--format", "json", "--out", "all.json") == ""
    whole = json.loads(Path("all.json").read_text())
    assert {item["key"]: item["result"]["validation_accuracy"] for item in whole} == {
        key: result["validation_accuracy"] for key, result in kept.items()
    }
    assert all(item["environment"]["torch"] and item["config"]["schedule"]["steps"] == 40 for item in whole)
    assert message("export", "--out", "nowhere/all.csv").startswith("error: [Errno 2] No such file or directory")


def test_show_tells_one_run(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = final(mine)
    out = said(capsys, "show", key[:7])
    assert f"{key} done, step 40 of 40" in out
    assert f'"test_accuracy": {results(Path("runs"))[key]["test_accuracy"]}' in out
    assert '"batch_size": 20' in out
    assert f"repeat it: gradreg train {key} --again" in out
    files = Store(Path("runs")).find(key)
    (files.folder / "result.json").unlink()
    files.save_failure("no [luck]")
    assert "no [luck]" in said(capsys, "show", key)
    assert "built" in said(capsys, "show", key)  # of its log
    assert "no runs in runs have a key that begins with 'xyz'" in message("show", "xyz")


@pytest.mark.parametrize("command", [["status"], ["export"], ["show", "abc"]], ids=lambda words: words[0])
def test_store_without_runs_is_told(command: list[str], tmp_path: Path) -> None:
    said = message(*command, "--store", tmp_path / "none")
    assert said.startswith(f"error: --store got {tmp_path / 'none'}, where there are no runs")
    assert not (tmp_path / "none").exists()


# --- train ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process keeps its own handlers of signals."""
    import signal

    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.usefixtures("handlers")
def test_train_goes_by_key_and_by_file(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = final(mine)
    assert f"{key} done before; --again repeats it" in said(capsys, "train", key)
    assert said(capsys, "train", key, "--again").endswith("the same in every digit\n")
    files = Store(Path("runs")).find(key)
    kept = results(Path("runs"))
    (files.folder / "result.json").unlink()
    assert "leave --again out" in message("train", key, "--again")
    out = said(capsys, "train", key)
    assert "step 40: loss " in out
    assert f"{key} done: " in out
    assert results(Path("runs")) == kept
    other = said(capsys, "train", files.folder / "config.json", "--store", "other")
    assert f"kept in other/runs/{key}" in other
    assert results(Path("other")) == {key: kept[key]}
    (files.folder / "result.json").write_text(json.dumps({**kept[key], "validation_accuracy": 1.0, "complete": True}))
    assert said(capsys, "train", key, "--again").endswith("NOT the same in every digit\n")


@pytest.mark.usefixtures("handlers")
def test_train_keeps_why_a_run_failed(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Store(Path("runs")).find(final(mine)).config()
    assert config is not None
    config["penalties"] = [{"preset": "DoubleBack", "weight": 1e39, "options": []}]
    Path("wild.json").write_text(json.dumps(config))
    told = message("train", "wild.json")
    assert told.startswith("error: the loss became ")
    assert "1 failed" in said(capsys, "status")
    config["seed"] = "x"
    Path("wild.json").write_text(json.dumps(config))
    assert (
        message("train", "wild.json")
        == "error: the run wild.json has a mistake: seed: got 'x'; expected a whole number"
    )
    Path("wild.json").write_text("[]")
    assert message("train", "wild.json").startswith("error: the run wild.json: got []; expected a table")
    assert message("train", "none.json").startswith("error: the run none.json cannot be read")


@pytest.mark.usefixtures("handlers")
def test_train_leaves_a_run_to_the_process_that_has_it(mine: Path) -> None:
    key = final(mine)
    with Store(Path("runs")).find(key).claim():
        assert f"{key} is in another process's hands" in message("train", key)
