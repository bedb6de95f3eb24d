"""The paper's claims on MNIST as comparisons of two arms, paired by seed: a table in Markdown for docs/reproduction.md.

Reads the numbers of each seed that `benchmarks/reproduced.py` has written, so that it needs no runs:
python benchmarks/claims.py docs/results/mnist.csv
"""

import argparse
import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

Place = tuple[str, str, str]  # study, group, arm
Accuracies = dict[Place, dict[str, float]]
FAMILY = 0.05
SIZES, PENALTY = (500, 1000, 2000, 5000, 20000), "ConfidencePenalty"


@dataclass(frozen=True)
class Claim:
    """That one arm has a higher accuracy than another, or that neither has.

    Attributes:
        words: what the paper says.
        higher, lower: the arms.
        differ: whether the paper sees a difference.
    """

    words: str
    higher: Place
    lower: Place
    differ: bool = True


def table(number: int, group: str, *arms: str) -> list[Place]:
    return [(f"table{number}", group, arm) for arm in arms]


def claims() -> dict[str, list[Claim]]:
    """By table: its p values are corrected together (Holm)."""
    (bare1, spect1), (decay, both) = (
        table(1, group, "Baseline", "SpectReg")
        for group in ("small MNIST, no weight decay", "small MNIST, weight decay 0.0005")
    )
    drop, norm, spect, double = table(2, "each alone", "dropout", "batch normalization", "SpectReg", "DoubleBack")
    bare, drop_spect, drop_double = (
        ("table2", "neither", "Baseline"),
        ("table2", "dropout", "SpectReg"),
        ("table2", "dropout", "DoubleBack"),
    )
    norm_spect, norm_double = table(2, "batch normalization", "SpectReg", "DoubleBack")
    plain, spect3, double3, confidence = table(
        3, "without confidence penalty", "Baseline", "SpectReg", "DoubleBack", "ConfidencePenalty"
    )
    spect_too, double_too = table(3, "with confidence penalty", "SpectReg", "DoubleBack")
    spect6, jac, frob = table(6, "", "SpectReg", "JacReg", "FrobReg")
    found = {
        "Table 1": [
            Claim("SpectReg gains more than weight decay", spect1, decay),
            Claim("SpectReg gains beside weight decay", both, decay),
            Claim("SpectReg gains without it", spect1, bare1),
        ],
        "Table 2": [
            Claim("SpectReg alone beats dropout alone", spect, drop),
            Claim("SpectReg alone beats batch normalization alone", spect, norm),
            Claim("DoubleBack alone beats dropout alone", double, drop),
            Claim("DoubleBack alone beats batch normalization alone", double, norm),
            Claim("DoubleBack adds to dropout", drop_double, drop),
            Claim("SpectReg adds to dropout", drop_spect, drop),
            Claim("dropout with DoubleBack beats dropout with SpectReg", drop_double, drop_spect),
        ],
        "Table 2, read from its numbers alone": [
            Claim("batch normalization and neither do not differ", norm, bare, differ=False),
            Claim("SpectReg adds nothing to batch normalization", norm_spect, norm, differ=False),
            Claim("DoubleBack adds nothing to batch normalization", norm_double, norm, differ=False),
        ],
        "Table 3": [
            Claim("the confidence penalty gains", confidence, plain),
            Claim("SpectReg beats it", spect3, confidence),
            Claim("DoubleBack beats it", double3, confidence),
            Claim("DoubleBack beats SpectReg", double3, spect3),
            Claim("SpectReg adds to the confidence penalty", spect_too, confidence),
            Claim("the confidence penalty adds to SpectReg", spect_too, spect3),
            Claim("DoubleBack adds to the confidence penalty", double_too, confidence),
            Claim("the confidence penalty adds to DoubleBack", double_too, double3),
            Claim("DoubleBack with the confidence penalty beats SpectReg with it", double_too, spect_too),
        ],
        "Table 6": [
            Claim("SpectReg beats JacReg", spect6, jac),
            Claim("FrobReg and JacReg do not differ", frob, jac, differ=False),
            Claim("SpectReg and FrobReg do not differ", spect6, frob, differ=False),
        ],
    }
    figure = {
        name: [
            Claim(
                f"{size} points: {words}",
                ("figure1", f"training points {size}", higher),
                ("figure1", f"training points {size}", lower),
                differ=not equal,
            )
            for size in sizes
        ]
        for name, words, higher, lower, sizes, equal in (
            ("Figure 1, DoubleBack best", "DoubleBack beats SpectReg", "DoubleBack", "SpectReg", SIZES, False),
            ("Figure 1, likewise", "DoubleBack beats the confidence penalty", "DoubleBack", PENALTY, SIZES, False),
            ("Figure 1, the gain lasts", "DoubleBack beats the baseline", "DoubleBack", "Baseline", SIZES, False),
            ("Figure 1, smaller sizes", "SpectReg beats the confidence penalty", "SpectReg", PENALTY, SIZES[:4], False),
            ("Figure 1, more data", "no advantage over the confidence penalty", "SpectReg", PENALTY, SIZES[4:], True),
        )
    }
    peers = {
        "Figure 1, JacReg below its peers": [
            Claim(
                f"2000 points: {name} beats JacReg",
                ("figure1", "training points 2000", arm),
                ("figure1", "training points 2000", "JacReg"),
            )
            for name, arm in (("DoubleBack",) * 2, ("SpectReg",) * 2, ("the confidence penalty", PENALTY))
        ]
    }
    return found | figure | peers


