"""Penalties on several processes: what torchrun started came to the gradients of one process, or was refused."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases_for_tests import Equal
from parallel_for_tests import (
    ENGINES,
    PARTS,
    PRESETS,
    RANDOM,
    SETTINGS,
    TRAININGS,
    WITHOUT_JACOBIAN,
    Net,
    Setting,
    gradient,
    steps,
    total,
)
from torch import Tensor

import gradreg as gr

TESTS = Path(__file__).parent
WHOLE = slice(0, 8)
CELLS = [(name, engine) for name in SETTINGS for engine in ENGINES]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each of two processes found, in one start for all tests."""
    folder = tmp_path_factory.mktemp("parallel")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(TESTS / "parallel_for_tests.py"), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in (0, 1)]


def of_parts(setting: Setting, penalties: list[gr.Penalty]) -> Tensor:
    """The gradient of one process that takes the parts in turn, each with its process's generator."""
    net = setting.net()
    for rank, part in enumerate(setting.parts):
        ((part.stop - part.start) / 8 * total(net, part, penalties, rank)).backward()
    return gradient(net)


def of_batch(setting: Setting, penalties: list[gr.Penalty]) -> Tensor:
    """The gradient of one process that takes the whole batch at once."""
    net = setting.net()
    total(net, WHOLE, penalties, 0).backward()
    return gradient(net)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("name", "engine"), CELLS)
def test_cell(results: list[dict[Any, Any]], name: str, engine: str) -> None:
    setting = SETTINGS[name]
    outcome, bound = setting.outcomes[list(ENGINES).index(engine)], 1e-10 if engine == "FiniteDifference" else 1e-13
    for preset in setting.presets:
        for found in (ranks[name, preset, engine] for ranks in results):
            if isinstance(outcome, Equal):
                assert isinstance(found, Tensor), found
                penalties = PRESETS[preset](ENGINES[engine])
                assert distance(found, of_parts(setting, penalties)) < bound
                if preset not in RANDOM and not setting.normalized:
                    assert distance(found, of_batch(setting, penalties)) < bound
            else:
                assert isinstance(found, str), "no error"
                assert outcome.cause in found
                assert outcome.remedy in found.partition(outcome.cause)[2]


def test_penalties_without_a_jacobian_work_with_a_static_graph(results: list[dict[Any, Any]]) -> None:
    expected = of_batch(SETTINGS["DistributedDataParallel"], WITHOUT_JACOBIAN)
    assert all(distance(found["without a Jacobian"], expected) < 1e-13 for found in results)


def test_gradients_accumulated_without_an_exchange_are_those_of_the_batch(results: list[dict[Any, Any]]) -> None:
    net = Net()
    total(net, WHOLE, [gr.FrobReg(0.1)], 0).backward()
    expected = gradient(net)
    assert all(distance(found["accumulated"], expected) < 1e-13 for found in results)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_on_two_processes_is_that_of_one(results: list[dict[Any, Any]], name: str) -> None:
    _, engine = TRAININGS[name]
    expected = steps(Net(), list(enumerate(PARTS)), engine)
    assert all(distance(found[name, "trained"], expected) < 1e-12 for found in results)
