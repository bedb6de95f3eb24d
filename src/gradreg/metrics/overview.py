"""All measures of a classifier in one table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor

from gradreg import _checks
from gradreg._random import generator_for
from gradreg._types import Model
from gradreg.jacobian.target import Logits, Probabilities
from gradreg.metrics._chunks import class_indices, class_scores
from gradreg.metrics.attacks import FGSM, PGD, Attack, GaussianNoise, robust_accuracy
from gradreg.metrics.calibration import accuracy, expected_calibration_error, negative_log_likelihood, predictions
from gradreg.metrics.curves import segments
from gradreg.metrics.margins import input_margins, logit_margins
from gradreg.metrics.norms import both_norms
from gradreg.metrics.places import interpolated, neighbours, noise


@dataclass(frozen=True)
class Norms:
    """Means over points of the norms of J_g (of the logits) and J_f (of the probabilities)."""

    logits: float
    logits_spectral: float
    probabilities: float
    probabilities_spectral: float


@dataclass(frozen=True)
class Profile:
    """What `profile` measured; as text, a table.

    Attributes:
        points: number of test points.
        accuracy: in percent.
        negative_log_likelihood: mean, in nats.
        calibration_error: expected calibration error, between 0 and 1.
        logit_margin: median over the test points, by their labels.
        input_margin: median of the first-order distance to the boundary in L2 norm, in units of x.
        norms: by place: "test", "train" where training points were given, "interpolated", "noise".
        robust: accuracy in percent under each attack.
        segments_ratio: mean slope between neighbouring points over that at the points; see `segments`.
    """

    points: int
    accuracy: float
    negative_log_likelihood: float
    calibration_error: float
    logit_margin: float
    input_margin: float
    norms: Mapping[str, Norms]
    robust: Mapping[Attack, float]
    segments_ratio: float

    def __str__(self) -> str:
        rows = [
            ("accuracy, %", self.accuracy),
            ("negative log-likelihood, nats", self.negative_log_likelihood),
            ("expected calibration error", self.calibration_error),
            ("median margin of the logits", self.logit_margin),
            ("median margin in the input", self.input_margin),
            ("slope between neighbours / at points", self.segments_ratio),
            *((f"accuracy, {attack}, %", value) for attack, value in self.robust.items()),
        ]
        places = {f"mean norms of J, {place}": norms for place, norms in self.norms.items()}
        width = max(len(name) for name in (*dict(rows), *places))
        head = f"{f'{self.points} test points':<{width}}"
        lines = [head, *(f"{name:<{width}} {value:>11.4g}" for name, value in rows)]
        columns = "".join(f" {name:>11}" for name in ("||J_g||_F", "||J_g||_2", "||J_f||_F", "||J_f||_2"))
        lines.append(f"{'':<{width}}{columns}")
        for name, n in places.items():
            values = (n.logits, n.logits_spectral, n.probabilities, n.probabilities_spectral)
            lines.append(f"{name:<{width}}" + "".join(f" {value:>11.4g}" for value in values))
        return "\n".join(lines)


def profile(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    train_x: Tensor | None = None,
    attacks: Sequence[Attack] | None = None,
    seed: int = 0,
    chunk: int = 256,
) -> Profile:
    """All measures of a classifier at once, with the same random numbers for each model that is measured.

    Args:
        model: a module (its mode is put back afterwards) or a function, run as it is; gives class scores (B, C).
        x: test points (N, ...), at least two.
        y: class indices (N,).
        train_x: training points, at which norms are measured too; interpolated points, noise and segments are then made
            from them, otherwise from x.
        attacks: under which accuracy is measured. By default, with the deviation s of all entries of x: noise of 0.3 s,
            FGSM and PGD (10 steps) of 0.1 s in each entry, PGD of 0.05 s sqrt(n) in L2 norm; without bounds.
        seed: of all that is drawn.
        chunk: number of points at a time.

    Returns:
        A `Profile`. Its cost is mostly that of the norms: 2 C backward passes at each of three or four sets of points.
        For large sets measure a part: ``profile(model, x[:1000], y[:1000])``.

    Raises:
        TypeError: what is no attack, or one that is not hashable.
        ValueError: as the measures do.

    Example:
        >>> print(gr.metrics.profile(model, x, y))
    """
    z = predictions(model, x, chunk=chunk)
    class_indices(y, class_scores(z, "profile"), "profile")
    places = {"test": x} if train_x is None else {"test": x, "train": train_x}
    source = x if train_x is None else train_x
    draw: Callable[[str], Generator] = partial(generator_for, seed)
    places["interpolated"] = interpolated(source, generator=draw("interpolated"))
    places["noise"] = noise(source, generator=draw("noise"))
    chosen = _default_attacks(x) if attacks is None else attacks
    for attack in chosen:
        _checks.instance(attack, Attack, "attacks", "[gr.metrics.PGD(0.1)]")
        if attack.__hash__ is None:
            raise TypeError(
                f"profile got {attack!r}, which is not hashable and so cannot name its row. Write "
                f"@dataclass(frozen=True) above the class {type(attack).__name__}."
            )
    return Profile(
        points=x.shape[0],
        accuracy=accuracy(z, y),
        negative_log_likelihood=negative_log_likelihood(z, y),
        calibration_error=expected_calibration_error(z, y),
        logit_margin=float(logit_margins(z, y).median()),
        input_margin=float(input_margins(model, x, y, chunk=chunk).median()),
        norms={place: _norms(model, points, chunk) for place, points in places.items()},
        robust={
            attack: robust_accuracy(model, x, y, attack, generator=draw(f"attack {index}"), chunk=chunk)
            for index, attack in enumerate(chosen)
        },
        segments_ratio=segments(model, source, neighbours(source), chunk=chunk).ratio,
    )


def _norms(model: Model, x: Tensor, chunk: int) -> Norms:
    found = [both_norms(model, x, target, chunk=chunk).double().mean(0) for target in (Logits(), Probabilities())]
    return Norms(*(float(value) for pair in found for value in pair))


def _default_attacks(x: Tensor) -> list[Attack]:
    s = float(x.std())
    entry, length = _rounded(0.1 * s), _rounded(0.05 * s * x[0].numel() ** 0.5)
    return [GaussianNoise(_rounded(0.3 * s)), FGSM(entry), PGD(entry), PGD(length, "l2")]


def _rounded(value: float) -> float:
    """Two digits, so that a table can name it."""
    return float(f"{value:.2g}")
