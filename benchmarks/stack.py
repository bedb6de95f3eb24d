"""Runs of LeNet-5 with SpectReg(0.03), batch 50: one at a time and stacked, in turn; steps of a run per second.

python benchmarks/stack.py --device cuda --runs 30
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from gradreg.data.dataset import Dataset
from gradreg.study.config import Data, Model, Optimizer, Penalty, Run, Schedule, Split
from gradreg.study.stacked import Member, StackedTraining

RUN = Run(
    Data("noise"),
    Split(500, 50, 50),
    Model("lenet5"),
    Optimizer(0.001, weight_decay=0.0005),
    Schedule(1000, 50),
    (Penalty("SpectReg", 0.03),),
)


def seconds(step: Callable[[], object], count: int, device: str) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = Dataset("noise", torch.rand(800, 1, 28, 28), torch.arange(800) % 10, tuple("0123456789"))
    alone = Member.of(RUN, data, options.device).training
    stack = StackedTraining([Member.of(replace(RUN, seed=i), data, options.device) for i in range(options.runs)])
    one, all_of_them = torch.arange(50), torch.arange(50).expand(options.runs, -1)
    found: list[tuple[float, float]] = []
    for repeat in range(options.repeats + 1):
        each = seconds(lambda: alone.advance(one), options.steps * 5, options.device)
        together = seconds(lambda: stack.advance(all_of_them), options.steps, options.device) / options.runs
        if repeat:  # the first steps allocate
            found.append((1 / each, 1 / together))
    ratios = sorted(b / a for a, b in found)
    print(f"one at a time {statistics.median(a for a, _ in found):.0f} steps of a run per second")
    print(f"{options.runs} stacked {statistics.median(b for _, b in found):.0f}")
    print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
