"""The measures of final runs: those of gradreg.metrics on the network that is kept, and none of tuning runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs_for_tests import BASELINE, SIN, numbers
from torch import nn

import gradreg as gr
from gradreg import metrics
from gradreg._random import generator_for
from gradreg.models import SmallCNN
from gradreg.study.config import Run
from gradreg.study.grid import put, tuning_run
from gradreg.study.profile import MEASURES, NOISE, RADIUS, SEED, meaning, profile
from gradreg.study.store import Store
from gradreg.study.train import dataset, divide, train
from gradreg.study.trained import load
from gradreg.study.work import Task, work

RUN = put(BASELINE, {"schedule.steps": 20, "protocol.profile_points": 60, "protocol.norm_points": 30})
KEYS = {measure.key for measure in MEASURES}


def expected(run: Run, network: nn.Module) -> dict[str, float]:
    """Each measure by gradreg.metrics itself, by the Jacobian where there is a closed form."""
    test = divide(run, dataset(run.data.name))
    assert test.test_x is not None
    assert test.test_y is not None
    x, y = test.test_x[:60], test.test_y[:60]
    z = metrics.predictions(network, x)
    jacobians = gr.dense.jacobian(network, x[:30]).flatten(2)
    attacks = {
        "noise": metrics.GaussianNoise(NOISE),
        "FGSM": metrics.FGSM(RADIUS),
        "PGD": metrics.PGD(RADIUS, steps=10),
    }
    robust = {
        f"{name.lower()}_accuracy": metrics.robust_accuracy(
            network, x, y, attack, generator=generator_for(SEED, name), chunk=256
        )
        for name, attack in attacks.items()
    }
    return {
        "calibration_error": metrics.expected_calibration_error(z, y),
        "negative_log_likelihood": float(nn.functional.cross_entropy(z, y)),
        "spectral_norm": float(torch.linalg.matrix_norm(jacobians, 2).mean()),
        "input_margin": float(metrics.input_margins(network, x, y).median()),
        **robust,
    }


def test_kept_result_holds_the_measures_of_the_kept_network(tmp_path: Path) -> None:
    assert work(Task(RUN, tmp_path)).state == "done"
    files = Store(tmp_path).files(RUN)
    result = json.loads((files.folder / "result.json").read_text())
    own = expected(RUN, load(files.folder / "model.pt").network)
    assert set(own) == KEYS
    assert {name: result[name] for name in own} == pytest.approx(own, rel=1e-4)
    assert result["fgsm_accuracy"] < result["test_accuracy"]
    assert result["spectral_norm"] < result["jacobian_norm"]


def test_other_numbers_are_those_without_measures_and_keys_too() -> None:
    plain = put(RUN, {"protocol.profile_points": 0})
    with_measures, without = (numbers(train(run, dataset("digits"))[0]) for run in (RUN, plain))
    assert {name: value for name, value in with_measures.items() if name not in KEYS} == without
    assert not KEYS & set(without)
    assert plain.key == put(BASELINE, {"schedule.steps": 20, "protocol.norm_points": 30}).key != RUN.key


def test_tuning_runs_take_none_and_keep_their_keys() -> None:
    tuning = tuning_run(RUN, (), 0)
    assert tuning == tuning_run(put(RUN, {"protocol.profile_points": 0}), (), 0)
    assert not KEYS & set(train(tuning, dataset("digits"))[0])


def test_regression_takes_none() -> None:
    assert not KEYS & set(train(put(SIN, {"schedule.steps": 2}), dataset("sin"))[0])


class Constant(nn.Module):
    """Scores that do not move with the input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0 * x[:, :3] + torch.tensor([1.0, 0.0, 0.0])


def test_what_is_not_finite_is_none() -> None:
    found: dict[str, Any] = profile(Constant(), torch.randn(8, 5), torch.zeros(8, dtype=torch.int64), norm_points=4)
    assert found["input_margin"] is None
    assert (found["spectral_norm"], found["pgd_accuracy"]) == (0.0, 100.0)
    assert set(found) == KEYS


def test_derivatives_of_a_network_that_couples_examples_are_none() -> None:
    x, y = torch.randn(30, 1, 8, 8), torch.arange(30) % 10
    coupled, own = (profile(SmallCNN(regularization=r), x, y, norm_points=4) for r in ("batch-statistics", "batchnorm"))
    assert [name for name, value in coupled.items() if value is None] == ["spectral_norm", "input_margin"]
    assert None not in own.values()


def test_measures_in_words_and_as_cells() -> None:
    error, margin = MEASURES[0], next(m for m in MEASURES if m.key == "input_margin")
    assert (error.header, error.better, error.cell([0.05, 0.07], 2)) == ("ECE, %", "lower", "6.0 (1.4)")
    assert (margin.header, margin.better, margin.cell([1.25, None, 1.75], 3)) == (
        "margin, input",
        "higher",
        "1.50 (0.35) n=2",
    )
    assert (error.cell([0.05], 1), error.cell([None, None], 2), error.over([None])) == ("5.0", "-", None)
    assert all(f"{measure.name}: {measure.meaning}" in meaning(MEASURES) for measure in MEASURES)
