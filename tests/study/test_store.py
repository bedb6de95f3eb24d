"""What is saved comes back; what is not whole does not."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs_for_tests import DAMAGES, RESULT, SPECTREG, spoil

from gradreg.study import store as module
from gradreg.study.config import StudyError
from gradreg.study.grid import put
from gradreg.study.store import RunFiles, Status, Store, is_full, locked_file, read_results, write_atomically

RUN, OTHER = SPECTREG, put(SPECTREG, {"seed": 1})
HOLD = """
import sys
from pathlib import Path
from gradreg.study.store import RunFiles
with RunFiles(Path(sys.argv[1])).claim() as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(name="files")
def _files(tmp_path: Path) -> RunFiles:
    found = Store(tmp_path).files(RUN)
    found.folder.mkdir()
    return found


# --- results ----------------------------------------------------------------------------------------------------------


def test_saved_result_is_there_in_a_new_store_to_the_last_bit(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "store")
    with store.files(RUN).claim() as mine:
        assert mine
        store.files(RUN).begin(RUN, {"torch": "2.6"})
        store.files(RUN).save_result(RESULT)
    store = Store(tmp_path / "a" / "store")
    assert store.result(RUN) == {**RESULT, "complete": True}
    assert store.result(OTHER) is None
    assert read_results(store, [RUN, OTHER]) == {RUN: {**RESULT, "complete": True}}
    assert store.files(RUN).config() == json.loads(json.dumps(RUN.as_dict()))
    assert store.files(RUN).environment() == {"torch": "2.6"}
    assert (tmp_path / "a" / "store" / "runs" / RUN.key / "config.json").exists()


def test_every_truncation_reads_as_missing(files: RunFiles) -> None:
    files.save_result(RESULT)
    file = files.folder / "result.json"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert files.result() is None, whole[:length]
        assert files.status().state == "missing"


@pytest.mark.parametrize("foreign", [b"[1, 2]", b"null", b'{"accuracy": 1}', b'{"complete": "yes"}', b"\xff\xfe\x00"])
def test_foreign_file_reads_as_missing_and_is_replaced(files: RunFiles, foreign: bytes) -> None:
    for name in ("result.json", "failure.json", "heartbeat.json", "config.json", "environment.json", "metrics.jsonl"):
        (files.folder / name).write_bytes(foreign)
    assert files.result() is None
    assert files.failure() is None
    assert files.metrics() == []
    assert files.status().state == "missing"
    files.save_result(RESULT)
    assert files.result() == {**RESULT, "complete": True}


def test_result_ends_what_was_kept_on_the_way(files: RunFiles) -> None:
    files.save_failure("it failed")
    files.beat(3, 60)
    files.save_checkpoint(b"state")
    files.save_result(RESULT, keep_checkpoint=True)
    assert (files.failure(), files.checkpoint()) == (None, b"state")
    files.save_result(RESULT)
    assert {entry.name for entry in files.folder.iterdir()} == {"result.json"}


def test_failure_holds_the_end_of_the_log(files: RunFiles) -> None:
    (files.folder / "log.txt").write_bytes(b"\xff\n" + "\n".join(f"line {i}" for i in range(100)).encode())
    files.save_failure("the loss became nan")
    found = files.failure()
    assert found is not None
    assert found["error"] == "the loss became nan"
    assert found["log"].splitlines() == [f"line {i}" for i in range(80, 100)]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_leftovers_of_a_killed_process_do_no_harm(files: RunFiles) -> None:
    leftover = files.folder / ".result.json.4711"
    leftover.write_text('{"complete": tr')
    assert files.result() is None
    files.save_result(RESULT)
    assert files.result() is not None
    assert leftover.exists()


def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "new \ud800")  # a lone surrogate cannot be written
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_write_to_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "result.json"
    write_atomically(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomically(file, "new")
    assert is_full(caught.value)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    write_atomically(file, "newer", safe=False)
    assert file.read_text() == "newer"


def test_errors_of_a_full_disk_are_told_from_others() -> None:
    assert [is_full(OSError(n, "")) for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)] == [True] * 3
    assert not is_full(OSError(errno.EACCES, ""))
    assert not is_full(ValueError())
    assert not is_full(OSError())


def test_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="where no directory can be made"):
        Store(tmp_path / "file" / "store")


