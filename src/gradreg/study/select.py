"""Selection: the one place where configurations are chosen, on the metric of the validation points alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradreg.study.config import Scalar
from gradreg.study.metric import ACCURACY, Metric


def rule(metric: Metric) -> str:
    """How configurations are chosen, in words; named under every table."""
    return (
        f"configuration with the {metric.best} mean validation {metric.name} over the tuning seeds, among those "
        "trained for all steps on all seeds without a failure; the smaller values on a tie"
    )


@dataclass(frozen=True)
class Candidate:
    """What selection may know of a configuration.

    Attributes:
        values: of the hyper-parameters, by path.
        scores: the metric on the validation points of each tuning run.
    """

    values: tuple[tuple[str, Scalar], ...]
    scores: Sequence[float]


def choose(candidates: Iterable[Candidate], metric: Metric = ACCURACY) -> tuple[tuple[str, Scalar], ...] | None:
    """The values of the best configuration by `rule`; None where there is no candidate."""
    ordered = sorted((c for c in candidates if c.scores), key=lambda c: [_order(value) for _, value in c.values])
    return max(ordered, key=lambda c: metric.gain(_mean(c.scores))).values if ordered else None


def _order(value: Scalar) -> tuple[int, float, str]:
    """Numbers by size, then words by the alphabet."""
    return (1, 0.0, value) if isinstance(value, str) else (0, float(value), "")


def _mean(values: Sequence[float]) -> float:
    """Rounded far below one point's share of the metric, so that a tie is not decided by the order of summation."""
    return round(sum(values) / len(values), 9)
