"""Selection: the one place where weights are chosen, on validation accuracy alone."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

# Named under every table.
RULE = "weight with the highest mean validation accuracy over the tuning seeds; the smaller weight on a tie"


@dataclass(frozen=True)
class Candidate:
    """What selection may know of a tuning run."""

    method: str
    weight: float
    seed: int
    validation_accuracy: float


def choose(candidates: Iterable[Candidate]) -> dict[str, float]:
    """The weight of each method by `RULE`."""
    scores: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for candidate in candidates:
        scores[candidate.method][candidate.weight].append(candidate.validation_accuracy)
    return {
        method: max(sorted(by_weight), key=lambda weight: _mean(by_weight[weight]))
        for method, by_weight in scores.items()
    }


def _mean(values: list[float]) -> float:
    """Rounded far below one point's share of an accuracy, so that a tie is not decided by the order of summation."""
    return round(sum(values) / len(values), 9)
