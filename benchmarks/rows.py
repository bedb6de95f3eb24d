"""FrobReg in bounded memory: seconds and peak of memory of one step on the residual net of width 16, batch 128.

The peak is that of the process (its resident set), one process for each number of outputs. For example:
python benchmarks/rows.py --outputs 200 --memory 1
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg.models import ResNet


def seconds(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def peak() -> float:
    """GiB that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=200)
    parser.add_argument("--memory", type=float, default=1.0, help="GiB that the graphs of rows may hold")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model: nn.Module = ResNet(width=16, classes=options.outputs)
    x, y = torch.randn(128, 3, 32, 32), torch.randint(options.outputs, (128,))
    model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = gr.Objective(cross_entropy, gr.FrobReg(0.01, memory=options.memory))

    def plain() -> None:
        cross_entropy(model(x), y).backward()
        model.zero_grad()

    def penalized() -> None:
        objective(model, x, y).total.backward()
        model.zero_grad()

    plain()
    base, before = seconds(plain), peak()
    print(f"plain step: {base:.2f} s, peak {before:.2f} GiB", flush=True)
    time_taken = seconds(penalized)
    print(
        f"FrobReg, {options.outputs} outputs, memory={options.memory:g}: {time_taken:.1f} s, {time_taken / base:.0f} "
        f"plain steps, peak {peak():.2f} GiB"
    )


if __name__ == "__main__":
    main()
