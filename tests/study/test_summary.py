"""Summaries of results made by hand: what is missing, differences paired by seed, corrections, edges."""

import math
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats
from summaries_for_tests import WEIGHTS, arm, found, study, summary

from gradreg.study.config import StudyError
from gradreg.study.grid import Values
from gradreg.study.metric import ACCURACY
from gradreg.study.select import rule
from gradreg.study.statistics import Estimate
from gradreg.study.summary import Found, Summary, Tried, is_known, summarize

POINTS: dict[str, list[float | None]] = {
    "Baseline": [90.0, 92.0, 91.0],
    "DoubleBack": [89.0, 95.0, 90.0],
    "SpectReg": [92.0, 93.0, 93.5],
}


def estimated(value: Estimate | None) -> Estimate:
    assert value is not None
    return value


def related(one: list[float | None], two: list[float | None]) -> Any:
    return stats.ttest_rel(one, two)


def test_summary_of_hand_made_results() -> None:
    case = summary(POINTS, costs={"Baseline": 0.004, "DoubleBack": 0.01, "SpectReg": 0.006})
    baseline, doubleback, spectreg = case.rows
    assert [row.arm.name for row in case.rows] == list(POINTS)
    assert [row.values for row in case.rows] == [(), (("weight", 0.1),), (("weight", 0.1),)]
    assert [row.points for row in case.rows] == [tuple(values) for values in POINTS.values()]
    assert [row.norm for row in case.rows] == [2.5] * 3
    assert [row.cost for row in case.rows] == pytest.approx([1, 2.5, 1.5])
    assert [row.missing for row in case.rows] == [0, 0, 0]
    assert all(row.selected for row in case.rows)
    assert estimated(baseline.score).mean == pytest.approx(91)
    assert estimated(baseline.score).sd == pytest.approx(1)
    assert (baseline.difference, baseline.p) == (None, None)
    assert case.rule == rule(ACCURACY)

    raw = {name: related(POINTS[name], POINTS["Baseline"]) for name in ("DoubleBack", "SpectReg")}
    assert estimated(doubleback.difference).mean == pytest.approx(1 / 3)
    assert estimated(spectreg.difference).mean == pytest.approx(5.5 / 3)
    for row in (doubleback, spectreg):
        difference, interval = estimated(row.difference), raw[row.arm.name].confidence_interval(0.95)
        assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
        assert difference.p == pytest.approx(raw[row.arm.name].pvalue)
    assert raw["SpectReg"].pvalue < raw["DoubleBack"].pvalue
    assert spectreg.p == pytest.approx(2 * raw["SpectReg"].pvalue)
    assert doubleback.p == pytest.approx(max(raw["DoubleBack"].pvalue, 2 * raw["SpectReg"].pvalue))


def test_differences_are_over_the_seeds_that_both_have() -> None:
    case = summary(
        {"Baseline": [90.0, None, 91.0, 92.5], "SpectReg": [91.0, 99.0, None, 92.0], "FrobReg": [None, 97.0, None]},
        failures={"Baseline": {1: "nan"}},
    )
    baseline, spectreg, frobreg = case.rows
    assert estimated(spectreg.difference).mean == pytest.approx((1.0 - 0.5) / 2)
    assert estimated(spectreg.difference).p == pytest.approx(related([91.0, 92.0], [90.0, 92.5]).pvalue)
    assert spectreg.p == estimated(spectreg.difference).p  # the only hypothesis
    # No seed that both have, though each has one.
    assert (frobreg.difference, frobreg.p) == (None, None)
    assert estimated(frobreg.score).mean == 97.0
    assert math.isnan(estimated(frobreg.score).sd)
    assert [row.missing for row in case.rows] == [0, 1, 2]
    assert baseline.points == (90.0, None, 91.0, 92.5)
    assert spectreg.norms == (2.5, 2.5, None, 2.5)


def test_one_seed_has_a_difference_and_no_p() -> None:
    _, row = summary({"Baseline": [90.0], "SpectReg": [91.0]}).rows
    assert estimated(row.difference).mean == 1.0
    assert row.p is not None
    assert math.isnan(row.p)


def test_without_any_result_all_is_unknown() -> None:
    case = summary({"Baseline": [None, None], "SpectReg": [None, None]}, failures={"SpectReg": {None: "nan", 0: "nan"}})
    for row in case.rows:
        assert (row.score, row.difference, row.norm, row.p) == (None, None, None, None)
    # A failure in tuning is no missing seed.
    assert [row.missing for row in case.rows] == [2, 1]


def test_an_arm_without_a_configuration_is_not_selected() -> None:
    one, other = arm("Baseline"), arm("SpectReg")
    items = [found(one, [90.0]), Found(other, None, (), (), (None,))]
    _, row = summarize(study([one, other], 1), items, command="").rows
    assert (row.selected, row.values, row.edges, row.missing) == (False, (), (), 1)


def test_corrections_count_the_comparisons_of_a_group() -> None:
    raw = {name: related(POINTS[name], POINTS["Baseline"]).pvalue for name in ("DoubleBack", "SpectReg")}
    _, doubleback, spectreg = summary(POINTS, correction="bonferroni").rows
    assert spectreg.p == pytest.approx(2 * raw["SpectReg"])
    assert doubleback.p == pytest.approx(min(1, 2 * raw["DoubleBack"]))
    # Another group does not count.
    arms = [arm(name, group=group) for group in ("a", "b") for name in POINTS]
    items = [found(one, POINTS[one.name]) for one in arms]
    case = summarize(study(arms, 3, correction="bonferroni"), items, command="")
    assert [group.name for group in case.groups] == ["a", "b"]
    assert [row.p for row in case.rows] == [None, doubleback.p, spectreg.p] * 2