# --- checkpoints and metrics ------------------------------------------------------------------------------------------


def test_checkpoint_comes_back_whole(files: RunFiles) -> None:
    assert files.checkpoint() is None
    for content in (b"one", bytes(range(256)) * 40, b""):
        files.save_checkpoint(content)
        assert files.checkpoint() == content


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_checkpoint_reads_as_none(files: RunFiles, how: str) -> None:
    files.save_checkpoint(bytes(range(256)) * 40)
    spoil(files.folder / "checkpoint", how)
    assert files.checkpoint() is None


def test_metrics_come_back_but_for_torn_lines(files: RunFiles) -> None:
    assert files.metrics() == []
    for step in (20, 40, 60):
        files.note({"step": step, "total": 1 / step})
    with (files.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 80, "tot')
    assert files.metrics() == [{"step": step, "total": 1 / step} for step in (20, 40, 60)]


def test_trim_drops_what_a_run_will_write_again_and_torn_lines(files: RunFiles) -> None:
    files.trim(0)
    assert not (files.folder / "metrics.jsonl").exists()
    for step in (20, 40, 60):
        files.note({"step": step})
    with (files.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 80, "tot')
    files.trim(40)
    files.note({"step": 60, "again": True})
    assert files.metrics() == [{"step": 20}, {"step": 40}, {"step": 60, "again": True}]
    files.trim(0)
    assert files.metrics() == []


# --- states -----------------------------------------------------------------------------------------------------------


def test_states_of_a_run(files: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.status() == Status("missing")
    with files.claim() as mine:
        assert mine
        files.beat(20, 60)
        assert files.status() == Status("running", 20, 60)
    # Broken off: the sign of life is there, the process is not.
    assert files.status() == Status("missing", 20, 60)
    files.save_failure("it failed")
    assert files.status() == Status("failed", 20, 60)
    # On another machine the clock decides.
    monkeypatch.setattr(module.socket, "gethostname", lambda: "elsewhere")
    assert files.status() == Status("running", 20, 60)
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + module.SILENCE_SECONDS + 5)
    assert files.status() == Status("failed", 20, 60)
    files.save_result({**RESULT, "steps": 60})
    assert files.status() == Status("done", 60, 60)


def test_run_of_another_process_cannot_be_claimed_until_that_is_killed(files: RunFiles) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(files.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        with files.claim() as mine:
            assert not mine
        assert files.locked()
        files.beat(20, 60)
        assert files.status().state == "running"
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not files.locked()
        assert files.status().state == "missing"
        with files.claim() as mine:
            assert mine
    finally:
        child.kill()
        child.communicate()


def test_looking_at_a_run_makes_no_lock(files: RunFiles) -> None:
    assert not files.locked()
    assert list(files.folder.iterdir()) == []


def test_file_is_locked_for_one_at_a_time(tmp_path: Path) -> None:
    with locked_file(tmp_path / "lock") as first, locked_file(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with locked_file(tmp_path / "lock") as third:
        assert third


def test_forget_leaves_the_lock_alone(files: RunFiles) -> None:
    with files.claim():
        files.begin(RUN, {})
        files.save_result(RESULT)
        (files.folder / "folder").mkdir()
        files.forget()
        assert [entry.name for entry in files.folder.iterdir()] == ["lock"]
    assert files.result() is None


def test_runs_are_found_by_the_beginning_of_their_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("0123456789abcdef", "0123456789abcdee", "fedcba9876543210", "not-a-key", ".0123456789abcdef"):
        (tmp_path / "runs" / name).mkdir()
    assert store.keys() == ["0123456789abcdee", "0123456789abcdef", "fedcba9876543210"]
    assert store.find("fe").folder.name == "fedcba9876543210"
    assert store.find("0123456789abcdef").folder.name == "0123456789abcdef"
    with pytest.raises(StudyError, match=r"2 runs in .* they are 0123456789abcdee, 0123456789abcdef"):
        store.find("01")
    for word in ("", "a", "../"):
        with pytest.raises(StudyError, match=r"no runs in .* begins with"):
            store.find(word)


def test_places_within_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.pack("0123") == tmp_path / "data" / "0123.npz"
    assert store.study("mine") == tmp_path / "studies" / "mine"
    assert (tmp_path / "studies" / "mine").is_dir()
