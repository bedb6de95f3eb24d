"""What torchrun starts in tests of several processes: trains runs one after the other, each process keeps what it got.

torchrun --nproc-per-node 2 tests/distributed_for_tests.py CASES OUT
"""

import os
import pickle
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from gradreg.data.dataset import Dataset
from gradreg.study.config import Run, StudyError
from gradreg.study.distributed import joined, rank_and_world, train_distributed
from gradreg.study.train import StoppedError, Watch, dataset
from gradreg.study.work import stop_on_sigterm


@dataclass
class Case:
    """A run, with the checkpoint to start from and the process that asks to stop, or dies, after so many steps."""

    run: Run
    start: bytes | None = None
    stopping_rank: int | None = None
    dying_rank: int | None = None
    after: int = 0


@dataclass
class Outcome:
    """What a process got."""

    result: dict[str, Any] | None = None
    state: dict[str, torch.Tensor] | None = None
    checkpoints: list[bytes] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""

    def note(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def beat(self, step: int, steps: int) -> None:
        pass

    def save_checkpoint(self, content: bytes) -> None:
        self.checkpoints.append(content)


def data_of(run: Run) -> Dataset:
    """The digits, or random images of LeNet-5's size."""
    if run.data.name != "noise":
        return dataset(run.data.name)
    g = Generator().manual_seed(5)
    return Dataset("noise", torch.rand(300, 1, 28, 28, generator=g), torch.arange(300) % 10, tuple("0123456789"))


def train_case(case: Case, rank: int) -> Outcome:
    """Trains it, with whatever number of processes there is."""
    outcome, asked = Outcome(), 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        if rank == case.dying_rank and asked > case.after:
            os._exit(7)
        return rank == case.stopping_rank and asked > case.after

    start = case.start if rank == 0 else None
    try:
        found, training = train_distributed(case.run, data_of(case.run), start=start, watch=Watch(outcome, stop=stop))
        outcome.result, outcome.state = found, training.model.state_dict()
    except (StudyError, StoppedError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


def main() -> None:
    cases: dict[str, Case] = pickle.loads(Path(sys.argv[1]).read_bytes())
    warnings.simplefilter("error")
    stop_on_sigterm()  # torchrun sends it as soon as one process is gone, as workers get it
    rank, _ = rank_and_world()
    first = list(cases)[:2]  # which join and leave by themselves
    found = {name: train_case(cases[name], rank) for name in first}
    with joined():
        found |= {name: train_case(case, rank) for name, case in cases.items() if name not in first}
    (Path(sys.argv[2]) / f"{rank}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    # Pickled by this module's importable name, not as __main__.
    from distributed_for_tests import main as imported

    imported()
