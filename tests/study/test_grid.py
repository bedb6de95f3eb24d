"""Studies as data: values by path, combinations, and the runs that follow."""

from dataclasses import replace
from typing import Any

import pytest
from runs_for_tests import BASELINE, SPECTREG, arm, study

from gradreg.study.config import Penalty, StudyError
from gradreg.study.grid import (
    TUNING_SEED,
    Arm,
    Grid,
    Range,
    Study,
    Tpe,
    expand,
    final_runs,
    get,
    kind,
    paths,
    put,
    tuning_run,
)

TWO = replace(SPECTREG, penalties=(Penalty("SpectReg", 0.1), Penalty("ConfidencePenalty", 0.5)))


# --- values by path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", paths(TWO))
def test_every_path_can_be_read_and_set_and_sets_nothing_else(path: str) -> None:
    changed = put(TWO, {path: "new"})
    assert get(changed, path) == "new"
    assert get(TWO, path) != "new"
    alias = {"weight": "penalties.0.weight", "penalties.0.weight": "weight"}
    for other in set(paths(TWO)) - {path, alias.get(path)}:
        assert get(changed, other) == get(TWO, other)
    assert put(changed, {path: get(TWO, path)}) == TWO


def test_weight_is_that_of_the_first_penalty() -> None:
    assert put(TWO, {"weight": 0.7}).penalties == (Penalty("SpectReg", 0.7), TWO.penalties[1])
    assert put(TWO, {"penalties.1.weight": 0.7}).penalties == (TWO.penalties[0], Penalty("ConfidencePenalty", 0.7))
    assert "weight" not in paths(BASELINE)
    assert {"weight", "penalties.0.weight", "optimizer.learning_rate", "schedule.milestones"} <= set(paths(SPECTREG))


def test_several_values_at_once() -> None:
    changed = put(SPECTREG, {"split.train_size": 50, "split.balanced": False, "seed": 3})
    assert (changed.split.train_size, changed.split.balanced, changed.seed) == (50, False, 3)
    assert put(SPECTREG, {}) == SPECTREG


def test_wrong_paths_are_named_all_at_once_each_with_the_nearest_that_is_there() -> None:
    with pytest.raises(StudyError) as caught:
        put(SPECTREG, {"wieght": 1.0, "seed": 3, "learning_rate": 0.1, "split.trainsize": 10})
    assert str(caught.value) == (
        "'wieght' is not known; did you mean 'weight'?; "
        "'learning_rate' is not known; did you mean 'optimizer.learning_rate'?; "
        "'split.trainsize' is not known; did you mean 'split.train_size'?"
    )


def test_weight_of_a_run_without_penalties_is_not_known() -> None:
    with pytest.raises(StudyError, match=r"'weight' is not known; expected one of data\.name, "):
        put(BASELINE, {"weight": 0.1})
    with pytest.raises(StudyError, match=r"'penalties.2.weight' is not known; did you mean 'penalties\.\d\.weight'\?$"):
        put(TWO, {"penalties.2.weight": 0.1})


@pytest.mark.parametrize(
    ("path", "expected"), [("weight", float), ("schedule.steps", int), ("seed", int), ("split.balanced", bool)]
)
def test_kind_is_as_declared_not_as_given(path: str, expected: Any) -> None:
    assert kind(put(TWO, {path: 3}), path) is expected


# --- searches ---------------------------------------------------------------------------------------------------------


def test_points_of_a_grid_are_all_combinations_the_first_path_slowest() -> None:
    found = Grid((("weight", (0.1, 0.3)), ("optimizer.name", ("adam", "sgd")))).points()
    assert found == [
        (("weight", 0.1), ("optimizer.name", "adam")),
        (("weight", 0.1), ("optimizer.name", "sgd")),
        (("weight", 0.3), ("optimizer.name", "adam")),
        (("weight", 0.3), ("optimizer.name", "sgd")),
    ]


@pytest.mark.parametrize("values", [(), (("weight", ()),), (("weight", (0.1,)), ("seed", ()))])
def test_grids_without_values_are_refused(values: Any) -> None:
    with pytest.raises(StudyError, match="expected one value or more for each path"):
        Grid(values)


@pytest.mark.parametrize(
    ("low", "high", "log"), [(1, 1, True), (2, 1, False), (0, 1, True), (-1, 1, True), (float("nan"), 1, True)]
)
def test_ranges_that_are_none_are_refused(low: float, high: float, log: bool) -> None:
    with pytest.raises(StudyError, match="expected low < high, and low > 0 on a logarithmic scale"):
        Range(low, high, log)


