"""LeNet-5, batch 50, one thread: finite-difference steps of ours beside the same written by hand, interleaved.

"doubled" is the probe on the input side as one batch of twice the size, "two passes" the same as two forward passes,
"row by hand" a row on the output side: a gradient to the input, and a second pass along it. No optimizer.
python benchmarks/by_hand.py [repeats]
"""

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg.models import LeNet5

STEP, WEIGHT = 0.1, 0.03


def main(repeats: int = 60) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LeNet5().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(50, 1, 28, 28).to(memory_format=torch.channels_last)
    y = torch.randint(10, (50,))
    engine = gr.FiniteDifference(step=STEP)
    probe = gr.JacobianPenalty(WEIGHT, projection=gr.Normal(side="input"), engine=engine)

    def unit(v: Tensor) -> Tensor:
        return v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)

    def probed(z: Tensor, ahead: Tensor, length: Tensor) -> Tensor:
        return cross_entropy(z, y) + WEIGHT * ((ahead - z) * length[:, None] / STEP).square().sum(1).mean()

    def doubled() -> Tensor:
        v = torch.randn_like(x)
        z, ahead = model(torch.cat([x, x + STEP * unit(v)])).chunk(2)
        return probed(z, ahead, v.flatten(1).norm(dim=1))

    def two_passes() -> Tensor:
        v = torch.randn_like(x)
        return probed(model(x), model(x + STEP * unit(v)), v.flatten(1).norm(dim=1))

    def row() -> Tensor:
        site = x.detach().requires_grad_()
        z = model(site)
        r = torch.randn_like(z)
        (g,) = torch.autograd.grad(z, site, r, retain_graph=True)
        ahead = model(x + STEP * unit(g))
        return cross_entropy(z, y) + WEIGHT * (((ahead - z) * r).sum(1) / STEP).square().mean()

    ways: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: cross_entropy(model(x), y),
        "probe": lambda: gr.Objective(cross_entropy, probe)(model, x, y).total,
        "doubled": doubled,
        "two passes": two_passes,
        "row": lambda: gr.Objective(cross_entropy, gr.SpectReg(WEIGHT, engine=engine))(model, x, y).total,
        "row by hand": row,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(repeats + 3):
        for way, total in ways.items():
            begin = perf_counter()
            total().backward()
            model.zero_grad()
            if number >= 3:
                times[way].append(perf_counter() - begin)
    for way, values in times.items():
        ratios = median(values) / median(times["plain"]), min(values) / min(times["plain"])
        print(f"{way:12} {1000 * median(values):6.2f} ms, {ratios[0]:.2f}x plain, by least times {ratios[1]:.2f}x")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
