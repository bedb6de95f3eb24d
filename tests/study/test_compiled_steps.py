"""Runs by themselves on a GPU take compiled steps; what comes out is that of ordinary ones, to rounding."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from runs_for_tests import SIN, SPECTREG

import gradreg as gr
from gradreg.study import compiled_steps, train
from gradreg.study.compiled_steps import WORTH_IT, compiled_step
from gradreg.study.config import Penalty, Run
from gradreg.study.grid import put

MODEL = torch.nn.Linear(2, 2)
OBJECTIVE = gr.Objective(torch.nn.functional.cross_entropy)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")


def of(steps: int, run: Run = SPECTREG) -> Run:
    return put(run, {"schedule.steps": steps, "protocol.measure": "validation"})


@pytest.mark.parametrize(
    ("run", "device", "compiled"),
    [
        (of(WORTH_IT), "cuda", True),
        (of(WORTH_IT), "cpu", False),
        (of(WORTH_IT - 1), "cuda", False),
        (replace(of(WORTH_IT, SIN), loss_factor=25.0), "cuda", False),
        (put(of(WORTH_IT), {"technique.sam": 0.05}), "cuda", False),
        (replace(of(WORTH_IT), penalties=(Penalty("SpectReg", 0.1, (("ramp", 100),)),)), "cuda", False),
    ],
)
def test_long_runs_of_classifiers_on_a_gpu_are_compiled(
    run: Run, device: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not compiled)  # of the run before
    step = compiled_step(run, OBJECTIVE, MODEL, torch.device(device))
    assert isinstance(step, gr.CompiledObjective) == compiled
    assert torch.backends.cudnn.benchmark == compiled


def test_traced_steps_give_the_run_of_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a checkpoint."""
    run, data = of(60), train.dataset("digits")
    expected, ordinary = train.train(run, data)
    made: list[gr.CompiledObjective] = []

    def traced(run: Run, objective: gr.Objective, model: torch.nn.Module, device: Any) -> gr.CompiledObjective:
        made.append(gr.CompiledObjective(objective, model, backend="eager", fallback=False))
        return made[-1]

    monkeypatch.setattr(train, "compiled_step", traced)
    half = train.Training(run, train.divide(run, data), data.outputs)
    for chosen in list(train.batches(len(half.y), run))[:25]:
        half.advance(chosen)
    for start in (None, half.state()):
        found, training = train.train(run, data, start=start)
        assert made[-1]._traced  # the steps were those of a graph
        assert found["validation_accuracy"] == pytest.approx(expected["validation_accuracy"], abs=0.6)
        for one, other in zip(ordinary.model.parameters(), training.model.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@GPU
def test_compiled_run_on_a_gpu_is_the_ordinary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding, which Adam magnifies, over a few steps; cuDNN may round to TF32."""
    run, data = of(40), train.dataset("digits")
    expected, _ = train.train(run, data, device="cuda")
    monkeypatch.setattr(compiled_steps, "WORTH_IT", 1)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    found, training = train.train(run, data, device="cuda")
    assert training.compiled is not None
    assert training.compiled._traced
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=0.05)
    assert found["validation_accuracy"] == pytest.approx(expected["validation_accuracy"], abs=2)
