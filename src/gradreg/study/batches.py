"""Which examples each step is given, drawn from the run's seed; labelled and unlabelled ones by themselves."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from gradreg import _random
from gradreg.data.splits import Split
from gradreg.study.config import Run


def batches(size: int, run: Run) -> Iterator[Tensor]:
    """Positions of each step's labelled examples, until the run's last step.

    Args:
        size: how many there are.
        run: whose seed and batch size.
    """
    return islice(_passes(size, run.schedule.batch_size, run.seed, "batches"), run.steps)


class Unlabelled:
    """The unlabelled inputs of a run, a batch for each step.

    Args:
        run: whose seed and batch size.
        parts: its points.
        device: where batches go.
    """

    def __init__(self, run: Run, parts: Split, device: torch.device):
        self.run = run
        self.x = None if parts.unlabelled_x is None else parts.unlabelled_x.to(device)
        self.start(0)

    def start(self, step: int) -> None:
        """Goes to a step."""
        schedule = self.run.schedule
        if self.x is not None:
            size = schedule.unlabelled_batch or min(schedule.batch_size, len(self.x))
            self._chosen = islice(_passes(len(self.x), size, self.run.seed, "unlabelled batches"), step, None)

    def take(self) -> Tensor | None:
        """The batch of the next step; None without unlabelled inputs."""
        return None if self.x is None else self.x[next(self._chosen).to(self.x.device)]


def _passes(size: int, batch_size: int, seed: int, purpose: str) -> Iterator[Tensor]:
    """Shuffled passes over the data, joined end to end, without end."""
    generator = _random.generator_for(seed, purpose)
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        while len(queue) < batch_size:
            queue = torch.cat([queue, torch.randperm(size, generator=generator)])
        yield queue[:batch_size]
        queue = queue[batch_size:]
