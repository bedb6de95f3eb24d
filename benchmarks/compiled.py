"""Time of a step with SpectReg: ordinary, as a traced graph, and compiled; interleaved in one process.

Run: .venv/bin/python benchmarks/compiled.py [threads] [rounds]
"""

import copy
import sys
import time
from collections.abc import Callable
from statistics import quantiles

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg.models import LeNet5


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def forms(model: nn.Module, batch: int) -> dict[str, Callable[[], object]]:
    """Each way to do a step, on a copy of the model; compiled ones have run once and print their second step."""
    objective = gr.Objective(cross_entropy, gr.SpectReg(0.03))
    x, y = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    found: dict[str, Callable[[], object]] = {
        "plain step": lambda: (cross_entropy(first(x), y).backward(), first.zero_grad()),
        "ordinary": lambda: (objective(second, x, y).total.backward(), second.zero_grad()),
    }
    for backend in ("eager", "inductor"):
        own = copy.deepcopy(model)
        step = gr.CompiledObjective(objective, own, backend=backend, fallback=False)
        found[f"backend={backend!r}"] = lambda step=step, own=own: (step(x, y), own.zero_grad())
        step(x, y)
        start = time.perf_counter()
        step(x, y)
        print(f"  second step with {backend}, which makes the graph: {time.perf_counter() - start:.1f} s")
    return found


def main(threads: int = 1, rounds: int = 100) -> None:
    torch.set_num_threads(threads)
    for name, make, batch in (("LeNet-5, batch 50", LeNet5, 50), ("MLP 784-256-256-10, batch 128", mlp, 128)):
        torch.manual_seed(0)
        print(f"{name}, {threads} thread(s)")
        ways = forms(make(), batch)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                start = time.perf_counter()
                run()
                times[way].append(1000 * (time.perf_counter() - start))
        for way, values in times.items():
            low, median, high = quantiles(values, n=4)
            print(f"  {way:20} {median:7.2f} ms, quartiles {low:.2f} and {high:.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
