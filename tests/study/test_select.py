"""The choice of weights: the best mean on the validation points, and no way to see anything else."""

import dataclasses
import random

import pytest

from gradreg.study.select import Candidate, choose


def candidates(scores: dict[float, list[float]], method: str = "spectreg") -> list[Candidate]:
    return [Candidate(method, w, seed, value) for w, values in scores.items() for seed, value in enumerate(values)]


def test_highest_mean_validation_accuracy_wins_for_each_method() -> None:
    # 0.1 has the best single run, 0.03 the best mean.
    spectreg = candidates({0.01: [90.0, 90.0], 0.03: [92.0, 91.0], 0.1: [95.0, 87.0]})
    doubleback = candidates({3: [80.0], 30: [81.0], 100: [79.0]}, "doubleback")
    assert choose(spectreg + doubleback) == {"spectreg": 0.03, "doubleback": 30}


def test_order_of_runs_does_not_matter() -> None:
    found = candidates({0.01: [90.0, 90.5], 0.03: [90.5, 90.0], 0.1: [90.25, 90.25], 0.3: [89.0, 90.0]})
    for seed in range(10):
        random.Random(seed).shuffle(found)
        assert choose(found) == {"spectreg": 0.01}


@pytest.mark.parametrize("right", [[(9550, 9826), (9847, 9529)], [(9896, 9021, 9824), (9904, 9013, 9824)]])
def test_tie_goes_to_the_smaller_weight_whatever_the_rounding(right: list[tuple[int, ...]]) -> None:
    """Equal numbers of right answers among 10000 whose floating-point means differ in the last digit."""
    assert len({sum(counts) for counts in right}) == 1
    scores = [[100 * count / 10000 for count in counts] for counts in right]
    for small, large in (scores, scores[::-1]):
        assert choose(candidates({0.3: large, 0.1: small})) == {"spectreg": 0.1}


def test_one_more_right_answer_is_not_a_tie() -> None:
    assert choose(candidates({0.1: [95.50, 98.26], 0.3: [95.50, 98.27]})) == {"spectreg": 0.3}


def test_candidates_hold_no_test_accuracy() -> None:
    assert {f.name for f in dataclasses.fields(Candidate)} == {"method", "weight", "seed", "validation_accuracy"}
