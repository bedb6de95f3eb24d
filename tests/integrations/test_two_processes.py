"""The Hugging Face Trainer, Fabric and accelerate on two processes: the plain loop of one that sees both parts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from two_processes_for_tests import RATE, STEPS, X, Y, bert, net, part, penalties

import gradreg as gr

SCRIPT = Path(__file__).parents[1] / "two_processes_for_tests.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process has come to, in one start for all tests."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT, folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def loss(outputs: Any, y: Tensor, reduction: str = "mean") -> Tensor:
    return cross_entropy(outputs if isinstance(outputs, Tensor) else outputs.logits, y, reduction=reduction)


def plain_loop(model: nn.Module, site: str, batches: list[tuple[Any, Tensor]], scale: float = 1.0) -> list[Tensor]:
    """SGD written out; the gradient of the task times ``scale``, the penalties' as they are."""
    objective = gr.Objective(loss, *penalties(site))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for x, y in batches:
        optimizer.zero_grad()
        result = objective(model, x, y)
        (scale * result.task + sum(result.terms.values())).backward()
        optimizer.step()
    return list(model.parameters())


def check(found: list[dict[str, Any]], name: str, expected: list[Tensor]) -> None:
    # A module that Fabric set up returns its outputs in float32, whatever its own precision.
    tolerance = 1e-7 if name == "Fabric" else 1e-12
    for process in found:
        for one, other in zip(process[name]["parameters"], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["accelerate", "Fabric", "Fabric, the whole step"])
def test_training_is_the_plain_loop_of_whole_batches(found: list[dict[str, Any]], name: str) -> None:
    batches = [
        (torch.cat([X[part(step, rank)] for rank in (0, 1)]), torch.cat([Y[part(step, rank)] for rank in (0, 1)]))
        for step in range(STEPS)
    ]
    check(found, name, plain_loop(net(), "1", batches))


# By default the Trainer multiplies the loss by the number of processes, for models that divide it by the number of
# items in all of them; BERT's classifier takes that number and ignores it. The penalties are means either way.
@pytest.mark.parametrize(("name", "scale"), [("Trainer", 1.0), ("Trainer, its default", 2.0)])
def test_the_trainer_is_the_plain_loop_of_whole_batches(found: list[dict[str, Any]], name: str, scale: float) -> None:
    one, other = (process[name]["batches"] for process in found)
    assert len(one) == len(other) == STEPS
    assert not torch.equal(one[0]["input_ids"], other[0]["input_ids"])
    batches = [
        (gr.Args(input_ids=torch.cat([a["input_ids"], b["input_ids"]])), torch.cat([a["labels"], b["labels"]]))
        for a, b in zip(one, other, strict=True)
    ]
    check(found, name, plain_loop(bert(), "bert.embeddings", batches, scale))
