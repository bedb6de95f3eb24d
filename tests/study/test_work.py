"""What a worker does with one run, and what is left when it, its disk or its files come to grief."""

import errno
import gc
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs_for_tests import (
    BASELINE,
    DAMAGES,
    SPECTREG,
    lines,
    numbers,
    spoil,
    with_dropout,
    work_until,
    work_until_write,
)

from gradreg.models import SmallCNN
from gradreg.study.config import Data, Penalty, Run
from gradreg.study.grid import put
from gradreg.study.store import RunFiles, Store
from gradreg.study.trained import load
from gradreg.study.work import Answer, Task, work

HOLD = """
import sys
from pathlib import Path
from gradreg.study.store import RunFiles
with RunFiles(Path(sys.argv[1])).claim() as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""
LONG = put(SPECTREG, {"schedule.steps": 100})
DIVERGING = replace(BASELINE, penalties=(Penalty("DoubleBack", 1e39),))


def alone(run: Run, folder: Path) -> RunFiles:
    """The files of a run that nothing has disturbed."""
    assert work(Task(run, folder)).state == "done"
    return Store(folder).files(run)


def in_a_process(function: Callable[..., None], *arguments: Any) -> int | None:
    """Its exit status; minus the signal that ended it."""
    process = mp.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


def assert_same(one: RunFiles, two: RunFiles) -> None:
    """Equal results, metrics, and parameters to the last bit."""
    assert numbers(one.result()) == numbers(two.result())
    assert lines(one) == lines(two)
    first, second = (load(files.folder / "model.pt").network.state_dict() for files in (one, two))
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(name="undisturbed", scope="module")
def _undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    return alone(LONG, tmp_path_factory.mktemp("undisturbed"))


# --- how a run ends ---------------------------------------------------------------------------------------------------


def test_done_run_leaves_its_result_its_network_and_how_it_went(tmp_path: Path) -> None:
    answer = work(Task(SPECTREG, tmp_path))
    files = Store(tmp_path).files(SPECTREG)
    assert answer == Answer("done", files.result())
    assert answer.result is not None
    assert set(answer.result) >= {"validation_accuracy", "test_accuracy", "jacobian_norm", "train_loss", "seconds"}
    assert answer.result["steps"] == 60
    assert {entry.name for entry in files.folder.iterdir()} == {
        *("config.json", "environment.json", "metrics.jsonl", "result.json", "model.pt", "log.txt", "lock"),
    }
    assert [line["step"] for line in files.metrics()] == [20, 40, 60]
    assert files.status().state == "done"
    environment = files.environment()
    assert environment is not None
    assert environment["torch"].startswith(torch.__version__.split("+")[0])
    assert environment["device"] == "cpu"


def test_done_run_is_not_done_again(tmp_path: Path) -> None:
    files = alone(SPECTREG, tmp_path)
    before = {entry.name: entry.stat().st_mtime_ns for entry in files.folder.iterdir() if entry.name != "lock"}
    assert work(Task(SPECTREG, tmp_path)) == Answer("done", files.result())
    assert {e.name: e.stat().st_mtime_ns for e in files.folder.iterdir() if e.name != "lock"} == before


def test_tuning_run_keeps_no_network_and_a_checkpoint_only_where_asked(tmp_path: Path) -> None:
    run = put(SPECTREG, {"protocol.measure": "validation", "schedule.until": 20})
    answer = work(Task(run, tmp_path, keep_checkpoint=True))
    files = Store(tmp_path).files(run)
    assert answer.result is not None
    assert "test_accuracy" not in answer.result
    assert not (files.folder / "model.pt").exists()
    kept = files.checkpoint()
    assert kept is not None
    # The whole run goes on from there, to what it would have found by itself.
    whole = put(run, {"schedule.until": 0})
    went_on = work(Task(whole, tmp_path, start=run.key))
    assert [line["step"] for line in Store(tmp_path).files(whole).metrics()] == [40, 60]
    assert Store(tmp_path).files(whole).checkpoint() is None
    assert numbers(went_on.result) == numbers(work(Task(whole, tmp_path / "other")).result)


@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_run_whose_start_is_lost_starts_from_nothing(tmp_path: Path, how: str) -> None:
    run = put(SPECTREG, {"protocol.measure": "validation", "schedule.until": 20})
    work(Task(run, tmp_path, keep_checkpoint=True))
    spoil(Store(tmp_path).files(run).folder / "checkpoint", how)
    whole = put(run, {"schedule.until": 0})
    found = work(Task(whole, tmp_path, start=run.key))
    assert [line["step"] for line in Store(tmp_path).files(whole).metrics()] == [20, 40, 60]
    assert numbers(found.result) == numbers(work(Task(whole, tmp_path / "other")).result)


def test_diverging_run_fails_with_the_step_and_the_end_of_its_log(tmp_path: Path) -> None:
    answer = work(Task(DIVERGING, tmp_path))
    files = Store(tmp_path).files(DIVERGING)
    assert answer.state == "failed"
    assert answer.error.startswith("the loss became ")
    assert " by step 20; use a smaller weight" in answer.error
    failure = files.failure()
    assert failure is not None
    assert failure["error"] == answer.error
    assert "Traceback" in failure["log"]
    assert answer.error in failure["log"]
    assert (files.result(), files.status().state) == (None, "failed")
    # The same run would do it again.
    assert work(Task(DIVERGING, tmp_path)) == answer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.name": "digit"}, "there is no data set of that name: 'digit' is not known"),
        ({"split.train_size": 5000}, "train_size=5000 is out of range"),
        ({"model.name": "lenet5"}, "takes inputs"),
        ({"penalties.0.options": (("draws", 2),)}, "cannot be made"),
        ({"schedule.batch_size": "many"}, "TypeError: "),
    ],
)
def test_run_that_cannot_be_fails_with_what_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run = put(SPECTREG, change)
    answer = work(Task(run, tmp_path))
    assert answer.state == "failed"
    assert message in answer.error
    failure = Store(tmp_path).files(run).failure()
    assert failure is not None
    assert failure["error"] == answer.error


def test_failure_is_frozen_when_the_run_is_done_after_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError("not enough")

    with monkeypatch.context() as patch:
        patch.setattr("gradreg.study.train.train", broken)
        assert work(Task(SPECTREG, tmp_path)).error == "MemoryError: not enough"
    files = alone(SPECTREG, tmp_path)
    assert files.failure() is None
    assert files.status().state == "done"


def test_what_a_run_prints_goes_to_its_log_and_nothing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy(*_: Any, **__: Any) -> None:
        print("from Python")
        os.write(1, b"from a library\n")
        print("an error", file=sys.stderr)
        raise LookupError("no page 12")

    with monkeypatch.context() as patch:
        patch.setattr("gradreg.study.train.train", noisy)
        work(Task(SPECTREG, tmp_path))
    print("afterwards")
    assert capfd.readouterr() == ("afterwards\n", "")
    log = Store(tmp_path).files(SPECTREG).log_tail(100)
    for part in ("from Python", "from a library", "an error", "LookupError: no page 12"):
        assert part in log
    assert "afterwards" not in log


# --- other processes --------------------------------------------------------------------------------------------------


def test_run_in_another_processs_hands_is_elsewhere_until_that_is_killed(tmp_path: Path) -> None:
    files = Store(tmp_path).files(BASELINE)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(files.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        assert work(Task(BASELINE, tmp_path)) == Answer("elsewhere")
        assert {entry.name for entry in files.folder.iterdir()} == {"lock"}
        child.kill()
        child.wait()
        assert work(Task(BASELINE, tmp_path)).state == "done"
    finally:
        child.kill()
        child.communicate()


# --- signals ----------------------------------------------------------------------------------------------------------


def test_run_that_is_asked_to_stop_goes_on_to_the_same_end(tmp_path: Path, undisturbed: RunFiles) -> None:
    answer = tmp_path / "answer"
    assert in_a_process(work_until, Task(LONG, tmp_path), 60, signal.SIGTERM, answer) == 0
    assert answer.read_text() == '["stopped", "stopped after step 60 of 100; its state is kept"]'
    files = Store(tmp_path).files(LONG)
    assert (files.result(), files.failure()) == (None, None)
    assert files.checkpoint() is not None
    assert files.status().state == "missing"
    assert [line["step"] for line in files.metrics()] == [20, 40, 60]
    assert work(Task(LONG, tmp_path)).state == "done"
    assert_same(files, undisturbed)
    assert files.checkpoint() is None


def test_run_that_is_killed_goes_on_from_its_last_checkpoint_to_the_same_end(
    tmp_path: Path, undisturbed: RunFiles
) -> None:
    task = Task(LONG, tmp_path, checkpoint_seconds=0)
    assert in_a_process(work_until, task, 60, signal.SIGKILL, tmp_path / "answer") == -signal.SIGKILL
    files = Store(tmp_path).files(LONG)
    assert files.status().state == "missing"
    # Killed when step 60 was noted, and not yet kept.
    assert [line["step"] for line in files.metrics()] == [20, 40, 60]
    with (files.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 80, "tot')  # as a crash within a line leaves it
    assert work(Task(LONG, tmp_path)).state == "done"
    assert_same(files, undisturbed)


def test_dropout_goes_on_too(tmp_path: Path) -> None:
    run = with_dropout(tmp_path / "nets", LONG)
    expected = alone(run, tmp_path / "undisturbed")
    files = Store(tmp_path).files(run)
    assert in_a_process(work_until, Task(run, tmp_path), 40, signal.SIGTERM, tmp_path / "answer") == 0
    task = Task(run, tmp_path, checkpoint_seconds=0)
    assert in_a_process(work_until, task, 80, signal.SIGKILL, tmp_path / "answer") == -signal.SIGKILL
    assert work(Task(run, tmp_path)).state == "done"
    assert_same(files, expected)


@pytest.mark.parametrize("write", [1, 30])
def test_run_that_is_killed_within_a_write_goes_on_to_the_same_end(
    tmp_path: Path, undisturbed: RunFiles, write: int
) -> None:
    """The first write is that of the configuration, the thirtieth a checkpoint's."""
    task = Task(LONG, tmp_path, checkpoint_seconds=0)
    assert in_a_process(work_until_write, task, write) == -signal.SIGKILL
    files = Store(tmp_path).files(LONG)
    assert [entry.name for entry in files.folder.iterdir() if entry.name.startswith(".")] != []
    assert files.result() is None
    assert work(Task(LONG, tmp_path)).state == "done"
    assert_same(files, undisturbed)


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_checkpoint_starts_over_to_the_same_end(tmp_path: Path, undisturbed: RunFiles, how: str) -> None:
    files = Store(tmp_path).files(LONG)
    files.folder.mkdir()
    started = Store(tmp_path / "early")
    early = put(LONG, {"schedule.until": 40})
    work(Task(early, tmp_path / "early", keep_checkpoint=True))
    (files.folder / "checkpoint").write_bytes((started.files(early).folder / "checkpoint").read_bytes())
    files.note({"step": 20, "of": "before"})
    spoil(files.folder / "checkpoint", how)
    assert work(Task(LONG, tmp_path)).state == "done"
    assert_same(files, undisturbed)


