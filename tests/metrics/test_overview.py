"""The table of all measures: each number is that of its own measure."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from models_for_tests import batch, build
from torch import Tensor

import gradreg as gr
from gradreg import metrics
from gradreg._random import generator_for


def points() -> tuple[Tensor, Tensor]:
    return batch(9)


def test_every_number_is_that_of_its_own_measure() -> None:
    model, (x, y) = build("lenet"), points()
    train_x = x.flip(3)[:5]
    attacks = [metrics.FGSM(0.3), metrics.PGD(0.7, "l2", steps=3)]
    found = metrics.profile(model, x, y, train_x=train_x, attacks=attacks, chunk=4)
    z = model(x).detach()
    assert found.points == 9
    assert found.accuracy == metrics.accuracy(z, y)
    assert found.negative_log_likelihood == pytest.approx(metrics.negative_log_likelihood(z, y))
    assert found.calibration_error == pytest.approx(metrics.expected_calibration_error(z, y))
    assert found.logit_margin == pytest.approx(metrics.logit_margins(z, y).median().item())
    assert found.input_margin == pytest.approx(metrics.input_margins(model, x, y).median().item())
    pairs = metrics.neighbours(train_x)
    assert found.segments_ratio == pytest.approx(metrics.segments(model, train_x, pairs).ratio)
    assert found.robust[attacks[0]] == metrics.robust_accuracy(model, x, y, attacks[0])
    assert list(found.norms) == ["test", "train", "interpolated", "noise"]
    between = metrics.interpolated(train_x, generator=generator_for(0, "interpolated"))
    for place, where in (("test", x), ("train", train_x), ("interpolated", between)):
        for kind, target in (("logits", gr.Logits()), ("probabilities", gr.Probabilities())):
            full = gr.dense.jacobian(model, where, target=target)
            assert getattr(found.norms[place], kind) == pytest.approx(full.norm(dim=(1, 2)).mean().item())
            spectral = torch.linalg.svdvals(full)[:, 0].mean().item()
            assert getattr(found.norms[place], f"{kind}_spectral") == pytest.approx(spectral)


def test_the_same_seed_measures_the_same_and_text_names_everything() -> None:
    model, (x, y) = build("mlp"), points()
    state = torch.get_rng_state()
    first, again, other = (metrics.profile(model, x, y, seed=seed) for seed in (0, 0, 1))
    assert str(first) == str(again) != str(other)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(first.norms) == ["test", "interpolated", "noise"]
    lines = str(first).splitlines()
    assert lines[0].strip() == "9 test points"
    starts = [
        "accuracy, %",
        "negative log-likelihood",
        "expected calibration error",
        "median margin of the logits",
        "median margin in the input",
        "slope between neighbours / at points",
        "accuracy, noise 0.3, %",
        "accuracy, FGSM linf 0.1, %",
        "accuracy, PGD linf 0.1 (10 steps), %",
        "accuracy, PGD l2 0.4 (10 steps), %",
        " ",
        "mean norms of J, test",
        "mean norms of J, interpolated",
        "mean norms of J, noise",
    ]
    assert len(lines) == len(starts) + 1
    for line, start in zip(lines[1:], starts, strict=True):
        assert line.startswith(start)
    assert f"{first.norms['test'].logits:.4g}" in lines[-3]
    assert lines[11].split() == ["||J_g||_F", "||J_g||_2", "||J_f||_F", "||J_f||_2"]


def test_profiles_are_the_same_in_every_context() -> None:
    model, (x, y) = build("mlp").train(), points()
    outside = str(metrics.profile(model, x, y))
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert str(metrics.profile(model, x, y)) == outside
    assert model.training


def test_bad_input_is_refused() -> None:
    model, (x, y) = build("mlp"), points()
    with pytest.raises(ValueError, match="labels of shape"):
        metrics.profile(model, x, y[:, None])
    with pytest.raises(TypeError, match=r"attacks got 0\.1; expected a gradreg Attack, as in attacks=\[gr"):
        metrics.profile(model, x, y, attacks=[0.1])  # type: ignore[list-item]

    @dataclass
    class Shift(metrics.Attack):
        bounds: tuple[float, float] | None = None

        def moved(self, model: Any, x: Tensor, y: Tensor, generator: Any) -> Tensor:
            return x + 1

    with pytest.raises(
        TypeError, match=r"Shift\(bounds=None\), which is not hashable.*frozen=True\) above the class Shift"
    ):
        metrics.profile(model, x, y, attacks=[Shift()])
    with pytest.raises(ValueError, match="got one point"):
        metrics.profile(model, x[:1], y[:1])
