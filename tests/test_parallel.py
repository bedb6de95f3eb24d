"""Penalties on several processes: what torchrun started came to the gradients of one process, or was refused."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
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
    data,
    fully_sharded,
    gradient,
    steps,
    total,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import gradreg as gr


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of processes that is this one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def step_of_sam(model: nn.Module) -> None:
    gr.SAM(gr.Objective(cross_entropy), model)(*data())


@pytest.mark.usefixtures("alone")
def test_sam_and_layerwise_penalties_refuse_models_whose_gradients_backward_alone_has() -> None:
    with pytest.raises(ValueError, match=r"static_graph=True\) does not average gradients.*or SAM, has differentiated"):
        step_of_sam(DistributedDataParallel(Net(), static_graph=True))
    with pytest.raises(TypeError, match=r"^SAM got a model sharded by FSDP.*Use plain DistributedDataParallel\.$"):
        step_of_sam(fully_sharded(Net(), 1))
    with pytest.raises(gr.UnsupportedOperationError, match=r"^fully_shard \(FSDP\) frees the parameters"):
        gr.LayerwiseFrobenius(1.0)(fully_sharded(Net(), 1), data()[0])
    step_of_sam(DistributedDataParallel(Net()))


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