def test_linear_ranges_may_start_anywhere() -> None:
    assert Range(-1, 0, log=False).low == -1
    assert Range(1e-9, 1).log


@pytest.mark.parametrize("change", [{"trials": 0}, {"batch": 0}, {"halving": -1}, {"halving": 1}])
def test_searches_that_cannot_be_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(StudyError, match="expected trials >= 1, batch >= 1, and halving >= 2 or 0 for none"):
        Tpe((("weight", Range(0.1, 1)),), **change)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_tuning_runs_see_no_test_point_and_no_seed_of_the_final_runs() -> None:
    values = (("weight", 0.3), ("schedule.batch_size", 10))
    tuning = [tuning_run(SPECTREG, values, seed, until) for seed in range(3) for until in (0, 10)]
    final = final_runs(arm(None), values, 5)
    assert {run.protocol.measure for run in tuning} == {"validation"}
    assert {run.protocol.measure for run in final} == {"test"}
    assert {run.seed for run in tuning} == {TUNING_SEED, TUNING_SEED + 1, TUNING_SEED + 2}
    assert [run.seed for run in final] == [0, 1, 2, 3, 4]
    assert {(run.penalties[0].weight, run.schedule.batch_size) for run in [*tuning, *final]} == {(0.3, 10)}
    assert len({run.key for run in [*tuning, *final]}) == 11


def test_tuning_run_up_to_its_last_step_is_the_whole_run() -> None:
    assert tuning_run(SPECTREG, (), 0, SPECTREG.schedule.steps) == tuning_run(SPECTREG, (), 0)
    assert tuning_run(SPECTREG, (), 0, 20).steps == 20


def test_final_runs_of_all_arms_differ_in_what_is_asked_alone() -> None:
    other = Arm("Baseline", BASELINE)
    for one, two in zip(final_runs(arm(None), (("weight", 0.3),), 3), final_runs(other, (), 3), strict=True):
        assert replace(one, penalties=()) == two


def test_expand_makes_a_group_for_every_combination() -> None:
    arms = (Arm("Baseline", BASELINE), arm(Grid((("weight", (0.1, 0.3)),))))
    found = expand(arms, {"split.train_size": (50, 100), "model.name": ("mlp",)})
    assert [a.id for a in found] == [
        f"train_size {n}, name mlp/{name}" for n in (50, 100) for name in ("Baseline", "SpectReg")
    ]
    assert [(a.run.split.train_size, a.run.model.name) for a in found] == [(n, "mlp") for n in (50, 50, 100, 100)]
    assert [a.search for a in found] == [None, arms[1].search] * 2
    groups = study(*found).groups()
    assert [[a.name for a in group] for group in groups.values()] == [["Baseline", "SpectReg"]] * 2
    with pytest.raises(StudyError, match=r"'split.train' is not known; did you mean 'split.train_size'"):
        expand(arms, {"split.train": (1,)})


# --- studies ----------------------------------------------------------------------------------------------------------


def test_problems_of_a_study_are_named_all_at_once() -> None:
    with pytest.raises(StudyError) as caught:
        Study("a study/..", "", (arm(None), arm(None), arm(None, group="g")), seeds=0, tuning_seeds=-1)
    text = str(caught.value)
    for part in (
        "seeds=0; expected a whole number >= 1",
        "tuning_seeds=-1; expected a whole number >= 1",
        "name='a study/..'; expected letters, digits, -, _ and ., since it names files",
        "2 arms called 'SpectReg'; expected names of their own",
    ):
        assert text.count(part) == 1
    assert "g/SpectReg" not in text


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a b", "a\0"])
def test_names_that_name_no_file_are_refused(name: str) -> None:
    with pytest.raises(StudyError, match="since it names files"):
        Study(name, "", (arm(None),))


def test_study_without_arms_is_refused() -> None:
    with pytest.raises(StudyError, match="no arms; expected one or more"):
        study()


def test_arms_of_one_name_in_several_groups_are_fine() -> None:
    found = study(arm(None, group="a"), arm(None, group="b"))
    assert {name: [a.id for a in arms] for name, arms in found.groups().items()} == {
        "a": ["a/SpectReg"],
        "b": ["b/SpectReg"],
    }
