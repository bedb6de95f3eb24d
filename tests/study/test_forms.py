"""The TOML form of a study: what it means, and what is wrong with it."""

import tomllib
from typing import Any

import pytest

from gradreg.study.config import Penalty, StudyError
from gradreg.study.forms import DataForm, study_of
from gradreg.study.forms import __doc__ as example
from gradreg.study.grid import Grid, Range, Reported, Tpe


def form(**others: Any) -> dict[str, Any]:
    """The module's own example, with other top-level values."""
    assert example is not None
    return tomllib.loads(example.partition("\n\n")[2]) | others


def with_arm(**arm: Any) -> dict[str, Any]:
    return form(arms=[{"name": "Baseline"}, {"name": "SpectReg", **arm}])


def mistake(value: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        study_of(value, "mine.toml")
    return str(caught.value)


SPECTREG = [{"preset": "SpectReg", "weight": 0.03}]


def test_example_means_what_it_says() -> None:
    study, data = study_of(form(), "mine.toml")
    assert (study.name, study.title, study.seeds, data) == ("mine", "mine", 5, {})
    baseline, spectreg = study.arms
    assert baseline.run.penalties == ()
    assert spectreg.run.penalties == (Penalty("SpectReg", 0.03),)
    assert spectreg.search == Grid((("weight", (0.01, 0.03, 0.1)),))
    assert (spectreg.run.split.train_size, spectreg.run.schedule.steps) == (100, 200)


def test_measures_may_be_asked_for() -> None:
    value = form()
    value["run"] = {**value["run"], "profile_points": 300}
    study, _ = study_of(value, "mine.toml")
    assert {arm.run.protocol.profile_points for arm in study.arms} == {300}


def test_arms_may_differ_in_values_and_options_and_have_a_reported_number() -> None:
    penalties = [{"preset": "FrobReg", "weight": 1, "samples": 2}, {"preset": "DoubleBack", "weight": 0.5}]
    value = with_arm(penalties=penalties, set={"schedule.steps": 7}, reported={"mean": 97.5, "sd": 0.1})
    study, data = study_of(value | {"data": {"own": {"path": "x.zip", "image_size": 32}}}, "mine.toml")
    assert study.arms[1].run.penalties == (Penalty("FrobReg", 1.0, (("samples", 2),)), Penalty("DoubleBack", 0.5))
    assert [arm.run.schedule.steps for arm in study.arms] == [200, 7]
    assert study.arms[1].reported == Reported(97.5, 0.1)
    assert data == {"own": DataForm("x.zip", 32)}


def test_ranges_are_searched_by_optuna() -> None:
    search = {"weight": {"low": 1, "high": 10}, "schedule.batch_size": {"low": 5, "high": 9, "log": False}}
    study, _ = study_of(with_arm(penalties=SPECTREG, search={**search, "trials": 3, "halving": 0}), "mine.toml")
    ranges = (("weight", Range(1.0, 10.0)), ("schedule.batch_size", Range(5.0, 9.0, log=False)))
    assert study.arms[1].search == Tpe(ranges, trials=3, halving=0)


def test_grid_makes_groups_each_with_its_reported_number() -> None:
    reported = {"train_size 50": {"mean": 90.0}}
    value = with_arm(penalties=SPECTREG, reported=reported) | {"grid": {"split.train_size": [50, 100]}}
    study, _ = study_of(value, "mine.toml")
    assert [(arm.group, arm.name) for arm in study.arms] == [
        (group, name) for group in ("train_size 50", "train_size 100") for name in ("Baseline", "SpectReg")
    ]
    assert [arm.run.split.train_size for arm in study.arms] == [50, 50, 100, 100]
    assert [arm.reported for arm in study.arms] == [None, Reported(90.0), None, None]
    wrong = with_arm(reported={"train_size 5": {"mean": 1.0}}) | {"grid": {"split.train_size": [50, 100]}}
    assert "'train_size 5' is not known; did you mean 'train_size 50'?" in mistake(wrong)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (form(sedes=3), "'sedes' is not known; did you mean 'seeds'?"),
        (form(arms=[]), "no arms; expected one or more"),
        (form(arms=[{"name": "a"}, {"name": "a"}]), "2 arms called 'a'"),
        (form(seeds="five"), "seeds: got 'five'; expected a whole number"),
        (form(correction="none"), "correction: 'none' is not known; expected one of holm, bonferroni"),
        (form(grid={"split.trainsize": [1]}), "'split.trainsize' is not known; did you mean 'split.train_size'?"),
        (form(grid={"split.train_size": []}), "expected one value or more for each path"),
        (form(data={"own": {"file": "x"}}), "data.own"),
        (with_arm(set={"schedule.stepps": 3}), "arms[1] (SpectReg): 'schedule.stepps' is not known"),
        (with_arm(set={"schedule.steps": "x"}), "schedule.steps: got 'x'; expected a whole number"),
        (with_arm(penalties=[{"weight": 1}]), "preset"),
        (with_arm(search={"weight": [1]}), "'weight' is not known"),
        (with_arm(penalties=SPECTREG, search={"weight": 3}), "expected a list of values for each path (a grid)"),
        (with_arm(penalties=SPECTREG, search={"weight": [1], "trials": 3}), "expected a list of values for each path"),
        (with_arm(penalties=SPECTREG, search={"trials": 3}), "expected a list of values for each path"),
        (with_arm(penalties=SPECTREG, search={"weight": {"low": 2, "high": 1}}), "expected low < high"),
        (with_arm(penalties=SPECTREG, search={"weight": {"low": 2}}), "high"),
        (with_arm(penalties=SPECTREG, reported={"mean": "x"}), "mean: got 'x'; expected a number"),
    ],
)
def test_mistake_is_told_with_its_place(value: dict[str, Any], expected: str) -> None:
    said = mistake(value)
    assert said.startswith("mine.toml")
    assert expected in said


def test_mistakes_of_several_arms_are_told_at_once() -> None:
    said = mistake(form(arms=[{"name": "A", "set": {"sed": 1}}, {"name": "B", "search": {"weight": [1]}}]))
    assert "arms[0] (A): 'sed' is not known; did you mean 'seed'?" in said
    assert "arms[1] (B): 'weight' is not known" in said
