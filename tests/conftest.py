"""Shared setup of the tests: one thread per process, a fixed seed before each test."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
# In the background of a script SIGINT is ignored, and would be by the commands that tests press Ctrl-C on.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _collected() -> None:
    """Leaves out what modules and tests before made, where Python looks for garbage, which each run does once."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _apart() -> Iterator[None]:
    """Frameworks leave ranks in the environment, and accelerate what it made of them, for whoever comes next."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)
    if (state := sys.modules.get("accelerate.state")) is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
