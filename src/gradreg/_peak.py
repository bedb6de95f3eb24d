"""What a step takes: how much memory on top of what lives before it, and a clock for its time."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most bytes that live at once during a call, beyond those that lived before it.

    On the CPU these are counted, not sampled: torch's profiler records each allocation and release of its allocator,
    and the largest running sum is the peak of the tensors that live. The same step gives the same number each time,
    which the resident size of a process does not: the C library keeps what was freed. Scratch space that oneDNN and
    BLAS take past torch's allocator is not seen. On CUDA, `torch.cuda.max_memory_allocated` counts the same.

    Args:
        step: called once; call it before, so that what is made once (an optimizer's state) does not count.
        device: where it works.

    Example:
        >>> x = torch.zeros(1000)
        >>> peak_bytes(lambda: (x + 1).sum(), torch.device("cpu")) >= 4000
        True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _quiet(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        step()
    results: Any = getattr(profile, "kineto_results", None)  # not in torch's types
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock in seconds; on a device that works on its own, one that waits for it first."""
    if device.type != "cuda":
        return time.perf_counter

    def waiting() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return waiting


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the profiler's library itself writes to standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
