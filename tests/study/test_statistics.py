"""Means, intervals and p against scipy's own tests; Holm's correction against a worked example and its properties."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradreg.study.statistics import estimate, holm, paired

SAMPLES = [[1.0, 2.0], [-0.3, 0.1, 0.25, 0.9, -1.4], [93.1, 94.2, 92.75, 95.0], [-5.0, -4.0, -6.5]]
probabilities = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 1))


@pytest.mark.parametrize("values", SAMPLES)
def test_estimate_equals_scipys_one_sample_t_test(values: list[float]) -> None:
    found = estimate(values)
    expected: Any = stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.sd == pytest.approx(stats.tstd(values))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_paired_equals_scipys_test_of_related_samples() -> None:
    values, baseline = [93.4, 92.1, 95.0, 94.4], [92.0, 92.3, 93.1, 93.9]
    found, expected = paired(values, baseline), stats.ttest_rel(values, baseline)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.mean > 0
    assert paired(baseline, values).mean == pytest.approx(-found.mean)


def test_paired_refuses_seeds_without_a_partner() -> None:
    with pytest.raises(ValueError, match="longer"):
        paired([1.0], [1.0, 2.0])


def test_one_value_has_a_mean_and_nothing_else() -> None:
    found = estimate([3.5])
    assert found.mean == 3.5
    assert all(math.isnan(value) for value in (found.sd, found.low, found.high, found.p))


def test_equal_values_have_no_difference() -> None:
    found = paired([90, 91, 95], [90, 91, 95])
    assert (found.mean, found.sd, found.low, found.high, found.p) == (0, 0, 0, 0, 1)


@pytest.mark.parametrize("constant", [0.5, -2.0, 100 / 75])
def test_constant_differences_prove_nothing(constant: float) -> None:
    # Accuracies come in steps of a test point: two seeds that gain the same step are no proof.
    found = paired([90 + constant, 91 + constant, 95 + constant], [90, 91, 95])
    assert (found.mean, found.sd) == (pytest.approx(constant), 0)
    assert all(math.isnan(value) for value in (found.low, found.high, found.p))


def test_holm_equals_the_worked_example() -> None:
    # Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, then 0.04 * 1, which may not fall below 0.06.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_holm_leaves_unknown_values_out_of_the_count() -> None:
    found = holm({"a": 0.01, "b": math.nan, "c": 0.04})
    assert math.isnan(found.pop("b"))
    assert found == pytest.approx({"a": 0.02, "c": 0.04})


@settings(deadline=None, derandomize=True)
@given(probabilities)
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p: dict[str, float]) -> None:
    found = holm(p)
    assert list(found) == list(p)
    for name, value in p.items():
        assert value <= found[name] <= min(1, len(p) * value)
        assert all(found[other] >= found[name] for other in p if p[other] > value)
        assert all(found[other] == found[name] for other in p if p[other] == value)
