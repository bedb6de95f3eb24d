"""Data sets whose files are slow to read, kept as plain arrays that all processes share."""

import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from gradreg.data.dataset import DataError, Dataset, cache_directory
from gradreg.data.files import folder_files

_PARTS = ("x", "y", "validation_x", "validation_y", "test_x", "test_y")
# Raised when the same files come to be read in another way, so that what was read before is not taken for it.
_READING = 1


def decoded(name: str, source: Path, read: Callable[[], Dataset]) -> Dataset:
    """A data set from arrays in the cache, where they are of the same files; else read, and kept there.

    The arrays are mapped into memory, so that processes share them, and only what is used is loaded. They are in
    ``arrays/`` below the cache directory (`cache_directory`), which may be deleted at any time.

    Args:
        name: of the data set.
        source: the file or folder that it is read from; known again by names, sizes and times of change.
        read: reads it, where it is not in the cache.

    Raises:
        DataError: as ``read`` does; numpy is not installed, or the source cannot be looked at.
    """
    folder = cache_directory() / "arrays" / f"{name}-{fingerprint(source)}"
    if (found := _load(folder)) is not None:
        return found
    with _alone(folder):
        if (found := _load(folder)) is not None:  # of another process, while this one waited
            return found
        print(f"reading {source} into {folder}, once", file=sys.stderr)
        data = read()
        try:
            _save(data, folder)
        except OSError as error:
            print(f"{folder} cannot be written ({error}), so that {source} is read again next time", file=sys.stderr)
            return data
    return _load(folder) or data


def fingerprint(source: Path) -> str:
    """A hash of the names, sizes and times of change of a file, or of all files below a folder.

    Raises:
        DataError: it cannot be looked at.
    """
    source = source.resolve()
    try:
        files = [source / name for name in folder_files(source).names] if source.is_dir() else [source]
        stamps = [(str(path), found.st_size, found.st_mtime_ns) for path in files for found in (path.stat(),)]
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error}.") from error
    return hashlib.sha256(json.dumps([_READING, stamps]).encode()).hexdigest()[:16]


def _save(data: Dataset, folder: Path) -> None:
    """Writes arrays and what they are, whole or not at all."""
    np = _numpy()
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        beside.mkdir()
        shapes = {}
        for part in _PARTS:
            if (values := getattr(data, part)) is not None:
                np.save(beside / f"{part}.npy", values.numpy())
                shapes[part] = [str(values.dtype), *values.shape]
        about = {"name": data.name, "classes": list(data.classes), "shapes": shapes}
        (beside / "about.json").write_text(json.dumps(about))
        shutil.rmtree(folder, ignore_errors=True)  # what could not be loaded
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _load(folder: Path) -> Dataset | None:
    """What is kept there; None where it is not there, not whole, or cannot be read."""
    np = _numpy()
    try:
        about = json.loads((folder / "about.json").read_text())
        parts: dict[str, Any] = {}
        for part, (kind, *shape) in about["shapes"].items():
            # Mapped so that what is written to an array stays in this process.
            parts[part] = torch.from_numpy(np.load(folder / f"{part}.npy", mmap_mode="c", allow_pickle=False))
            if [str(parts[part].dtype), *parts[part].shape] != [kind, *shape]:
                return None
        return Dataset(name=about["name"], classes=tuple(about["classes"]), **parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process reads at a time, and the others wait for what it keeps; where locks are not to be had, none waits."""
    path = folder.with_name(f".{folder.name}.lock")
    try:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except (ImportError, OSError):
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _numpy() -> Any:
    try:
        import numpy as np
    except ImportError as error:
        raise DataError("decoded data sets need numpy: pip install 'gradreg[study]'") from error
    return np
