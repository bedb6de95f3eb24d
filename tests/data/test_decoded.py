"""Arrays kept beside slow files: the same numbers, read once, and never of other files."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradreg.data.dataset import DataError, Dataset, cache_directory
from gradreg.data.decoded import decoded, fingerprint

DATA = Dataset(
    "small",
    torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2),
    torch.tensor([1, 0]),
    ("a", "ü"),
    test_x=torch.full((1, 3, 2, 2), 7, dtype=torch.uint8),
    test_y=torch.tensor([1]),
)


class Reads:
    """Gives a data set, and counts how often."""

    def __init__(self, data: Dataset = DATA):
        self.data, self.count = data, 0

    def __call__(self) -> Dataset:
        self.count += 1
        return self.data


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "source.zip"
    path.write_bytes(b"images")
    return path


def same(one: Dataset, two: Dataset) -> bool:
    for name in ("x", "y", "test_x", "test_y", "validation_x", "validation_y"):
        a, b = getattr(one, name), getattr(two, name)
        if (a is None) != (b is None) or (a is not None and not (torch.equal(a, b) and a.dtype == b.dtype)):
            return False
    return (one.name, one.classes, one.content) == (two.name, two.classes, two.content)


def kept() -> list[Path]:
    return sorted(path for path in (cache_directory() / "arrays").iterdir() if not path.name.startswith("."))


def test_it_is_read_once_and_comes_back_the_same(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read = Reads()
    assert same(decoded("small", source, read), DATA)
    assert f"reading {source} into {kept()[0]}, once" in capfd.readouterr().err
    assert same(decoded("small", source, read), DATA)
    assert read.count == 1
    assert capfd.readouterr().err == ""
    with_validation = replace(DATA, name="other", validation_x=DATA.x.float() / 3, validation_y=DATA.y)
    assert same(decoded("other", source, Reads(with_validation)), with_validation)
    assert same(decoded("other", source, read), with_validation)
    assert read.count == 1


def test_what_is_written_to_an_array_stays_with_the_writer(source: Path) -> None:
    decoded("small", source, Reads()).x.add_(1)
    assert same(decoded("small", source, Reads()), DATA)


def test_a_changed_file_is_read_again(source: Path) -> None:
    read = Reads()
    decoded("small", source, read)
    source.write_bytes(b"other images")
    decoded("small", source, read)
    os.utime(source, ns=(1, 1))
    decoded("small", source, read)
    assert read.count == 3
    decoded("another name", source, read)
    assert read.count == 4


def test_a_folder_is_known_by_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "one").write_bytes(b"1")
    first = fingerprint(folder)
    assert fingerprint(folder) == first
    (folder / "a" / "two").write_bytes(b"2")
    second = fingerprint(folder)
    (folder / "a" / "two").rename(folder / "two")
    assert len({first, second, fingerprint(folder)}) == 3
    with pytest.raises(DataError, match=r"nowhere cannot be read: .*No such file"):
        fingerprint(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["cut", "missing", "other shape", "no description", "broken description"])
def test_damaged_arrays_are_read_anew(source: Path, damage: str) -> None:
    read = Reads()
    decoded("small", source, read)
    (folder,) = kept()
    if damage == "cut":
        (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-1])
    elif damage == "missing":
        (folder / "test_y.npy").unlink()
    elif damage == "other shape":
        about = json.loads((folder / "about.json").read_text())
        about["shapes"]["y"] = ["torch.int64", 3]
        (folder / "about.json").write_text(json.dumps(about))
    elif damage == "no description":
        (folder / "about.json").unlink()
    else:
        (folder / "about.json").write_text("{}")
    assert same(decoded("small", source, read), DATA)
    assert read.count == 2
    assert same(decoded("small", source, read), DATA)
    assert read.count == 2


def test_a_cache_that_cannot_be_written_is_told_and_done_without(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert same(decoded("small", source, Reads()), DATA)
    assert f"cannot be written (" in capfd.readouterr().err  # noqa: F541


def test_an_error_of_the_reader_leaves_nothing(source: Path) -> None:
    def broken() -> Dataset:
        raise DataError("it is broken")

    with pytest.raises(DataError, match="it is broken"):
        decoded("small", source, broken)
    assert kept() == []
    assert same(decoded("small", source, Reads()), DATA)


def test_processes_that_begin_at_once_read_once(source: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time, torch\n"
        "from pathlib import Path\n"
        "from gradreg.data.dataset import Dataset\n"
        "from gradreg.data.decoded import decoded\n"
        "def read():\n"
        "    print('read', flush=True)\n"
        "    time.sleep(1)\n"
        "    return Dataset('small', torch.ones(2, 1), torch.tensor([0, 1]), ('a', 'b'))\n"
        f"print(decoded('small', Path({str(source)!r}), read).x.sum().item())\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert sorted(said) == [["2.0"], ["read", "2.0"]]
