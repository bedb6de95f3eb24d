"""Items in spawned processes: every outcome comes back, also where items raise or processes die."""

import multiprocessing as mp
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from functions_for_tests import act

from gradreg.study.execute import execute

INTERRUPT = ("blocked", signal.SIGINT)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


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
    outcomes = execute(act, [("answer, then die", 0.1), ("square", 7), ("square", 8)], jobs=1)
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