def test_checkpoint_that_torch_cannot_read_starts_over(tmp_path: Path, undisturbed: RunFiles) -> None:
    files = Store(tmp_path).files(LONG)
    files.folder.mkdir()
    files.save_checkpoint(b"of another version of torch")
    assert work(Task(LONG, tmp_path)).state == "done"
    assert_same(files, undisturbed)
    assert "the checkpoint cannot be read" in files.log_tail()


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "bit flipped"])
def test_run_whose_result_is_not_whole_is_done_again(tmp_path: Path, how: str) -> None:
    files = alone(SPECTREG, tmp_path)
    expected, noted = numbers(files.result()), lines(files)
    spoil(files.folder / "result.json", how)
    assert files.result() is None
    answer = work(Task(SPECTREG, tmp_path))
    assert numbers(answer.result) == numbers(files.result()) == expected
    assert lines(files) == noted


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", range(1, 6))
def test_run_on_a_disk_that_gets_full_counts_nothing_and_goes_on_when_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int, undisturbed: RunFiles
) -> None:
    """Full at each of the writes: configuration, environment, metrics, network, result."""
    count = 0
    whole = os.fsync

    def filling(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count >= write:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(descriptor)

    files = Store(tmp_path).files(LONG)
    files.folder.mkdir()
    (files.folder / "metrics.jsonl").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", filling)
        answer = work(Task(LONG, tmp_path))
    assert answer.state == "storage"
    assert "No space left on device" in answer.error
    assert (files.result(), files.failure(), files.status().state) == (None, None, "missing")
    assert not [entry.name for entry in files.folder.iterdir() if entry.name.startswith(".")]
    assert work(Task(LONG, tmp_path)).state == "done"
    assert_same(files, undisturbed)


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 KB: less than a checkpoint."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(place)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_run_on_a_full_file_system_counts_nothing_and_goes_on_when_there_is_space(
    small_disk: Path, undisturbed: RunFiles
) -> None:
    store = Store(small_disk)
    files = store.files(LONG)
    answer = work(Task(LONG, small_disk, checkpoint_seconds=0))
    assert answer.state == "storage"
    assert "No space left on device" in answer.error
    assert (files.result(), files.failure(), files.checkpoint()) == (None, None, None)
    # To the last byte.
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    assert work(Task(put(LONG, {"seed": 1}), small_disk)).state == "storage"
    assert store.result(put(LONG, {"seed": 1})) is None
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert work(Task(LONG, small_disk, checkpoint_seconds=0)).state == "done"
    assert_same(files, undisturbed)


