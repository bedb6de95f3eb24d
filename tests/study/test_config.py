"""The identity of a run, and the settings of the two data sets."""

import dataclasses
import hashlib
from typing import Any

import pytest

import gradreg as gr
from gradreg.study.config import SETTINGS, Run

RUN = SETTINGS["digits"].run((("SpectReg", 0.03),), 7, "test")
CHANGES: dict[str, Any] = {
    "data": "mnist",
    "train_size": 101,
    "validation_size": 401,
    "test_size": 798,
    "model": "lenet5",
    "penalties": (("SpectReg", 0.1),),
    "seed": 8,
    "steps": 201,
    "batch_size": 21,
    "learning_rate": 0.004,
    "weight_decay": 0.001,
    "report": "validation",
}


def test_key_is_the_hash_of_the_runs_meaning() -> None:
    """Written out, so that it is the same in every process, and cannot change without raising MEANING."""
    text = (
        '{"batch_size": 20, "data": "digits", "learning_rate": 0.003, "meaning": 1, "model": "small-cnn", '
        '"penalties": [["SpectReg", 0.03]], "report": "test", "seed": 7, "steps": 200, "test_size": 797, '
        '"train_size": 100, "validation_size": 400, "weight_decay": 0.0005}'
    )
    assert RUN.key == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Run)])
def test_key_differs_when_a_field_does(field: str) -> None:
    assert dataclasses.replace(RUN, **{field: CHANGES[field]}).key != RUN.key


def test_key_tells_presets_and_their_number_apart() -> None:
    penalties = [(), (("SpectReg", 0.1),), (("FrobReg", 0.1),), (("SpectReg", 0.1), ("FrobReg", 0.1))]
    assert len({dataclasses.replace(RUN, penalties=p).key for p in penalties}) == len(penalties)


def test_equal_runs_have_equal_keys() -> None:
    """A weight of 3 from the grid and of 3.0 from the command line is one run."""
    whole, decimal = (dataclasses.replace(RUN, penalties=(("DoubleBack", w),)) for w in (3, 3.0))
    assert whole == decimal
    assert whole.key == decimal.key


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_has_the_baseline_first_and_rising_positive_weights(name: str) -> None:
    baseline, *methods = SETTINGS[name].methods
    assert (baseline.name, baseline.grid) == ("baseline", ())
    assert [m.label for m in methods] == ["DoubleBack", "SpectReg", "FrobReg", "JacReg", "ConfidencePenalty"]
    for method in methods:
        assert method.name == method.label.lower()
        assert len(method.grid) > 1
        assert min(method.grid) > 0
        assert all(a < b for a, b in zip(method.grid, method.grid[1:], strict=False))
        assert getattr(gr, method.label)(method.grid[0]).weight == method.grid[0]


def test_digits_setting_divides_the_1797_images() -> None:
    s = SETTINGS["digits"]
    assert (s.train_size, s.seeds) == (100, 10)
    assert s.train_size + s.validation_size + s.test_size <= 1797


def test_mnist_setting_is_the_papers_but_for_the_steps() -> None:
    s = SETTINGS["mnist"]
    assert (s.train_size, s.batch_size, s.learning_rate, s.weight_decay) == (2000, 50, 0.001, 0.0005)
    assert (s.validation_size, s.test_size) == (10000, 0)  # 0: the official test set
