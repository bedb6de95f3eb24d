"""Items in spawned processes: every outcome comes back, also where items raise or processes die."""

import multiprocessing as mp
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from functions_for_tests import act, execute_one, fail_to_set_up, stop_gracefully

from gradreg.study import execute as module
from gradreg.study.execute import Outcome, execute

INTERRUPT = ("blocked", signal.SIGINT)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def until(true: Callable[[], Any]) -> None:
    """Waits for something that comes soon."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def number_in(path: Path) -> int:
    until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def test_all_outcomes_come_back_and_an_error_is_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    items = [("square", 3), ("raise", 12), ("square", 4), ("environment", THREADS), INTERRUPT, ("square", 5)]
    outcomes = {outcome.item: outcome for outcome in execute(act, items, jobs=2)}
    assert set(outcomes) == set(items)
    assert [outcomes["square", n].result for n in (3, 4, 5)] == [9, 16, 25]
    error = outcomes.pop(("raise", 12)).error
    assert error is not None
    assert error.startswith("LookupError: no page 12")
    assert "functions_for_tests.py" in error
    assert all(outcome.error is None for outcome in outcomes.values())
    # Ctrl-C, which a terminal sends to all processes, is the parent's business alone.
    assert outcomes[INTERRUPT].result is True
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    # One thread in each child, found at its start; the parent's environment is as before.
    assert outcomes["environment", THREADS].result == ["1", "1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "MKL_NUM_THREADS" not in os.environ


def test_item_whose_process_dies_is_tried_twice_and_takes_no_other_with_it(tmp_path: Path) -> None:
    once, always = ("die at first", str(tmp_path / "once")), ("die always", str(tmp_path / "always"))
    items = [("square", 2), once, always, ("square", 6)]
    found = {outcome.item: outcome for outcome in execute(act, items, jobs=2)}
    assert set(found) == set(items)
    assert (found[once].result, found[once].error) == ("came back", None)
    assert found[always].result is None
    assert found[always].error == "its process died 2 times (signal SIGKILL)"
    assert (tmp_path / "always").read_text().split() == ["tried"] * 2
    assert [found["square", n].result for n in (2, 6)] == [4, 36]


def test_process_that_died_while_idle_is_replaced_and_none_is_left_when_the_caller_stops() -> None:
    others = set(mp.active_children())
    outcomes = execute(act, [("answer, then die", 0.1), ("square", 7), ("square", 8)], jobs=1, tries=1)
    assert isinstance(outcomes, Generator)
    pid = next(outcomes).result
    until = time.monotonic() + 60
    while pid in {child.pid for child in mp.active_children()} and time.monotonic() < until:
        time.sleep(0.02)
    assert next(outcomes).result == 49
    assert set(mp.active_children()) > others
    outcomes.close()
    assert set(mp.active_children()) <= others


def test_no_items_start_no_process() -> None:
    assert list(execute(act, [], jobs=4)) == []


def test_process_that_is_killed_within_an_item_takes_only_that_item(tmp_path: Path) -> None:
    """Killed from outside, twice: the item is tried again, then given up; what is beside it goes on."""
    begun, other = tmp_path / "begun", tmp_path / "other"
    beside, struck = ("wait", (str(other), str(tmp_path / "go on"))), ("wait", (str(begun), str(tmp_path / "never")))
    killed: list[int] = []

    def strike(items: Sequence[Any]) -> None:
        assert set(items) <= {beside, struck, ("square", 5)}
        if begun.exists() and (text := begun.read_text()) and int(text) not in killed and other.exists():
            killed.append(int(text))
            os.kill(killed[-1], signal.SIGKILL)

    found: dict[Any, Outcome[Any]] = {}
    for outcome in execute(act, [beside, struck, ("square", 5)], jobs=2, tries=3, tick=strike):
        found[outcome.item] = outcome
        if outcome.item == struck:
            (tmp_path / "go on").touch()
    assert len(killed) == len(set(killed)) == 3
    assert found[struck].error == "its process died 3 times (signal SIGKILL)"
    assert (found[beside].result, found[beside].error) == ("waited", None)
    assert found["square", 5].result == 25


def test_caller_may_append_between_outcomes_also_after_the_last() -> None:
    waiting: deque[tuple[str, int]] = deque([("square", 1)])
    found = []
    for outcome in execute(act, waiting, jobs=2):
        found.append(outcome.result)
        if len(found) < 6:
            waiting.append(("square", len(found) + 1))
    assert found == [1, 4, 9, 16, 25, 36]
    assert not waiting


def test_items_are_taken_from_the_left_only_when_a_process_is_free() -> None:
    waiting: deque[tuple[str, int]] = deque([("square", n) for n in range(1, 6)])
    outcomes = execute(act, waiting, jobs=1)
    assert next(iter(outcomes)).result == 1
    assert list(waiting) == [("square", n) for n in (2, 3, 4, 5)]
    waiting.appendleft(("square", 10))
    waiting.pop()
    assert [outcome.result for outcome in outcomes] == [100, 4, 9, 16]


def test_every_process_is_set_up_before_its_first_item() -> None:
    outcomes = execute(act, [("set up", 1), ("set up", 2)], jobs=2, setup=stop_gracefully)
    assert [outcome.result for outcome in outcomes] == [([], "yes")] * 2


def test_setup_that_ends_its_process_ends_the_items_and_not_the_caller() -> None:
    (outcome,) = execute(act, [("square", 1)], jobs=1, setup=fail_to_set_up)
    assert outcome.error == "its process died 2 times (exit status 3)"


def test_tick_comes_while_items_run_with_these(tmp_path: Path) -> None:
    item = ("wait", (str(tmp_path / "begun"), str(tmp_path / "end")))
    seen: list[list[Any]] = []

    def tick(items: Sequence[Any]) -> None:
        seen.append(list(items))
        if len(seen) == 2:
            (tmp_path / "end").touch()

    (outcome,) = execute(act, [item], jobs=1, tick=tick)
    assert outcome.result == "waited"
    assert len(seen) >= 2
    assert all(items == [item] for items in seen)


def test_caller_that_stops_lets_busy_processes_end_by_themselves(tmp_path: Path) -> None:
    others = set(mp.active_children())
    item = ("wait", (str(tmp_path / "begun"), str(tmp_path / "never")))
    outcomes = execute(act, [("square", 3), item], jobs=2, setup=stop_gracefully)
    assert isinstance(outcomes, Generator)
    assert next(outcomes).result == 9
    number_in(tmp_path / "begun")
    outcomes.close()
    assert (tmp_path / "never.stopped").read_text() == "stopped gracefully"
    assert set(mp.active_children()) <= others


def test_process_that_does_not_end_by_itself_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    others = set(mp.active_children())
    begun = tmp_path / "begun"
    item = ("ignore SIGTERM", str(begun))
    outcomes = execute(act, [("square", 3), item], jobs=2)
    assert isinstance(outcomes, Generator)
    assert next(outcomes).result == 9
    pid = number_in(begun)
    outcomes.close()
    assert set(mp.active_children()) <= others
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_error_of_the_caller_ends_all_processes(tmp_path: Path) -> None:
    others = set(mp.active_children())
    begun = tmp_path / "begun"

    def tick(items: Sequence[Any]) -> None:
        if begun.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(execute(act, [("wait", (str(begun), str(tmp_path / "never")))], jobs=1, setup=stop_gracefully, tick=tick))
    assert (tmp_path / "never.stopped").exists()
    assert set(mp.active_children()) <= others


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    """A parent that is killed leaves no process behind once the item in hand is done."""
    begun, end = tmp_path / "begun", tmp_path / "end"
    parent = mp.get_context("spawn").Process(target=execute_one, args=(("wait", (str(begun), str(end))),))
    parent.start()
    pid = number_in(begun)
    parent.kill()
    parent.join()
    os.kill(pid, 0)  # it works on
    end.touch()
    until(lambda: not _is_there(pid))


def _is_there(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        # One that nobody waits for stays in the table.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
