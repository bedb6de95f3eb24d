"""Step times: one for each kind of step, kept for the runs of a study together. How long they are is not tested."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from runs_for_tests import BASELINE, DAMAGES, SPECTREG, spoil

import gradreg as gr
from gradreg.commands import common
from gradreg.study import cost as module
from gradreg.study.collect import collect
from gradreg.study.config import Data, Model, Penalty, Run, digest
from gradreg.study.cost import (
    Timing,
    interleaved,
    known_seconds,
    missing_timing,
    save_seconds,
    step_id,
    time_steps,
    timed_on,
)
from gradreg.study.execute import Outcome
from gradreg.study.files import Loaded
from gradreg.study.grid import Arm, Study, put
from gradreg.study.store import Store
from gradreg.study.train import Training

DOUBLEBACK = replace(BASELINE, penalties=(Penalty("DoubleBack", 30.0),))
AUTO = put(SPECTREG, {"technique.auto_weight": 0.35, "schedule.steps": 200})
SAME = [
    {"weight": 0.3},
    {"seed": 3},
    {"schedule.steps": 1000},
    {"optimizer.learning_rate": 0.1},
    {"optimizer.weight_decay": 0.1},
    {"split.train_size": 50},
    {"protocol.measure": "validation"},
]
OTHER = [
    {"schedule.batch_size": 21},
    {"optimizer.name": "sgd"},
    {"model.name": "mlp"},
    {"data.name": "mnist"},
    {"penalties.0.preset": "FrobReg"},
    {"penalties.0.options": (("samples", 2),)},
    {"split.unlabelled": 50},
    {"split.unlabelled": 50, "schedule.unlabelled_batch": 5},
]


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_steps_are_told_apart_by_what_decides_their_time() -> None:
    assert {step_id(put(SPECTREG, change)) for change in SAME} == {step_id(SPECTREG)}
    others = [put(SPECTREG, change) for change in OTHER] + [BASELINE, SPECTREG]
    others.append(replace(SPECTREG, penalties=(*SPECTREG.penalties, Penalty("ConfidencePenalty", 0.1))))
    assert len({step_id(run) for run in others}) == len(others)


def test_every_kind_of_step_gets_a_positive_time_and_the_threads_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def noted(steps: Any, repeats: int, periods: Any, clock: Any) -> dict[str, float]:
        asked.append(repeats)
        return interleaved(steps, 2, periods, clock)

    monkeypatch.setattr(module, "interleaved", noted)
    runs = [BASELINE, SPECTREG, put(SPECTREG, {"seed": 3}), DOUBLEBACK]
    timing = missing_timing(runs, Store(tmp_path))
    assert timing is not None
    assert timing.runs == tuple(runs)
    found = time_steps(timing)
    assert isinstance(found, dict)
    assert set(found) == {step_id(run) for run in (BASELINE, SPECTREG, DOUBLEBACK)}
    assert all(seconds > 0 for seconds in found.values())
    assert torch.get_num_threads() == 2
    short = [put(run, {"schedule.steps": 4}) for run in (BASELINE, SPECTREG)]
    time_steps(Timing(tuple(short), tmp_path))
    assert asked == [25, 4]  # no more than the runs have steps


def test_looks_of_weights_that_move_are_spread_over_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([{step_id(AUTO): 1.0, step_id(SPECTREG): 2.0}, {step_id(AUTO): 8.0}])
    monkeypatch.setattr(module, "interleaved", lambda *_: next(times))
    # 50 looks, counted with those before and at the beginning, in 200 steps
    assert time_steps(Timing((AUTO, SPECTREG), tmp_path)) == {step_id(AUTO): 1.0 + 8.0 / 4, step_id(SPECTREG): 2.0}
    assert step_id(AUTO) != step_id(put(AUTO, {"schedule.steps": 100}))


def test_weights_that_move_have_begun_in_the_steps_that_are_timed_and_no_look_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their first steps would be plain ones; looks are timed by themselves."""
    seen: list[gr.AutoWeight] = []
    make = Training._auto_weight

    def noted(self: Training, *objective: Any) -> gr.AutoWeight:
        seen.append(make(self, *objective))
        return seen[-1]

    monkeypatch.setattr(Training, "_auto_weight", noted)
    assert isinstance(time_steps(Timing((put(AUTO, {"schedule.steps": 60}), SPECTREG), tmp_path)), dict)
    (auto,) = seen
    assert [(look.step, look.factor > 0) for look in auto.history] == [(30, True)]


@pytest.mark.parametrize("wrong", [replace(SPECTREG, data=Data("letters")), replace(SPECTREG, model=Model("none"))])
def test_threads_are_put_back_after_an_error(tmp_path: Path, wrong: Run) -> None:
    found = time_steps(Timing((SPECTREG, wrong), tmp_path))
    assert isinstance(found, str)
    assert "there is no" in found
    assert torch.get_num_threads() == 2


