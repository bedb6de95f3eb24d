"""What penalties change inside a network: all measures of `gr.metrics.profile` on scikit-learn's digits, 100 labels.

The table of docs/metrics.md, and its picture of input gradients. No search is on record for the two weights: the
table shows what such penalties do, not which is the better one.

python benchmarks/measures.py --seeds 5 --points 300 --picture docs/images/saliency.png
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import gradreg as gr
from gradreg.data.digits import load_digits
from gradreg.data.splits import Split, split
from gradreg.metrics import FGSM, PGD, GaussianNoise, Profile

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from training_loop import train  # type: ignore[import-not-found]

METHODS: dict[str, list[gr.Penalty]] = {
    "no penalty": [],
    "DoubleBack(3)": [gr.DoubleBack(3)],
    "SpectReg(0.1)": [gr.SpectReg(0.1)],
}
# In units of the standardized inputs.
ATTACKS = (GaussianNoise(0.5), FGSM(0.1), PGD(0.1), PGD(0.5, "l2"))


def named(found: Profile) -> Iterator[tuple[str, float]]:
    """The numbers of a profile with their names."""
    yield "test accuracy, %", found.accuracy
    yield "negative log-likelihood", found.negative_log_likelihood
    yield "expected calibration error", found.calibration_error
    yield "median margin of the logits", found.logit_margin
    yield "median margin in the input, first order", found.input_margin
    for attack, accuracy in found.robust.items():
        yield f"accuracy, {attack}, %", accuracy
    for place, norms in found.norms.items():
        yield f"norm of J_g, {place}", norms.logits
    for place, norms in found.norms.items():
        yield f"spectral norm of J_g, {place}", norms.logits_spectral
    for place, norms in found.norms.items():
        yield f"norm of J_f, {place}", norms.probabilities
    yield "slope between neighbours / at points", found.segments_ratio


def table(profiles: dict[str, list[Profile]]) -> str:
    """Mean and standard deviation over seeds, in Markdown."""
    lines = ["| measure | " + " | ".join(profiles) + " |", "|---|" + "---:|" * len(profiles)]
    columns = [[dict(named(found)) for found in runs] for runs in profiles.values()]
    for name in columns[0][0]:
        cells = []
        for runs in columns:
            values = [run[name] for run in runs]
            spread = f" ({statistics.stdev(values):.2g})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3g}{spread}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(models: dict[str, nn.Module], data: Split, path: Path) -> None:
    """Validation digits 0 to 9, and the gradient of each label's score with respect to them."""
    from matplotlib.figure import Figure

    first = [int((data.validation_y == digit).nonzero()[0]) for digit in range(10)]
    x, y = data.validation_x[first], data.validation_y[first]
    pictures = {"input": x, **{name: gr.metrics.saliency(model, x, y) for name, model in models.items()}}
    figure = Figure(figsize=(8, 0.95 * len(pictures)), dpi=100)
    axes = figure.subplots(len(pictures), 10)
    for row, (name, images) in zip(axes, pictures.items(), strict=True):
        for axis, image in zip(row, images[:, 0], strict=True):
            # Each picture by itself: gradients of a penalized network are smaller.
            most = float(image.abs().max())
            colours = "gray_r" if name == "input" else "RdBu_r"
            axis.imshow(image.numpy(), cmap=colours, vmin=None if name == "input" else -most, vmax=most)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(left=0.13, right=0.99, top=0.98, bottom=0.02, wspace=0.08, hspace=0.08)
    figure.savefig(path)


def main(words: list[str] | None = None) -> None:
    """Trains, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40, help="of 5 steps")
    parser.add_argument("--points", type=int, default=400, help="of the test set, to measure at")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    profiles: dict[str, list[Profile]] = {name: [] for name in METHODS}
    models: dict[str, nn.Module] = {}
    for seed in range(asked.seeds):
        data = split(
            load_digits(), train_size=100, validation_size=400, test_size=asked.points, seed=seed, with_test=True
        )
        assert data.test_x is not None
        assert data.test_y is not None
        for name, penalties in METHODS.items():
            torch.manual_seed(seed)
            models[name] = train(data, gr.Objective(nn.functional.cross_entropy, *penalties), asked.epochs)
            profiles[name].append(
                gr.metrics.profile(models[name], data.test_x, data.test_y, train_x=data.x, attacks=ATTACKS, seed=seed)
            )
        if asked.picture is not None and seed == 0:
            draw(models, data, asked.picture)
    print(table(profiles))


if __name__ == "__main__":
    main()