def test_other_errors_of_the_disk_are_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the worker's own error, and say nothing about the run."""

    def denied(descriptor: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "fsync", denied)
    with pytest.raises(PermissionError):
        work(Task(BASELINE, tmp_path))
    assert Store(tmp_path).files(BASELINE).failure() is None


def test_run_whose_data_is_gone_has_not_failed(tmp_path: Path) -> None:
    run = replace(BASELINE, data=Data("mine", "0123456789abcdef"))
    answer = work(Task(run, tmp_path))
    assert answer.state == "stopped"
    assert "0123456789abcdef" in answer.error
    assert Store(tmp_path).files(run).failure() is None


def test_failure_that_another_process_has_just_kept_stands(tmp_path: Path) -> None:
    files = Store(tmp_path).files(BASELINE)
    before = time.time()
    files.folder.mkdir(parents=True)
    files.save_failure("the loss became nan by step 20")
    assert work(Task(BASELINE, tmp_path, since=before)) == Answer("failed", error="the loss became nan by step 20")
    assert work(Task(BASELINE, tmp_path, since=time.time())).state == "done"


def networks() -> int:
    """How many there are that `BASELINE` trains."""
    return sum(type(item) is SmallCNN for item in gc.get_objects())


@pytest.mark.parametrize("is_worker", [False, True])
def test_networks_of_earlier_runs_are_not_kept(
    is_worker: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in circles of references, which Python's own collection, off here, finds late."""
    gc.unfreeze()
    gc.collect()
    gc.disable()
    monkeypatch.setattr(mp, "parent_process", lambda: "a parent" if is_worker else None)
    monkeypatch.setattr("gradreg.study.work._frozen", 0)
    others = networks()
    try:
        for seed in range(4):
            assert work(Task(put(SPECTREG, {"schedule.steps": 2, "seed": seed}), tmp_path)).state == "done"
        # What a worker leaves out of its collections are imports, never a network.
        assert (gc.get_freeze_count() > 0) == is_worker
        gc.unfreeze()
        assert networks() - others <= 1
    finally:
        gc.enable()
