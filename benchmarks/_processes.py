"""Steps per second: two processes of one thread at the same time, against one process of two threads."""

import time
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from _configurations import SUBJECTS, configurations

from gradreg.study.steps import TrainingStep


def _work(
    subject: str, name: str, channels_last: bool, batch: int | None, threads: int, seconds: float, together: Barrier
) -> float:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    chosen = SUBJECTS[subject]
    x, y = chosen.data("cpu", batch)
    found = configurations(chosen.outputs, formats=[channels_last], patterns=[name])
    total = next(configuration.total for configuration in found if configuration.name == name)
    step = TrainingStep(chosen.make("cpu"), x, y, total, channels_last=channels_last)
    for _ in range(5):
        step()
    together.wait()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - begin)


def _initialize(barrier: Any) -> None:
    global _barrier  # noqa: PLW0603 a barrier can only be inherited, not sent
    _barrier = barrier


_barrier: Any = None


def _task(arguments: tuple[str, str, bool, int | None, int, float]) -> float:
    return _work(*arguments, _barrier)


def throughput(
    subject: str,
    name: str,
    *,
    channels_last: bool,
    processes: int,
    threads: int,
    seconds: float,
    batch: int | None = None,
) -> float:
    """Steps per second of all processes together, which begin at the same moment.

    Args:
        subject, name: of the model and of the configuration.
        channels_last: the memory format.
        processes, threads: so many processes, of so many threads each.
        seconds: how long each works.
        batch: examples; by default the model's own.
    """
    context = get_context("spawn")
    with context.Pool(processes, _initialize, (context.Barrier(processes),)) as pool:
        # chunks of one: each process waits for the others, so that none takes two
        work = [(subject, name, channels_last, batch, threads, seconds)] * processes
        return sum(pool.map(_task, work, chunksize=1))


def compare(subject: str, *, seconds: float, repeats: int = 3, batch: int | None = None) -> list[dict[str, Any]]:
    """Both ways in turn, for the plain step and SpectReg, in each memory format; medians of the repeats.

    Args:
        subject: of the model.
        seconds: of each measurement.
        repeats: how many of each.
        batch: examples; by default the model's own.
    """
    found = []
    for name in ("plain", "SpectReg"):
        for last in SUBJECTS[subject].formats:
            rates: dict[tuple[int, int], list[float]] = {(2, 1): [], (1, 2): []}
            for _ in range(repeats):
                for (processes, threads), values in rates.items():
                    values.append(
                        throughput(
                            subject,
                            name,
                            channels_last=last,
                            processes=processes,
                            threads=threads,
                            seconds=seconds,
                            batch=batch,
                        )
                    )
            found.append(
                {
                    "name": name,
                    "format": "channels_last" if last else "contiguous",
                    "two_processes": sorted(rates[2, 1]),
                    "two_threads": sorted(rates[1, 2]),
                }
            )
    return found
