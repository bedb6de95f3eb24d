"""The index of a store: of both metrics, and made anew where another version has made it."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from runs_for_tests import BASELINE, SIN, SPECTREG

from gradreg.study.config import Technique
from gradreg.study.index import FIELDS, Index
from gradreg.study.store import Store


def kept(folder: Path) -> Store:
    store = Store(folder)
    for run in (BASELINE, SIN):
        store.files(run).folder.mkdir()
        store.files(run).begin(run, {})
        store.files(run).save_result({f"test_{run.metric.key}": 0.5, "steps": 40})
    return store


def test_each_run_has_its_own_metric(tmp_path: Path) -> None:
    found = {row["data"]: row for row in Index(kept(tmp_path)).rows()}
    assert (found["sin"]["test_mse"], found["sin"]["test_accuracy"]) == (0.5, None)
    assert (found["digits"]["test_mse"], found["digits"]["test_accuracy"]) == (None, 0.5)


def test_techniques_stand_beside_penalties(tmp_path: Path) -> None:
    store, run = Store(tmp_path), replace(SPECTREG, technique=Technique(mixup=0.2))
    store.files(run).folder.mkdir()
    store.files(run).begin(run, {})
    assert [row["penalties"] for row in Index(store).rows()] == ["SpectReg(0.1) + mixup(0.2)"]
    other = Store(tmp_path / "other")
    run = replace(SPECTREG, technique=Technique(mixup=0.2, auto_weight=0.35))
    other.files(run).folder.mkdir()
    other.files(run).begin(run, {})
    assert [row["penalties"] for row in Index(other).rows()] == ["SpectReg(auto) + mixup(0.2)"]


def test_index_of_another_version_is_made_anew(tmp_path: Path) -> None:
    index = Index(kept(tmp_path))
    expected = index.rows()
    with closing(sqlite3.connect(index.path)) as base, base:
        base.execute("ALTER TABLE runs DROP COLUMN test_mse")
    assert index.rows() == expected
    with closing(sqlite3.connect(index.path)) as base:
        columns = [name for _, name, *_ in base.execute("PRAGMA table_info(runs)")]
        assert base.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    assert columns == [*FIELDS, "stamp"]
