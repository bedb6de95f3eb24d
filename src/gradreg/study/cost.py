"""What a training step of each method costs: methods interleaved in one process, medians."""

import statistics
import time
from collections.abc import Mapping

import torch

from gradreg.study.config import Run
from gradreg.study.train import build, first_batch


def step_costs(runs: Mapping[str, Run], *, repeats: int = 25) -> dict[str, float]:
    """Median seconds of one training step (forward, backward, optimizer) of each run, on one thread.

    Args:
        runs: by name; the same data and network.
        repeats: timed steps of each, in turn, so that a busy moment of the machine falls on all alike.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, y = first_batch(next(iter(runs.values())))
        built = {name: build(run) for name, run in runs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(repeats + 3):
            for name, (model, objective, optimizer) in built.items():
                begin = time.perf_counter()
                objective(model, x, y).total.backward()
                optimizer.step()
                optimizer.zero_grad()
                if repeat >= 3:  # the first steps allocate
                    seconds[name].append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(values) for name, values in seconds.items()}
