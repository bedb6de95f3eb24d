"""What runs are judged by: units, signs and directions."""

import pytest
from runs_for_tests import BASELINE, SIN

from gradreg.study.config import StudyError
from gradreg.study.grid import Arm, Study
from gradreg.study.metric import ACCURACY, MSE, Metric, metric_of


def test_data_decide_the_metric() -> None:
    assert metric_of("sin") is metric_of("sin-doubled") is MSE
    assert metric_of("digits") is metric_of("photos of mine") is ACCURACY
    assert (BASELINE.metric, SIN.metric) == (ACCURACY, MSE)


def test_results_are_read_in_the_unit() -> None:
    assert ACCURACY.of({"test_accuracy": 97.5}, "test") == 97.5
    assert MSE.of({"validation_mse": 0.0125}, "validation") == pytest.approx(12.5)
    with pytest.raises(KeyError):
        MSE.of({"test_accuracy": 97.5}, "test")


@pytest.mark.parametrize(
    ("metric", "whole", "change", "gain"),
    [(ACCURACY, "97.50 %", "-1.25", -1.25), (MSE, "97.500e-3", "-1.250e-3", 1.25)],
)
def test_numbers_in_words(metric: Metric, whole: str, change: str, gain: float) -> None:
    assert metric.whole(97.5) == whole
    assert float(whole.split(maxsplit=1)[0]) == pytest.approx(97.5 * metric.size)
    assert metric.change(-1.25) == change
    assert metric.gain(-1.25) == gain


@pytest.mark.parametrize("metric", [ACCURACY, MSE])
def test_goodness_is_above_0_and_rises_as_the_metric_gets_better(metric: Metric) -> None:
    values = [0.5, 1.0, 2.0, 80.0, 1e6]
    found = [metric.goodness(value) for value in values]
    assert min(found) > 0
    assert found == sorted(found, reverse=not metric.higher)


def test_errors_that_differ_widely_want_a_logarithmic_axis() -> None:
    assert MSE.is_wide([3.0, 450.0, -2.0])
    assert not MSE.is_wide([3.0, 20.0])
    assert not MSE.is_wide([])
    assert not ACCURACY.is_wide([1.0, 99.0])


def test_a_study_of_two_metrics_is_refused() -> None:
    with pytest.raises(StudyError, match=r"arms judged by accuracy \(digits\) and MSE \(sin\); expected data"):
        Study("mixed", "Mixed", (Arm("a", BASELINE), Arm("b", SIN)))
