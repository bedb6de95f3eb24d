"""The pictures of docs/gallery.md.

`moons`: each method on 20 points in the plane, where what it does to the function can be seen.
python benchmarks/gallery.py moons docs/images/gallery-moons.png
`gradients`: input gradients of every method of a comparison that is done.
python benchmarks/gallery.py gradients docs/images/gallery-gradients.png --study mnist
"""

import argparse
import io
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg.study.collect import collect
from gradreg.study.files import load_study
from gradreg.study.saliency import saliency
from gradreg.study.store import Store

STEPS, POINTS, SIDE = 2000, 20, 121
# Weights chosen by eye, so that something can be seen; stronger than one would train with.
METHODS: dict[str, tuple[gr.Penalty, ...]] = {
    "no penalty": (),
    "SpectReg(0.03)": (gr.SpectReg(0.03),),
    "FrobReg(0.03)": (gr.FrobReg(0.03),),
    "JacReg(0.3)": (gr.JacReg(0.3),),
    "TopSingular(0.03)": (gr.JacobianPenalty(0.03, projection=gr.TopSingular()),),
    "DoubleBack(1)": (gr.DoubleBack(1.0),),
    "L1DoubleBack(1, ramp=500)": (gr.L1DoubleBack(1.0, ramp=500),),
    "DataGrad(0.5, step=0.1)": (gr.DataGrad(0.5, step=0.1),),
    "GradientPenalty(1)": (gr.GradientPenalty(1.0, projection=gr.TopK(1)),),
    "LayerwiseFrobenius(0.003)": (gr.LayerwiseFrobenius(0.003),),
    "SpectralNorm(0.02)": (gr.SpectralNorm(0.02),),
    "ConfidencePenalty(0.5)": (gr.ConfidencePenalty(0.5),),
    "LabelSmoothing(0.2)": (gr.LabelSmoothing(0.2),),
}
MIXUP, SAM = "Mixup(alpha=0.4)", "SAM(rho=0.5)"


def moons(count: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Points of two half circles that reach into each other, standardized, and which of them each is of."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    angle = torch.pi * torch.rand(count, generator=generator)
    x = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    x = torch.where(y[:, None] == 0, x, torch.tensor([1.0, 0.5]) - x)
    x = x + noise * torch.randn(x.shape, generator=generator)
    return (x - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5]), y


def trained(name: str, x: Tensor, y: Tensor) -> nn.Module:
    """A network of two hidden layers, the same at the start for every method, after all its steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    objective = gr.Objective(cross_entropy, *METHODS.get(name, ()))
    mixup, sam = gr.Mixup(objective, alpha=0.4, classes=2), gr.SAM(objective, model, rho=0.5)
    for _ in range(STEPS):
        optimizer.zero_grad()
        if name == SAM:
            sam(x, y)
        else:
            (mixup if name == MIXUP else objective)(model, x, y).total.backward()
        optimizer.step()
    return model


def draw_moons(path: Path) -> None:
    """The probability of one class over the plane, and how steep the network is, for each method."""
    names = [*METHODS, MIXUP, SAM]
    x, y = moons(POINTS, 0.15, seed=3)
    test_x, test_y = moons(4000, 0.15, seed=4)
    axis = torch.linspace(-2.6, 2.6, SIDE)
    grid = torch.cartesian_prod(axis, axis)
    figure = Figure(figsize=(10, 7.2), dpi=90)
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(3, 5).flat, names, strict=True):
        model = trained(name, x, y)
        with torch.no_grad():
            shown = model(grid).softmax(1)[:, 1].reshape(SIDE, SIDE).T
            correct = (model(test_x).argmax(1) == test_y).double().mean().item()
        slope = gr.metrics.jacobian_norms(model, test_x[:500]).mean().item()
        axes.contourf(axis, axis, shown, levels=torch.linspace(0, 1, 22), cmap="RdBu_r")
        axes.contour(axis, axis, shown, levels=[0.5], colors="#1a202c", linewidths=1.2)
        axes.scatter(*x.T, c=y, cmap="RdBu_r", edgecolors="white", s=22, linewidths=0.8)
        axes.set_title(f"{name}\n{100 * correct:.1f} %, ||J|| {slope:.2f}", fontsize=7.5)
        axes.set_xticks([])
        axes.set_yticks([])
        print(f"{name}: test accuracy {100 * correct:.1f} %, mean norm of J {slope:.2f}", flush=True)
    figure.tight_layout(pad=0.6, h_pad=1.2)
    figure.savefig(path, facecolor="white")


def draw_gradients(path: Path, study: str, store: Store) -> None:
    """Input gradients of seed 0 of every method of a study."""
    loaded = load_study(study, store, kept=True)
    picture = saliency(collect(loaded.study, store, command=f"gradreg run {study}"), store, every=True)
    if picture is None:
        raise SystemExit(f"{study} in {store.directory} has no trained networks of images to show; run it first.")
    # Of a hundred colours, which nobody tells from all, in a sixth of the bytes.
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(100).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("moons", "gradients"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--study", default="mnist")
    parser.add_argument("--store", type=Path, default=Path("runs"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "moons":
        draw_moons(given.path)
    else:
        draw_gradients(given.path, given.study, Store(given.store))


if __name__ == "__main__":
    main()
