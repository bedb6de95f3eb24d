"""Sweeps that are killed, run twice at once, out of space or in part wrong: what is done is kept and done once."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sweeps_for_tests import TPE, Here, built, nowhere, results, session, start, sweep, timed, times, toml

from gradreg.study.collect import collect
from gradreg.study.config import StudyError
from gradreg.study.files import load_study
from gradreg.study.grid import final_runs
from gradreg.study.search import journal, progress
from gradreg.study.store import RunFiles, Store
from gradreg.study.sweep import LocalExecutor, plan
from gradreg.study.verdict import counts


def until(true: Callable[[], Any]) -> None:
    """Waits for something that comes soon."""
    end = time.monotonic() + 90
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def finished(process: subprocess.Popen[str]) -> str:
    """What a command printed that ends well."""
    out, err = process.communicate(timeout=150)
    assert (process.returncode, err) == (0, "")
    return out


def started(store: Path, key: str) -> bool:
    """Whether a run has noted metrics and is not done."""
    notes = store / "runs" / key / "metrics.jsonl"
    return notes.exists() and notes.stat().st_size > 0 and key not in times(store)


# --- processes --------------------------------------------------------------------------------------------------------


def test_killed_parent_takes_its_workers_along_and_the_same_command_ends_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    # Runs of one seed take a minute while a file is there, so that one of them is under way when the others are done.
    slow = tmp_path / "slow"
    slow.touch()
    study = toml(tmp_path, steps=500, at_seed=1, then=f"first = Slow({str(slow)!r})")
    store = Store(tmp_path / "runs")
    timed(study, store)
    command = ("run", study, "--store", tmp_path / "runs", "--jobs", 2)
    delayed = final_runs(load_study(str(study), store).study.arms[0], (), 2)[1].key
    parent = start(*command)
    until(lambda: times(tmp_path / "runs") and started(tmp_path / "runs", delayed))
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    until(lambda: not session(parent.pid))
    before = times(tmp_path / "runs")
    assert 1 <= len(before) < 6
    slow.unlink()

    out = finished(start(*command))
    assert f"mine: {len(before)} runs done, " in out
    after = times(tmp_path / "runs")
    assert before.items() <= after.items()
    logs = [log.read_text() for log in (tmp_path / "runs" / "runs").glob("*/log.txt")]
    assert sum("goes on from step" in log for log in logs) >= 1
    # A run is built once more where it goes on, and nowhere else.
    assert all(log.count("built") == 1 + log.count("goes on from step") for log in logs)
    for folder in (tmp_path / "runs" / "runs").iterdir():
        steps = [line["step"] for line in RunFiles(folder).metrics()]
        assert steps == sorted(set(steps))

    whole = Store(tmp_path / "whole")
    sweep(study, whole, Here())
    assert results(tmp_path / "runs") == results(whole.directory)


@pytest.mark.parametrize("search", ["{ weight = [0.01, 0.1] }", TPE], ids=["grid", "tpe"])
def test_two_commands_on_one_store_share_the_work(search: str, tmp_path: Path) -> None:
    study = toml(tmp_path, steps=100, search=search)
    timed(study, Store(tmp_path / "runs"))
    both = [start("run", study, "--store", tmp_path / "runs", "--jobs", 1) for _ in range(2)]
    first, second = (finished(process) for process in both)
    table = [[line for line in out.splitlines() if "Reg" in line and "x" in line] for out in (first, second)]
    assert table[0] == table[1] != []
    assert set(built(tmp_path / "runs").values()) == {1}

    whole = Store(tmp_path / "whole")
    done = sweep(study, whole, Here())
    assert results(tmp_path / "runs") == results(whole.directory)
    assert plan(done.study, Store(tmp_path / "runs")).missing == 0


def test_run_whose_process_is_killed_twice_has_failed_and_takes_no_other_along(tmp_path: Path) -> None:
    study = toml(tmp_path, at_seed=1, then="os.kill(os.getpid(), 9)")
    store = Store(tmp_path / "runs")
    done = sweep(study, store, LocalExecutor(1), only=["Baseline"])
    assert {run.seed for run in done.failed} == {1}
    assert set(done.failed.values()) == {"its process died 2 times (signal SIGKILL)"}
    assert [run.seed for run in done.done] == [0]
    assert all(built(store.directory)[run.key] == 2 for run in done.failed)
    found = collect(done.study, store, command="")
    assert found.groups[0].rows[0].points[1] is None
    assert counts(found)[2] == 1
    # It is kept as failed: the next sweep does not try it again, unless it is told to.
    assert sweep(study, store, nowhere, only=["Baseline"]).failed == done.failed
    toml(tmp_path)  # the same network, mended: but its source decides the key
    assert plan(load_study(str(study), store).study, store).missing > 0


# --- storage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk on which not even half of a study has space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], check=False)
    if not made or made.returncode != 0:
        pytest.skip("no tmpfs can be mounted here; it takes root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk_stops_with_what_to_do_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    study = toml(tmp_path, seeds=4)
    store = Store(small_disk)
    with pytest.raises(StudyError, match=r"No space left on device.*; \d runs are done and kept. Free some space"):
        sweep(study, store, LocalExecutor(1))
    before = times(small_disk)
    assert 1 <= len(before) < 10
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    executor = Here()
    sweep(study, store, executor)
    assert len(executor.given) == 10 - len(before)
    assert before.items() <= times(small_disk).items()
    whole = Store(tmp_path / "whole")
    sweep(study, whole, Here())
    assert results(small_disk) == results(whole.directory)


@pytest.mark.parametrize("damage", ["", '{"test_accuracy": 9', '{"test_accuracy": 90.0}'])
def test_result_that_is_not_whole_is_made_again_and_no_other(damage: str, tmp_path: Path) -> None:
    study = toml(tmp_path)
    store = Store(tmp_path / "runs")
    done = sweep(study, store, Here())
    before, kept = results(store.directory), times(store.directory)
    run = next(run for run in done.done if run.seed == 1)
    (store.files(run).folder / "result.json").write_text(damage)
    executor = Here()
    sweep(study, store, executor)
    assert executor.given == [run]
    assert results(store.directory) == before
    after = times(store.directory)
    assert {key for key in after if after[key] != kept[key]} == {run.key}


def test_finished_study_starts_nothing(tmp_path: Path) -> None:
    study = toml(tmp_path)
    store = Store(tmp_path / "runs")
    done = sweep(study, store, Here())
    again = sweep(study, store, nowhere)
    assert (again.done, again.failed, again.left) == (done.done, {}, 0.0)
    assert again.known == 2 + 2 + 2


# --- runs that fail ---------------------------------------------------------------------------------------------------


def test_configuration_that_diverges_is_not_chosen_and_the_rest_goes_on(tmp_path: Path) -> None:
    study = toml(tmp_path, preset="DoubleBack", search="{ weight = [1e39, 0.1] }")
    store = Store(tmp_path / "runs")
    done = sweep(study, store, Here())
    assert [run.penalties[0].weight for run in done.failed] == [1e39]
    assert "the loss became" in next(iter(done.failed.values()))
    found = collect(done.study, store, command="")
    row = found.groups[0].rows[1]
    assert row.values == (("weight", 0.1),)
    assert [tried.failed for tried in row.tried] == [1, 0]
    assert len(row.points) == 2
    assert None not in row.points


def test_search_that_fails_altogether_has_no_final_runs(tmp_path: Path) -> None:
    study = toml(tmp_path, preset="DoubleBack", search="{ weight = [1e39, 3e39] }")
    store = Store(tmp_path / "runs")
    done = sweep(study, store, Here())
    assert (len(done.done), len(done.failed)) == (2, 2)
    at = plan(done.study, store)
    assert (at.done, at.failed, at.missing) == (2, 2, 0)
    row = collect(done.study, store, command="").groups[0].rows[1]
    assert row.runs == ()
    assert "the loss became" in row.failures[0][1]


def test_final_run_that_fails_is_done_again_only_where_asked(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    study = toml(tmp_path, at_seed=1, then=f"assert not os.path.exists({str(tmp_path / 'broken')!r}), 'no luck'")
    store = Store(tmp_path / "runs")
    done = sweep(study, store, Here())
    assert len(done.failed) == 2
    assert all("AssertionError: no luck" in error for error in done.failed.values())
    failure = store.files(next(iter(done.failed))).failure()
    assert failure is not None
    assert "nets.py" in failure["log"]

    assert sweep(study, store, nowhere).failed == done.failed
    still = Here()
    assert set(sweep(study, store, still, retry_failed=True).failed) == set(done.failed) == set(still.given)
    (tmp_path / "broken").unlink()
    mended = Here()
    assert not sweep(study, store, mended, retry_failed=True).failed
    assert set(mended.given) == set(done.failed)
    assert plan(done.study, store).failed == 0


# --- searches by Optuna -----------------------------------------------------------------------------------------------


def test_search_by_optuna_finds_the_same_with_one_process_and_with_two(tmp_path: Path) -> None:
    study = toml(tmp_path, search=TPE)
    stores = [Store(tmp_path / name) for name in ("one", "two")]
    done = [sweep(study, store, ex) for store, ex in zip(stores, (Here(), LocalExecutor(2)), strict=True)]
    arm = done[0].study.arms[1]
    one, two = (progress(arm, done[0].study, store) for store in stores)
    assert one == two
    assert one.ended
    assert len(one.tried) == 4
    assert len({tried.steps for tried in one.tried}) > 1  # some were given up
    assert results(stores[0].directory) == results(stores[1].directory)
    assert done[0].done == done[1].done
    # What the search kept to go on from is gone.
    assert not list((tmp_path / "two" / "runs").glob("*/checkpoint"))
    final = {run for run in done[1].done if run.protocol.measure == "test"}
    assert final <= sweep(study, stores[1], nowhere).done
    assert len(final) == 2 + 2


def test_search_that_another_process_has_is_waited_for(tmp_path: Path) -> None:
    study = toml(tmp_path, search=TPE)
    store = Store(tmp_path / "runs")
    loaded = load_study(str(study), store).study
    lock = journal(loaded.arms[1], loaded, store).with_suffix(".lock")
    lock.parent.mkdir()
    other = subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo held; read nothing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdout.readline()
    seen = []

    def tick(found: Any) -> None:
        # The baseline's runs are done, the search has not begun.
        seen.append((len(found.done), found.pending))
        if len(found.done) == 2 and len(seen) > 3 and other.poll() is None:
            assert not lock.with_suffix(".journal").exists()
            other.communicate(b"\n")

    from gradreg.study.sweep import Sweep

    found = Sweep(loaded, store, seconds={})
    found.go(Here(), tick)
    assert (2, 2) in seen
    assert other.returncode is not None
    assert progress(loaded.arms[1], loaded, store).ended
