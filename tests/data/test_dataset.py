"""Where data is kept, and what a data set is."""

import dataclasses
from pathlib import Path

import pytest
import torch

from gradreg.data.dataset import DataError, Dataset, data_directory


def test_the_environment_names_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADREG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_directory() == tmp_path / "data"


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GRADREG_DATA", "~/data")
    assert data_directory() == tmp_path / "data"


def test_a_relative_directory_holds_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADREG_DATA", "data")
    found = data_directory()
    assert found == tmp_path / "data"
    assert found.is_absolute()


@pytest.mark.parametrize("unset", [None, ""], ids=["missing", "empty"])
def test_the_default_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unset: str | None) -> None:
    for name in ("GRADREG_DATA", "XDG_CACHE_HOME"):
        if unset is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, unset)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_directory() == tmp_path / ".cache" / "gradreg"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_directory() == tmp_path / "cache" / "gradreg"


def test_asking_for_the_directory_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADREG_DATA", str(tmp_path / "data"))
    data_directory()
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_cannot_be_changed_and_has_no_test_set_by_default() -> None:
    data = Dataset("toy", torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), ("a",))
    assert data.test_x is None
    assert data.test_y is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"  # type: ignore[misc]


def test_a_data_error_is_a_value_error() -> None:
    assert issubclass(DataError, ValueError)
