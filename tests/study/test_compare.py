"""Which runs a comparison makes, what each may see, and the table that comes out of hand-made results."""

import dataclasses
from dataclasses import replace

import pytest
from comparisons_for_tests import setting
from scipy import stats

from gradreg.study.compare import chosen_weights, final_runs, summarize, tuning_runs
from gradreg.study.config import SETTINGS, Method, Run, Setting

WEIGHTS = {"doubleback": 30, "spectreg": 0.1}
FIXED = Method("jacreg", "JacReg", (1.0,))
SMALL = setting(["doubleback", "spectreg"], seeds=3)


def same_but(run: Run, *fields: str) -> dict[str, object]:
    return {name: value for name, value in dataclasses.asdict(run).items() if name not in fields}


@pytest.mark.parametrize("name", SETTINGS)
def test_tuning_never_sees_the_test_nor_the_seeds_of_the_final_runs(name: str) -> None:
    s = SETTINGS[name]
    tuning = tuning_runs(s)
    final = final_runs(s, {method.name: method.grid[0] for method in s.methods if method.grid})
    assert {run.report for run in tuning} == {"validation"}
    assert {run.report for run in final} == {"test"}
    assert not {run.seed for run in tuning} & {run.seed for run in final}
    assert len({run.key for run in [*tuning, *final]}) == len(tuning) + len(final)


def test_tuning_tries_every_weight_of_every_method_on_every_tuning_seed() -> None:
    found = [(run.penalties, run.seed) for run in tuning_runs(SMALL)]
    presets = [("DoubleBack", (3, 10, 30, 100)), ("SpectReg", (0.01, 0.03, 0.1, 0.3))]
    expected = {(((name, w),), seed) for name, grid in presets for w in grid for seed in (1000, 1001)}
    assert set(found) == expected
    assert len(found) == len(expected)


def test_single_weight_is_taken_without_tuning() -> None:
    s = replace(SMALL, methods=(*SMALL.methods, FIXED))
    assert {method.name for method, _ in tuning_runs(s).values()} == {"doubleback", "spectreg"}
    assert chosen_weights(replace(SMALL, methods=(SMALL.methods[0], FIXED)), {}) == {"jacreg": 1.0}


def test_weights_are_chosen_on_validation_accuracy_even_where_test_accuracy_says_otherwise() -> None:
    best = {"doubleback": 100, "spectreg": 0.01}
    results = {
        run: {"validation_accuracy": 90.0 + (weight == best[method.name]), "test_accuracy": 90 + weight % 7}
        for run, (method, weight) in tuning_runs(SMALL).items()
    }
    assert chosen_weights(SMALL, results) == best


def test_final_runs_give_all_methods_the_same_seeds_and_differ_in_penalties_alone() -> None:
    runs = final_runs(SMALL, WEIGHTS)
    for seed in range(3):
        alike = [run for run in runs if run.seed == seed]
        assert [run.penalties for run in alike] == [(), (("DoubleBack", 30),), (("SpectReg", 0.1),)]
        assert all(same_but(run, "penalties") == same_but(alike[0], "penalties") for run in alike)
    assert len(runs) == 9


def test_settings_reach_the_runs() -> None:
    (run, _), *_ = final_runs(SMALL, WEIGHTS).items()
    shared = {f.name for f in dataclasses.fields(Run)} & {f.name for f in dataclasses.fields(Setting)}
    assert shared == {f.name for f in dataclasses.fields(Run)} - {"penalties", "seed", "report"}
    assert all(getattr(run, name) == getattr(SMALL, name) for name in shared)


def test_summary_of_hand_made_results() -> None:
    accuracy = {"baseline": [90.0, 92.0, 91.0], "doubleback": [89.0, 95.0, 90.0], "spectreg": [92.0, 93.0, 93.5]}
    norm = {"baseline": [3.0, 5.0, 4.0], "doubleback": [1.0, 1.0, 4.0], "spectreg": [0.5, 1.5, 1.0]}
    results = {
        run: {"test_accuracy": accuracy[m.name][run.seed], "jacobian_norm": norm[m.name][run.seed]}
        for run, m in final_runs(SMALL, WEIGHTS).items()
    }
    shuffled = dict(reversed(results.items()))
    found = summarize(SMALL, WEIGHTS, shuffled, {"baseline": 0.004, "doubleback": 0.01, "spectreg": 0.006})
    baseline, doubleback, spectreg = found.rows

    assert [row.method.name for row in found.rows] == list(accuracy)
    assert [row.weight for row in found.rows] == [None, 30, 0.1]
    assert [row.points for row in found.rows] == [tuple(values) for values in accuracy.values()]
    assert [row.jacobian_norm for row in found.rows] == pytest.approx([4, 2, 1])
    assert [row.cost for row in found.rows] == pytest.approx([1, 2.5, 1.5])
    assert baseline.accuracy.mean == pytest.approx(91)
    assert baseline.accuracy.sd == pytest.approx(1)
    assert (baseline.difference, baseline.holm_p) == (None, None)

    raw = {name: stats.ttest_rel(accuracy[name], accuracy["baseline"]) for name in ("doubleback", "spectreg")}
    assert doubleback.difference is not None
    assert spectreg.difference is not None
    assert doubleback.difference.mean == pytest.approx(1 / 3)
    assert spectreg.difference.mean == pytest.approx(5.5 / 3)
    for row in (doubleback, spectreg):
        interval = raw[row.method.name].confidence_interval(0.95)
        assert row.difference is not None
        assert (row.difference.low, row.difference.high) == pytest.approx((interval.low, interval.high))
        assert row.difference.p == pytest.approx(raw[row.method.name].pvalue)
    assert raw["spectreg"].pvalue < raw["doubleback"].pvalue
    assert spectreg.holm_p == pytest.approx(2 * raw["spectreg"].pvalue)
    assert doubleback.holm_p == pytest.approx(max(raw["doubleback"].pvalue, 2 * raw["spectreg"].pvalue))
