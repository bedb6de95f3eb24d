"""What final runs measure beside their metric where a study asks for it: calibration, slope, margin, robustness.

Results, tables and files are made from one list, `MEASURES`. torch is imported where it is measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradreg.study.statistics import Estimate, estimate

if TYPE_CHECKING:
    from torch import Tensor, nn

# In units of the inputs, which runs standardize by their training points, so that they are parts of a deviation: those
# of `gradreg.metrics.profile`. Of MNIST 0.1 is 8/255 of the range of a pixel. Runs' keys do not hold them: raise
# `gradreg.study.config.MEANING` with them.
NOISE, RADIUS = 0.3, 0.1
# Of all that is drawn: the same noise for every network.
SEED = 0
# In a table: there is no number.
NONE = "-"


@dataclass(frozen=True)
class Measure:
    """A number of a trained classifier; see `profile`.

    Attributes:
        key: in results, and in CSV files.
        name: of its column.
        meaning: in words.
        higher: whether more is better.
        unit: that tables print it in; "" for none.
        size: of the unit, in what results hold.
        digits: behind the point, in that unit.
    """

    key: str
    name: str
    meaning: str
    higher: bool
    unit: str = ""
    size: float = 1.0
    digits: int = 1

    @property
    def header(self) -> str:
        """Name and unit, for columns."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def better(self) -> str:
        """Which is better, in a word."""
        return "higher" if self.higher else "lower"

    def text(self, value: float) -> str:
        """What a result holds, in the unit."""
        return f"{value / self.size:.{self.digits}f}"

    def over(self, values: Sequence[float | None]) -> Estimate | None:
        """The mean over the seeds that have a number."""
        known = [value for value in values if value is not None]
        return estimate(known) if known else None

    def cell(self, values: Sequence[float | None], seeds: int) -> str:
        """Mean and sample standard deviation as text, with the number of seeds where it is not so many."""
        found, count = self.over(values), sum(value is not None for value in values)
        if found is None:
            return NONE
        spread = "" if math.isnan(found.sd) else f" ({self.text(found.sd)})"
        return f"{self.text(found.mean)}{spread}" + ("" if count == seeds else f" n={count}")


MEASURES = (
    Measure(
        "calibration_error",
        "ECE",
        "expected calibration error of 15 bins, which few points make larger",
        higher=False,
        unit="%",
        size=0.01,
    ),
    Measure("negative_log_likelihood", "NLL", "negative log-likelihood", higher=False, unit="nats", digits=3),
    Measure(
        "spectral_norm",
        "||J||_2",
        "mean of the largest singular value of d logits / d input, at no more points than ||J||",
        higher=False,
        digits=2,
    ),
    Measure(
        "input_margin",
        "margin",
        "median of the first-order L2 distance to the decision boundary, negative where the label is not predicted",
        higher=True,
        unit="input",
        digits=2,
    ),
    Measure(
        "noise_accuracy",
        f"noise {NOISE:g}",
        f"accuracy under Gaussian noise of the deviation {NOISE:g} in each entry",
        higher=True,
        unit="%",
    ),
    Measure(
        "fgsm_accuracy",
        f"FGSM {RADIUS:g}",
        f"accuracy where one step along the sign of the gradient moves each entry by {RADIUS:g}",
        higher=True,
        unit="%",
    ),
    Measure(
        "pgd_accuracy",
        f"PGD {RADIUS:g}",
        f"accuracy where 10 such steps move each entry by at most {RADIUS:g}",
        higher=True,
        unit="%",
    ),
)


def meaning(measures: Sequence[Measure]) -> str:
    """What measures are, in a sentence."""
    each = "; ".join(f"{measure.name}: {measure.meaning}" for measure in measures)
    units = (
        "noise, steps, margins and ||J||_2 are in units of the inputs, which are standardized by the training points"
    )
    return f"{each}; {units}"


def profile(model: "nn.Module", x: "Tensor", y: "Tensor", *, norm_points: int) -> dict[str, float | None]:
    """The `MEASURES` of a classifier, with the same random numbers for each that is measured.

    Args:
        model: gives class scores.
        x, y: points as the network takes them, and their labels.
        norm_points: the spectral norm, of one backward pass for each class, is taken at no more than so many, the
            first.

    Returns:
        By `Measure.key`, in the units of `gradreg.metrics`; None for what is not finite, such as the margin of a
        network that has come to be constant, and for the derivatives of one that normalizes by the batch here too.
    """
    from gradreg import metrics
    from gradreg._random import generator_for

    z, labels = metrics.predictions(model, x), y.to(x.device)

    def under(attack: metrics.Attack, name: str) -> float:
        return metrics.robust_accuracy(model, x, labels, attack, generator=generator_for(SEED, name))

    coupled = bool(metrics.coupling_layers(model))
    found = {
        "calibration_error": metrics.expected_calibration_error(z, labels),
        "negative_log_likelihood": metrics.negative_log_likelihood(z, labels),
        "spectral_norm": math.nan if coupled else metrics.spectral_norms(model, x[:norm_points]).mean().item(),
        "input_margin": math.nan if coupled else metrics.input_margins(model, x, labels).median().item(),
        "noise_accuracy": under(metrics.GaussianNoise(NOISE), "noise"),
        "fgsm_accuracy": under(metrics.FGSM(RADIUS), "FGSM"),
        "pgd_accuracy": under(metrics.PGD(RADIUS), "PGD"),
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}
