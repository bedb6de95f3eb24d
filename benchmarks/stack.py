"""Runs of LeNet-5 with SpectReg(0.03), batch 50: one at a time and stacked, in turn; steps of a run per second.

python benchmarks/stack.py --device cuda --runs 30
python benchmarks/stack.py --net sin    # that of SIN with FrobReg(0.01)
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
from gradreg.study.train import Training, dataset

RUN = Run(
    Data("noise"),
    Split(500, 50, 50),
    Model("lenet5"),
    Optimizer(0.001, weight_decay=0.0005),
    Schedule(1000, 50),
    (Penalty("SpectReg", 0.03),),
)
SIN = Run(
    Data("sin"),
    Split(100, 1000, balanced=False),
    Model("mlp-5x64"),
    Optimizer(0.01),
    Schedule(1000, 50),
    (Penalty("FrobReg", 0.01),),
)
WAYS = ["grouped", "windows", "grouped, graphs", "windows, graphs"]


def seconds(step: Callable[[], object], count: int, device: str) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / count


def stacked(run: Run, data: Dataset, runs: int, device: str, *, windows: bool, graphs: bool) -> StackedTraining:
    """A stack, whose convolutions are products with windows or not, and whose steps are CUDA graphs or not."""
    found = StackedTraining([Member.of(replace(run, seed=i), data, device) for i in range(runs)])
    found.model.windows = windows
    if not graphs:
        found.graphs = None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--net", choices=["lenet5", "sin"], default="lenet5")
    parser.add_argument("--runs", type=int, nargs="+", default=[30])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="of convolutions and steps")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    place = torch.cuda.get_device_name() if options.device != "cpu" else "CPU, 1 thread"
    print(f"{place}, torch {torch.__version__}; medians of {options.repeats} (smallest to largest)")
    noise = Dataset("noise", torch.rand(800, 1, 28, 28), torch.arange(800) % 10, tuple("0123456789"))
    run, data = (RUN, noise) if options.net == "lenet5" else (SIN, dataset("sin"))
    alone = Member.of(run, data, options.device).training
    for runs in options.runs:
        for way in options.ways:
            if (options.device == "cpu" and "graphs" in way) or (options.net == "sin" and "windows" in way):
                continue
            stack = stacked(run, data, runs, options.device, windows="windows" in way, graphs="graphs" in way)
            show(compare(alone, stack, options), runs, way)


def compare(alone: Training, stack: StackedTraining, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Steps of a run per second, one at a time and stacked, of each repeat."""
    one, all_of_them = torch.arange(50), torch.arange(50).expand(len(stack.members), -1)
    found: list[tuple[float, float]] = []
    for repeat in range(options.repeats + 1):
        each = seconds(lambda: alone.advance(one), options.steps * 5, options.device)
        together = seconds(lambda: stack.advance(all_of_them), options.steps, options.device) / len(stack.members)
        if repeat:  # the first steps allocate, and record graphs
            found.append((1 / each, 1 / together))
    return found


def show(found: list[tuple[float, float]], runs: int, how: str) -> None:
    ratios = sorted(b / a for a, b in found)
    one, together = (statistics.median(values) for values in zip(*found, strict=True))
    print(
        f"{runs} runs, {how}: {together:.0f} steps of a run per second, one at a time {one:.0f}; "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
