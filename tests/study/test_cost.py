"""Step times: one for each method, and a machine left as it was found. How long they are is not tested."""

from dataclasses import replace

import pytest
import torch

from gradreg.study.config import SETTINGS, StudyError
from gradreg.study.cost import step_costs

RUNS = {
    m.name: SETTINGS["digits"].run(((m.label, m.grid[0]),), 0, "validation") for m in SETTINGS["digits"].methods[1:]
}


@pytest.fixture(autouse=True)
def _two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_every_method_gets_a_positive_time_and_the_threads_are_put_back() -> None:
    found = step_costs(RUNS, repeats=2)
    assert list(found) == list(RUNS)
    assert all(seconds > 0 for seconds in found.values())
    assert torch.get_num_threads() == 2


def test_threads_are_put_back_after_an_error() -> None:
    with pytest.raises(StudyError, match="no data set"):
        step_costs({"baseline": replace(RUNS["spectreg"], data="letters")})
    assert torch.get_num_threads() == 2
