"""The identity of a run: its key follows its meaning, and nothing else."""

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from gradreg.study import config as module
from gradreg.study.config import (
    Data,
    Model,
    Optimizer,
    Penalty,
    Protocol,
    Run,
    Schedule,
    Split,
    Technique,
    digest,
    meaning,
    out_of_range,
)
from gradreg.study.grid import put
from gradreg.study.metric import ACCURACY, MSE

RUN = Run(
    Data("digits"),
    Split(100, 400, 797),
    Model("small-cnn"),
    Optimizer(0.003, weight_decay=0.0005),
    Schedule(200, 20),
    (Penalty("SpectReg", 0.03),),
    seed=7,
)
CHANGES: dict[str, Any] = {
    "data.name": "mnist",
    "data.content": "0123",
    "split.train_size": 101,
    "split.validation_size": 401,
    "split.test_size": 798,
    "split.balanced": False,
    "split.unlabelled": 50,
    "model.name": "mlp",
    "model.code": "0123",
    "optimizer.learning_rate": 0.004,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.8,
    "optimizer.weight_decay": 0.001,
    "schedule.steps": 201,
    "schedule.batch_size": 21,
    "schedule.milestones": (0.5,),
    "schedule.factor": 0.2,
    "schedule.until": 20,
    "schedule.unlabelled_batch": 5,
    "penalties.0.preset": "FrobReg",
    "penalties.0.weight": 0.1,
    "penalties.0.options": (("samples", 2),),
    "seed": 8,
    "protocol.measure": "validation",
    "protocol.norm_points": 100,
    "protocol.test_points": 100,
    "protocol.top_k": 5,
    "protocol.profile_points": 500,
    "loss_factor": 25.0,
    "technique.mixup": 0.2,
    "technique.sam": 0.05,
    "technique.auto_weight": 0.3,
}


def leaves(value: Any, prefix: str = "") -> Iterator[str]:
    for field in fields(value):
        item = getattr(value, field.name)
        if is_dataclass(item):
            yield from leaves(item, f"{prefix}{field.name}.")
        elif field.name == "penalties":
            yield from leaves(item[0], "penalties.0.")
        else:
            yield prefix + field.name


def test_key_is_the_hash_of_the_runs_meaning() -> None:
    """Written out, so that it is the same in every process, and cannot change without raising MEANING."""
    text = (
        '{"data": {"name": "digits"}, "meaning": 3, "model": {"name": "small-cnn"}, "optimizer": {"learning_rate": '
        '0.003, "weight_decay": 0.0005}, "penalties": [{"preset": "SpectReg", "weight": 0.03}], "schedule": '
        '{"batch_size": 20, "steps": 200}, "seed": 7, "split": {"test_size": 797, "train_size": 100, '
        '"validation_size": 400}}'
    )
    assert RUN.key == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_key_is_the_same_in_another_process_and_after_pickling() -> None:
    script = "import pickle, sys; print(pickle.load(sys.stdin.buffer).key)"
    sent = pickle.dumps(replace(RUN))  # without the key
    done = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True, check=True, timeout=60)
    assert done.stdout.decode().strip() == RUN.key
    assert pickle.loads(pickle.dumps(RUN)) == RUN


def test_every_field_is_tried() -> None:
    assert set(leaves(RUN)) == set(CHANGES)


@pytest.mark.parametrize("path", CHANGES)
def test_key_differs_when_a_field_does(path: str) -> None:
    changed = put(RUN, {path: CHANGES[path]})
    assert changed.key != RUN.key
    assert put(changed, {path: _given(path)}).key == RUN.key


def _given(path: str) -> Any:
    value: Any = RUN
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


def test_keys_of_all_changes_differ() -> None:
    assert len({put(RUN, {path: value}).key for path, value in CHANGES.items()}) == len(CHANGES)


def test_key_tells_presets_their_number_and_their_order_apart() -> None:
    one, two = Penalty("SpectReg", 0.1), Penalty("FrobReg", 0.1)
    penalties = [(), (one,), (two,), (one, two), (two, one)]
    assert len({replace(RUN, penalties=p).key for p in penalties}) == len(penalties)