def read(path: Path) -> Accuracies:
    found: Accuracies = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            place = row["study"], row["group"], row["arm"]
            found.setdefault(place, {})[row["seed"]] = float(row["test_accuracy"])
    return found


def paired(higher: dict[str, float], lower: dict[str, float]) -> tuple[float, float, float, int]:
    """Mean difference, half of its 95 % confidence interval (Student's t), p of the paired t test, number of pairs."""
    differences = [value - lower[seed] for seed, value in higher.items() if seed in lower]
    count = len(differences)
    if count < 2:
        return float("nan"), float("nan"), float("nan"), count
    mean, error = statistics.mean(differences), statistics.stdev(differences) / count**0.5
    half = float(stats.t.ppf(0.975, count - 1)) * error
    return mean, half, 2 * float(stats.t.sf(abs(mean) / error, count - 1)), count


def holm(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    found, worst = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(values) - rank) * values[i]))
        found[i] = worst
    return found


def verdict(claim: Claim, mean: float, p: float) -> str:
    """Whether the claim holds at 5 %; that of no difference can only be contradicted."""
    if p >= FAMILY:
        return "no difference found" if claim.differ else "not contradicted"
    if not claim.differ:
        return "no: they differ"
    return "yes" if mean > 0 else "the opposite"


def corrected(listed: Sequence[Claim], values: Sequence[float]) -> list[float]:
    """By Holm over the claims of a difference; a claim of none gains by a correction, and gets its p as it is."""
    of_differences = iter(holm([p for claim, p in zip(listed, values, strict=True) if claim.differ]))
    return [next(of_differences) if claim.differ else p for claim, p in zip(listed, values, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="?", default=Path("docs/results/mnist.csv"))
    accuracies = read(parser.parse_args().path)
    print("| the paper's claim | difference, points | p | holds |\n|---|---:|---:|---|")
    for name, listed in claims().items():
        known = [c for c in listed if c.higher in accuracies and c.lower in accuracies]
        found = [paired(accuracies[c.higher], accuracies[c.lower]) for c in known]
        ps = corrected(known, [f[2] for f in found])
        print(f"| **{name}** | | | |")
        for claim, (mean, half, _, count), p in zip(known, found, ps, strict=True):
            interval = f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
            shown = "< 0.001" if p < 0.001 else f"{p:.3f}"
            few = "" if count == 10 else f" ({count} pairs)"
            print(f"| {claim.words}{few} | {interval} | {shown} | {verdict(claim, mean, p)} |")


if __name__ == "__main__":
    main()