def test_every_pair_is_compared_and_corrected_where_asked() -> None:
    case = summary(POINTS, pairs=True, correction="bonferroni")
    (group,) = case.groups
    assert [(pair.first, pair.second) for pair in group.pairs] == [
        ("Baseline", "DoubleBack"),
        ("Baseline", "SpectReg"),
        ("DoubleBack", "SpectReg"),
    ]
    for pair in group.pairs:
        raw = related(POINTS[pair.first], POINTS[pair.second])
        assert pair.difference.p == pytest.approx(raw.pvalue)
        assert pair.p == pytest.approx(min(1, 3 * raw.pvalue))
        assert math.copysign(1, pair.difference.mean) == math.copysign(1, raw.statistic)
    # The table shows the same p.
    assert [row.p for row in case.rows] == [None, group.pairs[0].p, group.pairs[1].p]


def test_names_with_slashes_are_not_taken_for_one_another() -> None:
    points = {"a": [90.0, 91.0, 92.5], "b/c": [91.0, 93.0, 93.0], "a/b": [95.0, 91.0, 92.0], "c": [90.0, 95.0, 97.0]}
    arms = [arm(name, given=True) for name in points]
    items = [found(one, points[one.name]) for one in arms]
    (group,) = summarize(study(arms, 3, pairs=True, correction="bonferroni"), items, command="").groups
    assert len(group.pairs) == 6
    for pair in group.pairs:
        assert pair.p == pytest.approx(min(1, 6 * pair.difference.p))


def edges(values: Values, tried: list[Values]) -> tuple[str, ...]:
    one = arm("SpectReg")
    item = found(one, [90.0], values=values, tried=[Tried(t, (80.0,), 0, 200) for t in tried])
    (row,) = summarize(study([one], 1), [item], command="").rows
    return row.edges


@pytest.mark.parametrize(("weight", "edge"), [(0.01, True), (0.03, False), (0.1, False), (0.3, True)])
def test_selected_weight_at_an_end_of_what_was_tried_is_an_edge(weight: float, edge: bool) -> None:
    assert edges((("weight", weight),), [(("weight", w),) for w in WEIGHTS]) == (("weight",) if edge else ())


def test_edges_are_of_numbers_with_more_than_one_value() -> None:
    def point(weight: float, rate: float, name: str, balanced: bool) -> Values:
        return (
            ("weight", weight),
            ("optimizer.learning_rate", rate),
            ("model.name", name),
            ("split.balanced", balanced),
        )

    tried = [point(w, 0.1, name, b) for w in (0.1, 1, 10) for name in ("a", "b") for b in (True, False)]
    assert edges(tried[0], tried) == ("weight",)
    assert edges(point(1, 0.1, "b", False), tried) == ()
    assert edges(point(10.0, 0.1, "b", False), tried) == ("weight",)


def test_cost_is_relative_to_the_baseline_where_both_were_timed() -> None:
    def costs(baseline: float | None, other: float | None) -> list[float | None]:
        points: dict[str, list[float | None]] = {"Baseline": [90.0], "SpectReg": [91.0]}
        return [row.cost for row in summary(points, costs={"Baseline": baseline, "SpectReg": other}).rows]

    assert costs(2.0, 3.0) == [1.0, 1.5]
    assert costs(None, 3.0) == [None, None]
    assert costs(2.0, None) == [1.0, None]


def test_labels_name_the_selected_weight_and_what_else_was_searched() -> None:
    one = arm("SpectReg")
    values: Values = (("weight", 0.03), ("optimizer.learning_rate", 0.0012345678), ("optimizer.name", "sgd"))
    items = [found(arm("Baseline"), [90.0]), found(one, [90.0], values=values)]
    case = summarize(study([items[0].arm, one], 1), items, command="")
    assert [row.label for row in case.rows] == ["Baseline", "SpectReg(0.03), learning_rate=0.00123457, name=sgd"]


def test_summary_carries_what_it_was_given() -> None:
    case = summary(POINTS, notes=["one image was skipped"], curves=True)
    assert isinstance(case, Summary)
    assert case.command == "gradreg run a-study"
    assert case.notes == ("one image was skipped",)
    assert [len(row.curves) for row in case.rows] == [3, 3, 3]
    assert [[run.seed for run in row.runs] for row in case.rows] == [[0, 1, 2]] * 3


def test_nan_is_not_known() -> None:
    assert [is_known(value) for value in (None, math.nan, 0.0, math.inf)] == [False, False, True, True]


def test_an_arm_may_compare_top_5_accuracies() -> None:
    asked = [replace(arm(name, given=True), top=5) for name in ("Baseline", "SpectReg")]
    items = [found(one, [50.0, 60.0]) for one in asked]
    with pytest.raises(StudyError, match=r"Baseline compares 'test_top5_accuracy', which its runs did not measure"):
        summarize(study(asked, 2), items, command="")
    measured = [
        replace(
            item, results=tuple({**(r or {}), "test_top5_accuracy": 80.0 + i + j} for j, r in enumerate(item.results))
        )
        for i, item in enumerate(items)
    ]
    baseline, spectreg = summarize(study(asked, 2), measured, command="").rows
    assert baseline.points == (80.0, 81.0)
    assert spectreg.points == (81.0, 82.0)
    assert estimated(spectreg.difference).mean == 1.0
