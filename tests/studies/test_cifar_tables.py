"""Table 4, and the rows of table 1 on CIFAR: the paper's numbers and settings, and that the smallest scale runs."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from sweeps_for_tests import Here

from gradreg.data.dataset import Dataset
from gradreg.data.loaders import LOADERS
from gradreg.studies import table1_cifar, table1_jpeg, table4, table4_jpeg
from gradreg.studies._cifar import HUNDRED, JPEG, TEN, run, table1_arms, table4_arms
from gradreg.studies._paper import SCALES, Asked
from gradreg.study import report
from gradreg.study.collect import collect
from gradreg.study.config import Optimizer, Penalty, Schedule, Split
from gradreg.study.files import load_study
from gradreg.study.grid import Arm, final_runs
from gradreg.study.store import Store
from gradreg.study.sweep import Sweep
from gradreg.study.train import dataset

PAPER, SCRIPTS = Asked(), Asked("paper", "scripts")


def pictures(name: str, classes: int, side: int, each: int) -> Dataset:
    """Noise that has the form of a data set."""
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (classes * each + 150, 3, side, side), generator=g).byte()
    y = torch.arange(len(x)) % classes
    names = tuple(f"class {i}" for i in range(classes))
    return Dataset(name, x[150:], y[150:], names, x[:150], y[:150])


def of_paper(arms: tuple[Arm, ...]) -> list[tuple[str, str, str, float, float | None]]:
    """Group, name, penalty and the paper's number of each arm."""
    return [
        (
            arm.group,
            arm.name,
            " + ".join(map(str, arm.run.penalties)),
            arm.reported.mean if arm.reported else 0.0,
            arm.reported.sd if arm.reported else None,
        )
        for arm in arms
    ]


def test_table_4_has_the_papers_rows_and_weights() -> None:
    ten, hundred = "small CIFAR-10", "small CIFAR-100"
    assert of_paper(table4_arms(PAPER, (TEN, HUNDRED))) == [
        (ten, "Baseline", "", 55.63, 2.06),
        (ten, "SpectReg", "SpectReg(0.03)", 59.24, 1.48),
        (ten, "DoubleBack", "DoubleBack(1)", 57.45, 1.79),
        (ten, "ConfidencePenalty", "ConfidencePenalty(0.384)", 58.30, 1.79),
        (hundred, "Baseline", "", 49.56, 2.96),
        (hundred, "SpectReg", "SpectReg(3e-05)", 52.49, 0.65),
        (hundred, "DoubleBack", "DoubleBack(0.003)", 48.72, 2.84),
        (hundred, "ConfidencePenalty", "ConfidencePenalty(0.00128)", 51.04, 1.29),
    ]


def test_table_1_has_the_papers_rows_and_weights_on_cifar() -> None:
    arms = table1_arms(PAPER, (TEN, HUNDRED))
    ten, hundred = "small CIFAR-10", "small CIFAR-100"
    assert of_paper(arms) == [
        (f"{ten}, no weight decay", "Baseline", "", 48.27, 0.82),
        (f"{ten}, no weight decay", "SpectReg", "SpectReg(0.001)", 50.41, 0.65),
        (f"{ten}, weight decay 0.003", "Baseline", "", 55.63, 2.06),
        (f"{ten}, weight decay 0.003", "SpectReg", "SpectReg(0.03)", 59.24, 1.48),
        (f"{hundred}, no weight decay", "Baseline", "", 37.81, 0.33),
        (f"{hundred}, no weight decay", "SpectReg", "SpectReg(0.001)", 41.80, 0.70),
        (f"{hundred}, weight decay 0.003", "Baseline", "", 49.56, 2.96),
        (f"{hundred}, weight decay 0.003", "SpectReg", "SpectReg(0.0003)", 52.49, 0.65),
    ]
    assert [arm.run.optimizer.weight_decay for arm in arms] == [0, 0, 0.003, 0.003] * 2
    assert {arm.run.data.name for arm in table1_arms(PAPER, (JPEG,))} == {"cifar10-jpeg"}


def test_runs_that_two_tables_have_in_common_are_done_once() -> None:
    four = {arm.run.key for arm in table4_arms(PAPER, (TEN, HUNDRED))}
    one = {arm.run.key for arm in table1_arms(PAPER, (TEN, HUNDRED))}
    assert len(four & one) == 3  # both baselines, and SpectReg(0.03) on CIFAR-10


def test_the_papers_setting_is_that_of_its_appendix() -> None:
    given = run(PAPER, HUNDRED)
    assert given.split == Split(20000, 10000, 0, balanced=True)
    assert given.optimizer == Optimizer(0.1, "sgd", 0.9, 0.003)
    assert given.schedule == Schedule(50000, 128, (0.5, 0.75), 0.1)
    assert given.model.name == "resnet"
    scripts = run(SCRIPTS, HUNDRED)
    assert scripts.split == Split(20000, 10000, 0, balanced=False)
    assert scripts.optimizer == Optimizer(0.01, "sgd", 0.9, 0.003)
    arms = table4_arms(SCRIPTS, (TEN,))
    assert arms[1].run.penalties == (Penalty("SpectReg", 0.03, (("per", "batch"),)),)


def test_a_report_says_which_reading_was_trained() -> None:
    assert "Learning rate 0.1;" in table4.study().about
    assert "Learning rate 0.01;" in table4.study(protocol="scripts").about
    assert "width 8" not in table4.study().about
    assert "width 8" in table4.study(scale="quick").about


@pytest.mark.parametrize("module", [table4, table4_jpeg, table1_cifar, table1_jpeg])
@pytest.mark.parametrize("scale", SCALES)
def test_each_scale_is_a_study_of_its_own(tmp_path: Path, module: ModuleType, scale: str) -> None:
    name = module.__name__.rsplit(".", maxsplit=1)[-1]
    study = load_study(name, Store(tmp_path), scale=scale).study
    assert study.name == (name if scale == "paper" else f"{name}-{scale}")
    assert study.seeds == {"paper": 10, "quick": 3, "smoke": 2}[scale]
    assert all(arm.reported is not None for arm in study.arms)
    data = {arm.run.data.name for arm in study.arms}
    assert data == ({"cifar10-jpeg"} if "jpeg" in name else {"cifar10", "cifar100"})


def test_the_lossy_copy_is_said_to_be_one(tmp_path: Path) -> None:
    loaded = load_study("table4_jpeg", Store(tmp_path), scale="quick")
    assert any("JPEG" in note for note in loaded.notes)
    assert "lossy" in loaded.study.about
    assert load_study("table4", Store(tmp_path)).notes == ()


@pytest.mark.parametrize("protocol", ["paper", "scripts"])
def test_the_smallest_scale_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    dataset.cache_clear()
    monkeypatch.setitem(LOADERS, "cifar10", lambda: pictures("cifar10", 10, 32, 20))
    monkeypatch.setitem(LOADERS, "cifar100", lambda: pictures("cifar100", 100, 32, 5))
    small, store = table4.study(scale="smoke", protocol=protocol), Store(tmp_path)
    executor = Here()
    Sweep(small, store, seconds={}).go(executor)
    dataset.cache_clear()
    assert set(executor.given) == {run for arm in small.arms for run in final_runs(arm, (), 2)}
    summary = collect(small, store, command="gradreg run table4 --scale smoke")
    assert all(row.score is not None for row in summary.rows)
    text = report.markdown(summary)
    assert "55.63 (2.06)" in text
    assert "small CIFAR-100" in text
