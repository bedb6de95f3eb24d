"""The choice of hyper-parameters: the best mean on the validation points, and no way to see anything else."""

import dataclasses
import random
from collections.abc import Mapping, Sequence

import pytest

from gradreg.study.config import Scalar
from gradreg.study.metric import ACCURACY, MSE
from gradreg.study.select import Candidate, choose, rule


def candidates(scores: Mapping[Scalar, Sequence[float]]) -> list[Candidate]:
    return [Candidate((("weight", weight),), values) for weight, values in scores.items()]


def chosen(found: Sequence[Candidate]) -> Scalar:
    values = choose(found)
    assert values is not None
    return dict(values)["weight"]


def test_highest_mean_validation_accuracy_wins() -> None:
    # 0.1 has the best single run, 0.03 the best mean.
    assert chosen(candidates({0.01: [90.0, 90.0], 0.03: [92.0, 91.0], 0.1: [95.0, 87.0]})) == 0.03


def test_lowest_mean_squared_error_wins() -> None:
    found = candidates({0.01: [4.0, 4.0], 0.03: [3.0, 4.5], 0.1: [2.0, 6.5]})
    assert dict(choose(found, MSE) or ())["weight"] == 0.03
    assert "lowest mean validation MSE" in rule(MSE)
    assert "highest mean validation accuracy" in rule(ACCURACY)


def test_order_does_not_matter() -> None:
    found = candidates({0.01: [90.0, 90.5], 0.03: [90.5, 90.0], 0.1: [90.25, 90.25], 0.3: [89.0, 90.0]})
    for seed in range(10):
        random.Random(seed).shuffle(found)
        assert chosen(found) == 0.01


@pytest.mark.parametrize("right", [[(9550, 9826), (9847, 9529)], [(9896, 9021, 9824), (9904, 9013, 9824)]])
def test_tie_goes_to_the_smaller_weight_whatever_the_rounding(right: list[tuple[int, ...]]) -> None:
    """Equal numbers of right answers among 10000 whose floating-point means differ in the last digit."""
    assert len({sum(counts) for counts in right}) == 1
    scores = [[100 * count / 10000 for count in counts] for counts in right]
    for small, large in (scores, scores[::-1]):
        assert chosen(candidates({0.3: large, 0.1: small})) == 0.1


def test_one_more_right_answer_is_not_a_tie() -> None:
    assert chosen(candidates({0.1: [95.50, 98.26], 0.3: [95.50, 98.27]})) == 0.3


def test_tie_of_several_values_goes_by_the_first_path_then_the_next() -> None:
    points = [(0.1, 0.003), (0.03, 0.01), (0.03, 0.003), (0.1, 0.001)]
    found = [Candidate((("weight", w), ("optimizer.learning_rate", r)), [90.0]) for w, r in points]
    assert choose(found) == (("weight", 0.03), ("optimizer.learning_rate", 0.003))


def test_tie_of_words_and_numbers_goes_to_numbers_by_size_then_words_by_the_alphabet() -> None:
    for values, expected in (
        ((10, 9, 100), 9),
        (("sgd", "adam"), "adam"),
        (("adam", 3), 3),
        ((True, False), False),
    ):
        assert chosen(candidates({value: [90.0] for value in values})) == expected


def test_nothing_is_chosen_from_nothing() -> None:
    assert choose([]) is None
    assert choose(candidates({0.1: []})) is None


def test_candidates_hold_no_test_accuracy() -> None:
    assert {f.name for f in dataclasses.fields(Candidate)} == {"values", "scores"}
