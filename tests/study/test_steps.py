"""Steps that are timed: what a step does, which failed, and the ratios. How long they take is not tested."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg._timing import in_turn
from gradreg.study import steps as module
from gradreg.study.steps import (
    PLAIN,
    Configuration,
    TrainingStep,
    accepts,
    four_dimensional,
    labels_for,
    measure,
    moved,
    outputs_of,
    penalized,
    plain,
)

LOSS = plain(cross_entropy)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, 4, 4), torch.randint(5, (6,))


def broken(model: nn.Module, x: Any, y: Any) -> Tensor:
    raise RuntimeError("no derivative\nlong explanation")


def test_a_step_trains_a_copy_and_leaves_no_gradients() -> None:
    model, (x, y) = net().eval(), batch()
    before = copy.deepcopy(model.state_dict())
    step = TrainingStep(model, x, y, LOSS)
    step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert step.model.training
    assert all(p.grad is None for p in step.model.parameters())
    changed = step.model.state_dict()
    assert not any(torch.equal(value, before[key]) for key, value in changed.items())


def test_a_plain_step_is_the_loss_and_adam() -> None:
    model, (x, y) = net(), batch()
    step = TrainingStep(model, x, y, LOSS)
    step()
    expected = copy.deepcopy(model)
    optimizer = torch.optim.Adam(expected.parameters(), lr=1e-5)
    cross_entropy(expected(x), y).backward()
    optimizer.step()
    for found, p in zip(step.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, p)


def test_channels_last_is_the_format_of_weights_and_inputs() -> None:
    x, y = batch()
    step = TrainingStep(net(), x, y, LOSS, channels_last=True)
    weight = step.model.get_parameter("0.weight")
    for tensor in (step.x, weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()
    assert torch.equal(step.x, x)


def test_bf16_runs_the_model_under_autocast() -> None:
    seen = []

    def total(model: nn.Module, x: Any, y: Any) -> Tensor:
        z = model(x)
        seen.append(z.dtype)
        return cross_entropy(z, y)

    for bf16 in (False, True):
        TrainingStep(net(), *batch(), total, bf16=bf16)()
    assert seen == [torch.float32, torch.bfloat16]


def test_models_of_several_arguments_are_called_with_them() -> None:
    model = nn.Bilinear(2, 3, 4)
    x = gr.Args(torch.randn(5, 2), torch.randn(5, 3))
    found = measure(
        model,
        x,
        torch.randint(4, (5,)),
        [Configuration(PLAIN, LOSS), Configuration("SpectReg", penalized(cross_entropy, gr.SpectReg(0.1)), 2.0)],
        repeats=1,
        warm=0,
    )
    assert [row.name for row in found.rows] == [PLAIN, "SpectReg"]
    assert outputs_of(model, x).shape == (5, 4)


def test_failures_are_kept_with_their_first_line_and_the_others_go_on() -> None:
    found = measure(net(), *batch(), [Configuration("bad", broken), Configuration(PLAIN, LOSS)], repeats=1, warm=0)
    assert [row.name for row in found.rows] == [PLAIN]
    assert found.failed == {("bad", "contiguous"): "RuntimeError: no derivative"}


def test_without_a_plain_step_nothing_is_measured() -> None:
    with pytest.raises(RuntimeError, match="no derivative"):
        measure(net(), *batch(), [Configuration(PLAIN, broken), Configuration("other", LOSS)], repeats=1)
    with pytest.raises(ValueError, match=r"^measure got no configuration named 'plain'; expected one to compare with"):
        measure(net(), *batch(), [Configuration("other", LOSS)], repeats=1)


def test_ratios_are_to_the_plain_step_of_the_format_and_to_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "plain, contiguous": [4.0],
        "plain, channels_last": [2.0],
        "SpectReg, contiguous": [6.0],
        "SpectReg, channels_last": [8.0],
    }
    seen: list[dict[str, int]] = []

    def known(steps: Any, repeats: int, *, periods: dict[str, int], **more: Any) -> dict[str, list[float]]:
        seen.append(periods)
        assert list(in_turn(steps, 1, warm=0)) == list(steps)
        return {key: made[key] for key in steps}

    monkeypatch.setattr(module, "in_turn", known)
    spectreg = penalized(cross_entropy, gr.SpectReg(0.1))
    configurations = [
        Configuration(name, total, floor, last, period)
        for last in (False, True)
        for name, total, floor, period in ((PLAIN, LOSS, 1.0, 1), ("SpectReg", spectreg, 2.0, 3))
    ]
    found = measure(net(), *batch(), configurations, repeats=1, memory=True).rows
    assert [(row.name, row.format) for row in found] == [(c.name, c.format) for c in configurations]
    assert [row.ratio for row in found] == [1.0, 1.5, 1.0, 4.0]
    assert [row.to_fastest for row in found] == [2.0, 3.0, 1.0, 4.0]
    assert [row.least for row in found] == [2.0, 3.0, 1.0, 4.0]
    assert [row.to_floor for row in found] == [2.0, 1.5, 1.0, 2.0]
    assert found[3].record()["to_floor"] == 2.0
    assert seen == [{key: 3 if key.startswith("Spect") else 1 for key in made}]
    assert found[0].memory == found[2].memory == 1.0
    for row in found:
        assert row.memory is not None
        assert row.peak_bytes is not None
    assert all(found[i].memory > 1 for i in (1, 3))  # type: ignore[operator]


def test_options_of_presets_are_found() -> None:
    assert accepts(gr.SpectReg, "samples")
    assert not accepts(gr.SpectReg, "colour")


def test_labels_are_classes_for_each_example_and_position() -> None:
    y = labels_for(torch.zeros(50, 3, 4, 2))
    assert y.shape == (50, 4, 2)
    assert set(y.flatten().tolist()) == {0, 1, 2}


def test_trees_are_moved_and_images_known() -> None:
    x, y = moved((torch.zeros(2), {"mask": torch.ones(3)}), "meta")
    assert x.device.type == y["mask"].device.type == "meta"
    assert four_dimensional(torch.zeros(2, 3, 4, 4))
    assert not four_dimensional(torch.zeros(2, 3))
    assert not four_dimensional(gr.Args(torch.zeros(2, 3, 4, 4)))