def test_calls_take_turns_after_three_rounds_that_do_not_count() -> None:
    calls: list[str] = []
    found = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2)
    assert "".join(calls) == "ab" * 5
    assert set(found) == {"a", "b"}


def test_step_is_another_with_a_technique_or_another_optimizer_and_not_with_another_number() -> None:
    """And without any it is what it was, so that times that were kept are found."""
    changes = [{}, {"technique.mixup": 0.2}, {"technique.sam": 0.1}, {"optimizer.name": "adamw"}]
    assert len({step_id(put(BASELINE, change)) for change in changes}) == len(changes)
    assert step_id(put(BASELINE, {"technique.mixup": 0.4})) == step_id(put(BASELINE, {"technique.mixup": 0.2}))
    assert step_id(put(BASELINE, {"optimizer.weight_decay": 0.1})) == step_id(BASELINE)
    expected = digest([{"name": "digits"}, {"name": "small-cnn"}, "adam", 20, []])
    assert step_id(BASELINE) == expected


def test_time_is_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def in_turn(steps: Any, repeats: int, **options: Any) -> dict[str, list[float]]:
        asked.append(options)
        return {name: [1.0, 50.0, 2.0] for name in steps}

    monkeypatch.setattr(module, "in_turn", in_turn)
    assert interleaved({"a": lambda: None}, repeats=3) == {"a": 2.0}
    assert asked[0]["within"] == 60


def test_times_are_kept_for_the_runs_of_a_study_together(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = [BASELINE, SPECTREG]
    assert known_seconds(runs, store) == {}
    timing = missing_timing(runs, store)
    assert timing is not None
    seconds = {step_id(BASELINE): 0.001, step_id(SPECTREG): 0.0015}
    save_seconds(timing, seconds, store)
    assert known_seconds([SPECTREG, BASELINE], store) == seconds
    # With another size of the training set the step is the same, but whether it can be drawn has to be tried.
    assert known_seconds([SPECTREG, put(BASELINE, {"split.train_size": 90})], store) == {}
    assert missing_timing(runs, store) is None
    # Kinds of steps that were not told apart when the file was made.
    save_seconds(timing, {step_id(BASELINE): 0.001}, store)
    assert known_seconds(runs, store) == {}
    # One more arm: all are timed anew, so that they are comparable.
    more = missing_timing([*runs, DOUBLEBACK], store)
    assert more is not None
    assert len(more.runs) == 3


def test_the_device_is_kept_with_the_times(tmp_path: Path) -> None:
    store, runs = Store(tmp_path), [BASELINE, SPECTREG]
    timing = Timing(tuple(runs), tmp_path, "cuda")
    assert missing_timing(runs, store, "cuda") == timing
    assert timed_on(runs, store) == "cpu"  # nothing is known
    seconds = {step_id(run): 0.001 for run in runs}
    save_seconds(timing, seconds, store)
    assert known_seconds(runs, store) == seconds
    assert timed_on(runs, store) == "cuda"
    assert missing_timing(runs, store) is None  # all of them on one device: comparable with each other
    arms = tuple(Arm(name, run) for name, run in zip(("Baseline", "SpectReg"), runs, strict=True))
    assert collect(Study("s", "s", arms), store, command="").timed_on == "cuda"
    save_seconds(replace(timing, device="cpu"), seconds, store)
    assert timed_on(runs, store) == "cpu"


def test_a_command_has_steps_timed_on_its_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Timing] = []

    def execute(work: Any, tasks: Any, jobs: int) -> list[Outcome]:
        given.extend(tasks)
        return [Outcome(tasks[0], {step_id(run): 0.001 for run in tasks[0].runs})]

    monkeypatch.setattr(common, "execute", execute)
    arms = (Arm("Baseline", BASELINE), Arm("SpectReg", SPECTREG))
    for device in ("cuda", "cpu"):  # the second finds them kept
        common._timed(Loaded(Study("s", "s", arms)), Store(tmp_path), Console(quiet=True), device)
    assert [timing.device for timing in given] == ["cuda"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_steps_are_tried_and_timed_on_a_gpu(tmp_path: Path) -> None:
    found = time_steps(Timing((BASELINE, SPECTREG), tmp_path, "cuda"))
    assert isinstance(found, dict)
    assert all(0 < seconds < 1 for seconds in found.values())


@pytest.mark.parametrize("how", [how for how in DAMAGES if how not in ("foreign", "bit flipped")])
def test_damaged_file_is_timed_again(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path)
    timing = missing_timing([BASELINE], store)
    assert timing is not None
    save_seconds(timing, {step_id(BASELINE): 0.001}, store)
    (file,) = (tmp_path / "timings").iterdir()
    spoil(file, how)
    assert missing_timing([BASELINE], store) == timing
