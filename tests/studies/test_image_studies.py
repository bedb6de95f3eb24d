"""The settings of `gradreg compare` on published images: their data, and methods that cost the same for any classes."""

from pathlib import Path

import pytest

from gradreg.commands.compare import BUILT_IN, Compare, _built_in
from gradreg.data.known import KNOWN, NOTES
from gradreg.study.files import load_study
from gradreg.study.store import Store

# Those to classify, with a setting of their own for `gradreg compare`.
COMPARED = [name for name in KNOWN if not name.startswith("sin")]
IMAGES = [name for name in COMPARED if name not in ("digits", "mnist")]


def test_every_built_in_data_set_can_be_compared_on() -> None:
    assert list(BUILT_IN) == COMPARED


@pytest.mark.parametrize("name", IMAGES)
def test_the_setting_of_a_data_set(tmp_path: Path, name: str) -> None:
    loaded = _built_in(Compare(data=name))
    assert [arm.name for arm in loaded.study.arms] == ["Baseline", "DoubleBack", "SpectReg", "ConfidencePenalty"]
    for arm in loaded.study.arms:
        assert arm.run.data.name == name
        assert arm.run.model.name == "convnet"
        assert arm.run.split.balanced
        assert (arm.search is None) == (arm.name == "Baseline")
    assert loaded.study.name == loaded.study.title == name
    assert loaded.notes == ((NOTES[name],) if name in NOTES else ())
    assert load_study(name.replace("-", "_"), Store(tmp_path)).study.arms == loaded.study.arms


def test_exact_penalties_are_there_for_who_asks_and_options_are_put_in() -> None:
    loaded = _built_in(Compare(data="cifar100", methods=("frobreg=0.01", "jacreg"), train_size=500, steps=7, seeds=2))
    baseline, frobreg, jacreg = loaded.study.arms
    assert [str(p) for p in frobreg.run.penalties] == ["FrobReg(0.01)"]
    assert jacreg.search is not None
    assert (baseline.run.split.train_size, baseline.run.schedule.steps, loaded.study.seeds) == (500, 7, 2)


@pytest.mark.parametrize("name", IMAGES)
def test_there_are_enough_images_for_the_setting(name: str) -> None:
    """By the sizes as published: as many of each class as are asked for, beside the validation points."""
    run = BUILT_IN[name].RUN
    classes, each = {
        "cifar10": (10, 5000),
        "cifar10-jpeg": (10, 5000),
        "cifar100": (100, 500),
        "tinyimagenet": (200, 500),
        "tinyimagenet-sub100": (200, 100),
    }[name]
    left = each - run.split.validation_size / classes
    # How many of a class are held out is hypergeometric: five times a deviation that is more than its own.
    spread = (run.split.validation_size / classes) ** 0.5
    assert run.split.train_size / classes <= left - 5 * spread
