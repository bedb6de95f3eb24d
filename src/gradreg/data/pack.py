"""A data set as one file, which worker processes read, and the hash by which it is known."""

import hashlib
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradreg.data.dataset import DataError, Dataset

_FORMAT = "gradreg data 1"
_ARRAYS = ("x", "y", "validation_x", "validation_y", "test_x", "test_y")


def content_hash(data: Dataset) -> str:
    """The first 16 hexadecimal digits of SHA-256 over shapes, types, numbers, labels and class names of all parts.

    Neither the name of the data set counts nor where it came from.

    Example:
        >>> from gradreg.data.dataset import Dataset
        >>> content_hash(Dataset("any", torch.zeros(2, 1), torch.tensor([0, 1]), ("a", "b")))
        'fb98f3aad7928fe0'
    """
    digest = hashlib.sha256()
    described = {name: (str(part.dtype), list(part.shape)) for name, part in _parts(data)}
    digest.update(json.dumps([_FORMAT, list(data.classes), described]).encode())
    for _, part in _parts(data):
        digest.update(memoryview(part.contiguous().flatten().view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()[:16]


def save_pack(dataset: Dataset, path: Path) -> None:
    """Writes a data set as an uncompressed .npz, whole or not at all.

    Args:
        dataset: its ``content`` is kept with it, or computed where it is "".
        path: where to; folders that are missing are made.

    Raises:
        DataError: numpy is not installed.
        OSError: it cannot be written.
    """
    np = _numpy()
    about = {
        "format": _FORMAT,
        "name": dataset.name,
        "classes": list(dataset.classes),
        "content": dataset.content or content_hash(dataset),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **{name: part.numpy() for name, part in _parts(dataset)})
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_pack(path: Path) -> Dataset:
    """Reads what `save_pack` wrote, and checks it against its hash.

    Raises:
        DataError: the file is missing or damaged, or was not written by `save_pack`; numpy is not installed.
    """
    np = _numpy()
    again = "Delete it and give the command with the original data again."
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            parts: dict[str, Any] = {name: torch.from_numpy(file[name]) for name in _ARRAYS if name in file.files}
        if about["format"] != _FORMAT:
            raise DataError(f"{path} has the format {about['format']!r}, expected {_FORMAT!r}. {again}")
        x, y = parts.pop("x"), parts.pop("y")
        found = Dataset(name=about["name"], x=x, y=y, classes=tuple(about["classes"]), **parts)
        content = about["content"]
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there. Give the command with the original data again.") from error
    except DataError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(
            f"{path} is damaged or no packed data set ({type(error).__name__}: {error}). {again}"
        ) from error
    if content_hash(found) != content:
        raise DataError(f"{path} is damaged: its content has another hash than is written in it. {again}")
    return replace(found, content=content)


def _parts(data: Dataset) -> Iterator[tuple[str, Tensor]]:
    for name in _ARRAYS:
        part = getattr(data, name)
        if part is not None:
            yield name, part


def _numpy() -> Any:
    try:
        import numpy as np
    except ImportError as error:
        raise DataError("packed data sets need numpy: pip install 'gradreg[study]'") from error
    return np
