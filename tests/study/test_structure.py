"""Plain data as dataclasses: there and back, and every mistake at once, with its place."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from runs_for_tests import BASELINE, SPECTREG, arm, study

from gradreg.study.config import Penalty, Run, Split, StudyError
from gradreg.study.grid import Grid, Range, Reported, Study, Tpe
from gradreg.study.structure import checked, structure


def mistake(value: Any, kind: type[Any] = Run) -> str:
    with pytest.raises(StudyError) as caught:
        structure(value, kind, "it")
    return str(caught.value)


@pytest.mark.parametrize(
    "whole",
    [
        study(arm(None, BASELINE)),
        study(arm(Grid((("weight", (0.1, 1.0)), ("schedule.batch_size", (10, 20)), ("optimizer.name", ("sgd",)))))),
        study(arm(Tpe((("weight", Range(0.1, 1.0)),), trials=3, halving=0), reported=Reported(97.5, 0.2)), pairs=True),
        study(arm(None, replace(SPECTREG, penalties=(Penalty("FrobReg", 0.5, (("a", True), ("b", 2), ("c", "d"))),)))),
    ],
)
def test_study_comes_back_from_json_as_it_was(whole: Study) -> None:
    found = structure(json.loads(json.dumps(asdict(whole))), Study, "it")
    assert found == whole
    # 1 == True == 1.0 to Python.
    assert repr(found) == repr(whole)


def test_whole_number_serves_as_a_number_and_nothing_else_is_converted() -> None:
    value = asdict(BASELINE)
    value["optimizer"]["learning_rate"] = 1
    rate = structure(value, Run, "it").optimizer.learning_rate
    assert (rate, type(rate)) == (1.0, float)
    for wrong, said in (("1", "'1'"), (True, "True"), (None, "None"), (math.inf, "inf"), (math.nan, "nan")):
        value["optimizer"]["learning_rate"] = wrong
        assert mistake(value) == f"it has a mistake: optimizer.learning_rate: got {said}; expected a number"


def test_all_mistakes_are_told_at_once_with_their_places() -> None:
    value = asdict(SPECTREG)
    value["seed"] = "one"
    value["split"]["balanced"] = 1
    value["split"]["trainsize"] = value["split"].pop("train_size")
    value["optimizer"]["name"] = "Adams"
    value["penalties"][0].pop("preset")
    value["model"] = "mlp"
    del value["schedule"]
    said = mistake(value).splitlines()
    assert said[0] == "it has 7 mistakes:" or said[0] == "it has 8 mistakes:"
    for line in (
        "  - seed: got 'one'; expected a whole number",
        "  - split.balanced: got 1; expected true or false",
        "  - split: 'trainsize' is not known; did you mean 'train_size'?",
        "  - model: got 'mlp'; expected a table with name",
    ):
        assert line in said
    assert any(line.startswith("  - optimizer.name: 'Adams' is not known; did you mean 'adam'?") for line in said)
    assert any("preset" in line and "is missing" in line for line in said)
    assert any("schedule" in line and "is missing" in line for line in said)


@pytest.mark.parametrize("value", [None, 3, [], "x", {}])
def test_what_is_no_table_is_named(value: Any) -> None:
    said = mistake(value, Split)
    assert "train_size" in said
    assert "KeyError" not in said


def test_search_that_is_none_is_named() -> None:
    value = asdict(study(arm(None)))
    value["arms"][0]["search"] = {"trials": 3}
    assert "arms[0].search: got {'trials': 3}; expected a table with values (a grid) or ranges" in mistake(value, Study)


def test_rules_of_a_class_are_told_in_its_words() -> None:
    value = asdict(study(arm(None)))
    value["seeds"] = 0
    assert "seeds=0; expected a whole number >= 1" in mistake(value, Study)


def test_run_with_a_value_of_another_type_is_refused() -> None:
    assert checked(SPECTREG, "it") == SPECTREG
    with pytest.raises(StudyError, match=r"it has a mistake: seed: got 0\.5; expected a whole number"):
        checked(replace(BASELINE, seed=0.5), "it")  # type: ignore[arg-type]


def test_true_is_no_number() -> None:
    assert mistake(asdict(BASELINE) | {"seed": True}) == "it has a mistake: seed: got True; expected a whole number"