@pytest.mark.parametrize(("path", "whole"), [("penalties.0.weight", 3), ("optimizer.learning_rate", 1)])
def test_equal_runs_have_equal_keys(path: str, whole: int) -> None:
    """A weight of 3 from the grid and of 3.0 from the command line is one run."""
    one, two = put(RUN, {path: whole}), put(RUN, {path: float(whole)})
    assert one == two
    assert one.key == two.key


def test_default_that_is_written_out_changes_no_key() -> None:
    written = replace(
        RUN,
        data=Data("digits", content=""),
        split=Split(100, 400, 797, balanced=True, unlabelled=0),
        schedule=Schedule(200, 20, milestones=(0.5, 0.75), factor=0.1, until=0, unlabelled_batch=0),
        protocol=Protocol("test", 500),
    )
    assert written.key == RUN.key


def test_new_meaning_gives_all_runs_new_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEANING", module.MEANING + 1)
    assert replace(RUN).key != RUN.key


def test_steps_are_those_that_are_taken() -> None:
    assert RUN.steps == 200
    assert put(RUN, {"schedule.until": 20}).steps == 20


def test_run_as_plain_data_holds_every_field() -> None:
    found = json.loads(json.dumps(RUN.as_dict()))
    assert found["penalties"] == [{"preset": "SpectReg", "weight": 0.03, "options": []}]
    protocol = {"measure": "test", "norm_points": 500, "test_points": 0, "top_k": 0, "profile_points": 0}
    assert found["protocol"] == protocol
    assert set(found) == {field.name for field in fields(Run)}


def test_runs_and_penalties_in_words() -> None:
    assert str(RUN) == "SpectReg(0.03), 100 labels of digits, seed 7"
    assert str(replace(RUN, penalties=())) == "no penalty, 100 labels of digits, seed 7"
    assert str(put(RUN, {"technique.mixup": 0.2})) == "SpectReg(0.03) + Mixup(0.2), 100 labels of digits, seed 7"
    both = replace(RUN, penalties=(), technique=Technique(0.2, 0.05))
    assert str(both) == "Mixup(0.2) + SAM(0.05), 100 labels of digits, seed 7"
    more = put(RUN, {"split.unlabelled": 50})
    assert str(more) == "SpectReg(0.03), 100 labels of digits and 50 unlabelled inputs, seed 7"
    assert str(Penalty("JacReg", 1.0, (("samples", 2),))) == "JacReg(1, samples=2)"


def test_meaning_of_plain_values_is_themselves() -> None:
    assert meaning((("a", 1), ("b", True))) == [["a", 1], ["b", True]]
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len(digest(1)) == 16


def test_measures_are_of_so_many_points_and_of_classes() -> None:
    assert out_of_range(put(RUN, {"protocol.profile_points": -1})) == ["protocol.profile_points=-1; expected >= 0"]
    sin = put(RUN, {"data.name": "sin", "protocol.profile_points": 5})
    assert out_of_range(sin) == [
        "protocol.profile_points=5; expected 0, since sin is a regression and the measures are those of classes"
    ]
    assert out_of_range(put(RUN, {"protocol.profile_points": 5})) == out_of_range(RUN) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"technique.auto_weight": 1.0}, "a ratio >= 0 and < 1"),
        ({"penalties.0.weight": 0.0}, "0 without a penalty"),
        ({"technique.sam": 0.1}, "0 beside technique.sam"),
    ],
)
def test_weights_that_move_need_a_ratio_and_a_penalty(changes: dict[str, Any], expected: str) -> None:
    run = put(replace(RUN, penalties=(Penalty("SpectReg", 1.0),)), {"technique.auto_weight": 0.35})
    assert out_of_range(run) == []
    (said,) = out_of_range(put(run, changes))
    assert said.startswith("technique.auto_weight=")
    assert said.endswith(f"; expected {expected}")


def test_own_data_is_classified_whatever_its_name() -> None:
    assert replace(RUN, data=Data("sin")).metric is MSE
    assert replace(RUN, data=Data("sin", "0123")).metric is ACCURACY
