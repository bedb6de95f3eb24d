"""What a study's runs are judged by: its name, its unit, and which direction is better. No torch here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A measure of a trained network.

    Attributes:
        name: in sentences.
        key: in results: ``test_KEY`` and ``validation_KEY``.
        unit: that numbers are printed in.
        size: of the unit, in what results hold.
        digits: behind the point, in that unit.
        higher: whether more is better.
        suffix: what makes a printed number whole in a sentence: "97.34 %", "6.812e-3".
        noun: what a difference is counted in.
        examples: what training points are called.
    """

    name: str
    key: str
    unit: str
    size: float
    digits: int
    higher: bool
    suffix: str
    noun: str
    examples: str

    @property
    def header(self) -> str:
        """Name and unit, for columns and axes."""
        return f"{self.name}, {self.unit}"

    @property
    def title(self) -> str:
        """The name as a heading begins."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def best(self) -> str:
        """How the best value is called."""
        return "highest" if self.higher else "lowest"

    def of(self, result: Mapping[str, Any], part: str) -> float:
        """A result's value on "validation" or "test" points, in the unit."""
        return float(result[f"{part}_{self.key}"]) / self.size

    def gain(self, difference: float) -> float:
        """A difference counted so that more is better."""
        return difference if self.higher else -difference

    def goodness(self, value: float) -> float:
        """A value above 0 that rises as the metric gets better, for a search that takes 0 for a failure."""
        return value if self.higher else 1 / (1 + value)

    def is_wide(self, values: Iterable[float]) -> bool:
        """Whether an axis of these values is to be logarithmic: errors that differ by more than a factor of 10."""
        found = [value for value in values if value > 0]
        return not self.higher and bool(found) and max(found) > 10 * min(found)

    def text(self, value: float) -> str:
        """A value in the unit, which stands elsewhere."""
        return f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """A difference in the unit, with its sign."""
        return f"{value:+.{self.digits}f}"

    def whole(self, value: float) -> str:
        """A value with its unit: "97.34 %", "6.812e-3"."""
        return self.text(value) + self.suffix

    def change(self, difference: float) -> str:
        """A difference as a sentence says it, without its noun: "+0.21", "-3.812e-3"."""
        return self.signed(difference) + ("" if self.higher else self.suffix)


ACCURACY = Metric("accuracy", "accuracy", "%", 1.0, 2, True, " %", "points", "labels")
MSE = Metric("MSE", "mse", "1e-3", 1e-3, 3, False, "e-3", "MSE", "points")

# Data sets whose labels are numbers; all others have classes.
REGRESSION = ("sin", "sin-doubled")


def metric_of(data: str) -> Metric:
    """What runs on a data set are judged by: accuracy in percent where it has classes, else the mean squared error.

    Args:
        data: its name.

    Example:
        >>> metric_of("sin").header, metric_of("digits").header
        ('MSE, 1e-3', 'accuracy, %')
    """
    return MSE if data in REGRESSION else ACCURACY
