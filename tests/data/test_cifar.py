"""CIFAR-10 and CIFAR-100 from small files in their true formats, and from damaged ones."""

import hashlib
import io
import pickle
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from gradreg.data import cifar
from gradreg.data.cifar import CIFAR10, CIFAR100, Official, Release, read_cifar
from gradreg.data.dataset import DataError, Dataset

FORMS = (CIFAR10, CIFAR100)
# Images in each file of training, and in the test file.
ROWS = {"cifar10": (20, 10), "cifar100": (100, 100)}


class Python2(pickle._Pickler):
    """Writes what Python 2 wrote: its strings as such, and numpy by its old name."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        writer: Any = self  # which type checkers know as the C one, that has neither
        writer.write(b"T" + len(value).to_bytes(4, "little") + value)
        writer.memoize(value)

    dispatch[bytes] = save_bytes


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def images(name: str, rows: int) -> np.ndarray:
    """Bytes that are different in each file."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(0, 256, (rows, 3072), dtype=np.uint8)


def labels(form: Official, rows: int) -> list[int]:
    """The same number of each, in an order that is not the alphabet's."""
    return [(7 * i + 3) % form.classes for i in range(rows)]


def contents(form: Official, release: Release) -> dict[str, bytes]:
    """The files of a release, small."""
    train, test = ROWS[form.name]
    files = {}
    for i, name in enumerate((*release.train, *release.test)):
        rows = test if name in release.test else train
        x, y = images(f"{form.name} {i}", rows), labels(form, rows)
        if release is form.python:
            coarse = {b"coarse_labels": [label // 5 for label in y]} if form is CIFAR100 else {}
            names = [b"%d.png" % j for j in range(rows)]
            whole = {b"data": x, form.labels: y, **coarse, b"filenames": names, b"batch_label": b"batch 1 of 5"}
            files[name] = pickled(whole)
        else:
            before = [[label // 5] * (form.label_bytes - 1) + [label] for label in y]
            files[name] = b"".join(bytes(b) + row.tobytes() for b, row in zip(before, x, strict=True))
    names = [f"class {i}" for i in range(form.classes)]
    if release is form.python:
        files[release.names] = pickled({form.label_names: [name.encode() for name in names], b"num_vis": 3072})
    else:
        files[release.names] = ("\n".join(names) + "\n\n").encode()
    return files


def folder(path: Path, release: Release, files: dict[str, bytes]) -> Path:
    found = path / release.folder
    found.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (found / name).write_bytes(content)
    (found / "readme.html").write_text("<html>")
    return found


def archive(path: Path, release: Release, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    found = path / release.archive
    found.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(found, mode) as tar:  # type: ignore[call-overload]
        for name, content in {"readme.html": b"<html>", **files}.items():
            member = tarfile.TarInfo(f"{release.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return found


def releases() -> list[Any]:
    return [
        pytest.param(form, release, id=f"{form.name}-{'pickles' if release is form.python else 'records'}")
        for form in FORMS
        for release in (form.python, form.binary)
    ]


def assert_whole(data: Dataset, form: Official) -> None:
    """Every byte and label where it belongs."""
    train, test = ROWS[form.name]
    count = len(form.python.train)
    x = np.concatenate([images(f"{form.name} {i}", train) for i in range(count)])
    assert data.test_x is not None
    assert data.test_y is not None
    assert data.name == form.name
    assert torch.equal(data.x, torch.from_numpy(x).reshape(-1, 3, 32, 32))
    assert torch.equal(data.test_x, torch.from_numpy(images(f"{form.name} {count}", test)).reshape(-1, 3, 32, 32))
    assert data.y.tolist() == labels(form, train) * count
    assert data.test_y.tolist() == labels(form, test)
    assert data.y.dtype == torch.int64
    assert data.classes == tuple(f"class {i}" for i in range(form.classes))


# --- read_cifar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [folder, archive], ids=["folder", "archive"])
@pytest.mark.parametrize(("form", "release"), releases())
def test_each_form_reads_back_exactly(
    tmp_path: Path, form: Official, release: Release, pack: Callable[..., Path]
) -> None:
    assert_whole(read_cifar(pack(tmp_path, release, contents(form, release)), form), form)


def test_an_archive_may_be_unpacked_from_gzip(tmp_path: Path) -> None:
    path = archive(tmp_path, CIFAR10.binary, contents(CIFAR10, CIFAR10.binary), "w:")
    assert_whole(read_cifar(path, CIFAR10), CIFAR10)


def test_pickles_written_again_by_python_3_are_read(tmp_path: Path) -> None:
    files = contents(CIFAR10, CIFAR10.python)
    for name, content in files.items():
        value = pickle.loads(content, encoding="bytes")
        files[name] = pickle.dumps({key.decode(): item for key, item in value.items()}, 4)
    assert_whole(read_cifar(folder(tmp_path, CIFAR10.python, files), CIFAR10), CIFAR10)


def test_a_record_is_its_label_and_then_the_rows_of_red_green_and_blue(tmp_path: Path) -> None:
    """The format written out by hand, so that writer and reader of these tests do not share a mistake."""
    record = bytes([9]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes([3]) * 992 + bytes(range(100, 132))
    files = contents(CIFAR10, CIFAR10.binary) | {"data_batch_1.bin": record}
    data = read_cifar(folder(tmp_path, CIFAR10.binary, files), CIFAR10)
    assert data.y[0] == 9
    assert data.x[0, :, 0, 0].tolist() == [1, 2, 3]
    assert data.x[0, 2, 31].tolist() == list(range(100, 132))


def test_the_label_of_cifar_100_is_the_fine_one(tmp_path: Path) -> None:
    for release in (CIFAR100.python, CIFAR100.binary):
        data = read_cifar(folder(tmp_path, release, contents(CIFAR100, release)), CIFAR100)
        assert data.y.max() == 99


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [folder, archive], ids=["folder", "archive"])
@pytest.mark.parametrize(("form", "release"), releases())
def test_a_missing_file_is_named(tmp_path: Path, form: Official, release: Release, pack: Callable[..., Path]) -> None:
    for name in (release.train[0], release.test[0], release.names):
        files = contents(form, release)
        del files[name]
        path = pack(tmp_path / name, release, files)
        with pytest.raises(
            DataError, match=rf"lacks {re.escape(name)}; expected .* Copy or download {release.archive}"
        ):
            read_cifar(path, form)


def changed(form: Official, change: Callable[[dict[bytes, Any]], Any]) -> bytes:
    """The first file of pickles with a change."""
    value = pickle.loads(contents(form, form.python)[form.python.train[0]], encoding="bytes")
    change(value)
    return pickled(value)


RECORDS = contents(CIFAR10, CIFAR10.binary)["data_batch_1.bin"]
PICKLE = contents(CIFAR10, CIFAR10.python)["data_batch_1"]
DAMAGES: dict[str, tuple[Release, bytes, str]] = {
    "record cut": (
        CIFAR10.binary,
        RECORDS[:-1],
        r"has 61459 bytes; expected one or more records of 3073 bytes: it",
    ),
    "byte more": (CIFAR10.binary, RECORDS + b"\0", "has 61461 bytes; expected one or more records of 3073"),
    "no records": (CIFAR10.binary, b"", "has 0 bytes; expected one or more records"),
    "label of 10": (CIFAR10.binary, b"\x0a" + RECORDS[1:], r"has the label 10; expected 0 to 9\. It is damaged"),
    "pickle cut": (CIFAR10.python, PICKLE[:-1000], r"cannot be read as a pickle of plain data \(\w+: .*nothing of it"),
    "no pickle": (CIFAR10.python, b"<html>", "cannot be read as a pickle of plain data"),
    "list": (CIFAR10.python, pickled([1]), "holds list; expected a dict"),
    "of CIFAR-100": (
        CIFAR10.python,
        changed(CIFAR100, lambda v: None),
        "has 'data', 'fine_labels', .*; expected an array of bytes 'data' and a list 'labels'",
    ),
    "floats": (
        CIFAR10.python,
        changed(CIFAR10, lambda v: v.update({b"data": v[b"data"] / 255})),
        "an array that is none of unsigned bytes",
    ),
    "28 x 28": (
        CIFAR10.python,
        changed(CIFAR10, lambda v: v.update({b"data": v[b"data"][:, :784].copy()})),
        r"has images of the shape \(20, 784\); expected \(N, 3072\)",
    ),
    "a label less": (
        CIFAR10.python,
        changed(CIFAR10, lambda v: v[b"labels"].pop()),
        "has 20 images and 19 labels; expected one label for each image",
    ),
    "labels out of range": (
        CIFAR10.python,
        changed(CIFAR10, lambda v: v.update({b"labels": [10, -1] * 10})),
        "has the labels -1, 10; expected 0 to 9",
    ),
    "labels as texts": (
        CIFAR10.python,
        changed(CIFAR10, lambda v: v.update({b"labels": [b"cat"] * 20})),
        "has labels that are no whole numbers; expected 0 to 9",
    ),
    "bytes less than stated": (
        CIFAR10.python,
        pickled({b"data": np.zeros((20, 3072), np.uint8), b"labels": [0] * 20}).replace(
            b"T\x00\xf0\x00\x00" + bytes(61440), b"T\xff\xef\x00\x00" + bytes(61439)
        ),
        "states 20 images, which are 61440 bytes, but holds 61439: it is truncated",
    ),
}


@pytest.mark.parametrize(("release", "content", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_with_what_is_wrong(
    tmp_path: Path, release: Release, content: bytes, message: str
) -> None:
    files = contents(CIFAR10, release) | {release.train[0]: content}
    path = folder(tmp_path, release, files)
    with pytest.raises(DataError, match=message) as caught:
        read_cifar(path, CIFAR10)
    assert str(caught.value).startswith(f"{path}: {release.train[0]} ")


@pytest.mark.parametrize(("form", "release"), releases())
def test_wrong_class_names_are_refused(tmp_path: Path, form: Official, release: Release) -> None:
    few = ["one", "two"]
    content = pickled({form.label_names: [b"one", b"two"]}) if release is form.python else "\n".join(few).encode()
    path = folder(tmp_path, release, contents(form, release) | {release.names: content})
    with pytest.raises(DataError, match=rf"{release.names} names 2 classes; {form.title} has {form.classes}"):
        read_cifar(path, form)


def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = archive(tmp_path, CIFAR10.python, contents(CIFAR10, CIFAR10.python))
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 200):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"is damaged or not whole .*Copy or download it again|lacks "):
            read_cifar(path, CIFAR10)


def test_a_path_with_nothing_of_it_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has none of the files of CIFAR-10; expected data_batch_1 \.\.\. batch"):
        read_cifar(tmp_path, CIFAR10)
    with pytest.raises(DataError, match=r"nowhere\.tar\.gz is not there"):
        read_cifar(tmp_path / "nowhere.tar.gz", CIFAR10)


# --- the official ones ------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data directory, and small files that are taken for the official ones."""
    monkeypatch.setenv("GRADREG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train, test = ROWS["cifar10"]

    def small(release: Release) -> Release:
        files = contents(CIFAR10, getattr(CIFAR10, "python" if release is CIFAR10.python else "binary"))
        sha = hashlib.sha256(archive(tmp_path / "official", release, files).read_bytes()).hexdigest()
        md5 = tuple((name, hashlib.md5(files[name]).hexdigest()) for name, _ in release.md5)
        return replace(release, sha256=sha, md5=md5)

    form = replace(CIFAR10, mirrors=(), train_size=5 * train, test_size=test)
    form = replace(form, python=small(CIFAR10.python), binary=small(CIFAR10.binary))
    monkeypatch.setattr(cifar, "CIFAR10", form)
    return tmp_path / "data"


def official(root: Path, release: Release) -> bytes:
    return (root.parent / "official" / release.archive).read_bytes()


@pytest.mark.parametrize("below", ["", "cifar10"])
@pytest.mark.parametrize("kind", ["python", "binary"])
def test_an_archive_in_the_data_directory_is_found(root: Path, kind: str, below: str) -> None:
    release = getattr(cifar.CIFAR10, kind)
    path = root / below / release.archive
    path.parent.mkdir(parents=True)
    path.write_bytes(official(root, release))
    assert_whole(cifar.load_cifar10(), CIFAR10)


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_a_folder_in_the_data_directory_is_found(root: Path, kind: str) -> None:
    release = getattr(cifar.CIFAR10, kind)
    folder(root, release, contents(CIFAR10, getattr(CIFAR10, kind)))
    assert_whole(cifar.load_cifar10(), CIFAR10)
    assert_whole(cifar.load_cifar10(), CIFAR10)  # from the cache


def test_another_checksum_is_refused(root: Path) -> None:
    release = cifar.CIFAR10.python
    files = contents(CIFAR10, CIFAR10.python)
    files["data_batch_3"] = files["data_batch_2"]
    archive(root, release, files)
    with pytest.raises(DataError, match=r"python\.tar\.gz has another checksum than the official file\. Delete it"):
        cifar.load_cifar10()
    (root / release.archive).unlink()
    folder(root, release, files)
    with pytest.raises(DataError, match=r"data_batch_3 has another checksum than the official file\. Unpack cifar"):
        cifar.load_cifar10()


def test_records_in_a_folder_have_no_checksum_but_are_counted(root: Path) -> None:
    release = cifar.CIFAR10.binary
    files = contents(CIFAR10, CIFAR10.binary)
    path = folder(root, release, files | {"data_batch_1.bin": files["data_batch_1.bin"][:-3073]})
    with pytest.raises(DataError, match=r"has 99 training images, 9 to 10 of a class; CIFAR-10 has 100, 10 of each"):
        cifar.load_cifar10()
    (path / "data_batch_1.bin").write_bytes(files["data_batch_1.bin"])
    (path / "test_batch.bin").write_bytes(b"\0" + files["test_batch.bin"][1:])
    with pytest.raises(DataError, match=r"has 10 test images, 0 to 2 of a class; CIFAR-10 has 10, 1 of each"):
        cifar.load_cifar10()


def test_without_files_and_mirrors_the_error_says_what_to_do(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        cifar.load_cifar10()
    message = str(caught.value)
    assert message.startswith(f"cifar-10-python.tar.gz is not in {root / 'cifar10'} and could not be downloaded. Put ")
    assert "or cifar-10-binary.tar.gz there or into" in message
    assert "the data set cifar10-jpeg" in message


def test_the_official_sizes_and_sums() -> None:
    for form in FORMS:
        assert form.train_size % form.classes == form.test_size % form.classes == 0
        assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in form.mirrors)
        assert len(form.mirrors) >= 2
        for release in (form.python, form.binary):
            assert re.fullmatch("[0-9a-f]{64}", release.sha256)
            assert all(re.fullmatch("[0-9a-f]{32}", md5) for _, md5 in release.md5)
        assert [name for name, _ in form.python.md5] == [*form.python.train, *form.python.test]
