"""Table 5: the paper's numbers and setting, top-1 and top-5 of the same runs, and that the smallest scale runs."""

from pathlib import Path

import pytest
import torch
from sweeps_for_tests import Here

from gradreg.data.dataset import Dataset
from gradreg.data.loaders import LOADERS
from gradreg.studies._paper import Asked
from gradreg.studies._tinyimagenet import SUB100, WEIGHTS, WHOLE, run, table5_arms
from gradreg.study import report
from gradreg.study.collect import collect
from gradreg.study.config import Optimizer, Protocol, Schedule, Split
from gradreg.study.files import load_study
from gradreg.study.grid import Grid, Reported
from gradreg.study.store import Store
from gradreg.study.sweep import Sweep
from gradreg.study.train import dataset


def noise() -> Dataset:
    """Noise that has the form of TinyImageNet."""
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (1150, 3, 64, 64), generator=g).byte()
    y = torch.arange(len(x)) % 200
    return Dataset("tinyimagenet", x[150:], y[150:], tuple(map(str, range(200))), x[:150], y[:150])


def test_table_5_has_the_papers_rows() -> None:
    arms = table5_arms(Asked(), WHOLE)
    assert [(arm.group, arm.name, arm.top, arm.reported) for arm in arms] == [
        ("top-1", "Baseline", 1, Reported(44.62, 0.58)),
        ("top-1", "SpectReg", 1, Reported(50.76, 0.59)),
        ("top-1", "SpectReg, as printed", 1, None),
        ("top-5", "Baseline", 5, Reported(70.20, 0.58)),
        ("top-5", "SpectReg", 5, Reported(75.93, 0.40)),
        ("top-5", "SpectReg, as printed", 5, None),
    ]
    assert [arm.run for arm in arms[:3]] == [arm.run for arm in arms[3:]]  # the same runs, done once
    assert arms[1].search == arms[4].search == Grid((("weight", WEIGHTS),))
    assert arms[2].run.penalties[0].weight == 20000


def test_the_papers_setting_is_that_of_its_appendix() -> None:
    given = run(Asked(), WHOLE)
    assert given.model.name == "resnet18"
    assert given.split == Split(90000, 10000, 0, balanced=False)
    assert given.optimizer == Optimizer(0.001, "adam", weight_decay=0.0001)
    assert given.schedule == Schedule(105469, 64, (1 / 3, 2 / 3), 0.1)
    assert 75 <= given.schedule.steps * 64 / 90000 < 75.001
    assert given.protocol == Protocol(norm_points=100, top_k=5)
    sub = run(Asked(), SUB100)
    assert sub.split == Split(16000, 4000, 0, balanced=False)
    assert sub.schedule.steps == 18750


@pytest.mark.parametrize("name", ["table5", "table5_sub100"])
@pytest.mark.parametrize("scale", ["paper", "quick", "smoke"])
def test_each_scale_is_a_study_of_its_own(tmp_path: Path, name: str, scale: str) -> None:
    loaded = load_study(name, Store(tmp_path), scale=scale)
    assert loaded.study.name == (name if scale == "paper" else f"{name}-{scale}")
    data = {arm.run.data.name for arm in loaded.study.arms}
    assert data == {"tinyimagenet" if name == "table5" else "tinyimagenet-sub100"}
    assert any("validation set of 10000 is the test set" in note for note in loaded.notes)


def test_the_smallest_scale_runs_and_compares_top_5_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradreg.studies.table5 import study

    dataset.cache_clear()
    monkeypatch.setitem(LOADERS, "tinyimagenet", noise)
    small, store, executor = study(scale="smoke"), Store(tmp_path), Here()
    Sweep(small, store, seconds={}).go(executor)
    dataset.cache_clear()
    assert len(executor.given) == len(set(executor.given)) == 1 + 3 * 2  # a search of one weight, and the final runs
    summary = collect(small, store, command="gradreg run table5 --scale smoke")
    for one, five in zip(*(group.rows for group in summary.groups), strict=True):
        assert one.runs == five.runs
        for done, top1, top5 in zip(one.runs, one.points, five.points, strict=True):
            result = store.result(done)
            assert result is not None
            assert (top1, top5) == (result["test_accuracy"], result["test_top5_accuracy"])
    text = report.markdown(summary)
    assert "44.62 (0.58)" in text
    assert "75.93 (0.40)" in text
