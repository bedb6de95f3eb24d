"""Statistics of a comparison: means with named spreads, paired differences with intervals, corrections."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval (Student's t over the seeds) and p against 0.

    Attributes:
        mean: of the values.
        sd: their sample standard deviation; nan for one value.
        low, high: ends of the interval; nan for one value, or where all are equal, which says nothing of their spread.
        p: two-sided; nan for one value, or for values that are equal and not 0.
    """

    mean: float
    sd: float
    low: float
    high: float
    p: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation, 95 % interval and the p of a one-sample t test against 0."""
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if len(x) < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, math.nan)
    sd = float(x.std(ddof=1))
    if sd <= 1e-9 * max(1.0, abs(mean)):
        # Accuracies come in steps of one test point, so few seeds can well agree: no proof that others would.
        equal = abs(mean) <= 1e-9
        return Estimate(mean, 0.0, mean, mean, 1.0) if equal else Estimate(mean, 0.0, math.nan, math.nan, math.nan)
    # Student's t from scipy.special: to import scipy.stats for it would take longer than a whole report.
    freedom, error = len(x) - 1, sd / math.sqrt(len(x))
    p = float(2 * stdtr(freedom, -abs(mean) / error))
    half = float(stdtrit(freedom, 0.975)) * error
    return Estimate(mean, sd, mean - half, mean + half, p)


def paired(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The difference to the baseline, seed by seed."""
    return estimate([a - b for a, b in zip(values, baseline, strict=True)])


def bonferroni(p: Mapping[str, float]) -> dict[str, float]:
    """Bonferroni's correction: p times the number of hypotheses, at most 1. Values that are nan do not count."""
    count = sum(not math.isnan(value) for value in p.values())
    return {name: value if math.isnan(value) else min(1.0, count * value) for name, value in p.items()}


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: sorted p times the number of hypotheses left, never falling, at most 1.

    Values that are nan (one seed) stay so and do not count.
    """
    known = sorted((value, name) for name, value in p.items() if not math.isnan(value))
    corrected, running = dict(p), 0.0
    for position, (value, name) in enumerate(known):
        running = max(running, min(1.0, (len(known) - position) * value))
        corrected[name] = running
    return corrected
