"""Pickles of plain data are read, and whatever could run something is refused without being run."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradreg.data.unpickle import ByteArray, unpickled


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_values_and_arrays_of_bytes_are_read(protocol: int) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    value = {"data": array, "labels": [3, 1, 2], b"names": (b"a", "b"), "none": None, "number": 1.5}
    found = unpickled(pickle.dumps(value, protocol))
    data = found.pop("data")
    assert data == ByteArray((3, 4), bytes(range(12)))
    assert found == {"labels": [3, 1, 2], b"names": (b"a", "b"), "none": None, "number": 1.5}


def test_texts_of_python_2_are_bytes() -> None:
    assert unpickled(b"\x80\x02}q\x01U\x06labelsq\x02]q\x03(K\x03K\x01es.") == {b"labels": [3, 1]}


class Runs:
    """What runs a command where pickle.loads reads it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_would_run_something_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"data": Runs(tmp_path / "ran")}, protocol)
    with pytest.raises(ValueError, match=r"UnpicklingError: it names posix\.system, and could run it"):
        unpickled(content)
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)  # so the test would have seen it
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (OrderedDict(a=1), r"names collections\.OrderedDict"),
        (np.float64(1.5), r"names numpy\.(_core|core)\.multiarray\.scalar"),
        (np.zeros(3), "an array that is none of unsigned bytes"),
        (np.array([{}], dtype=object), "an array that is none of unsigned bytes"),
        (np.asfortranarray(np.zeros((2, 3), np.uint8)), "an array that is none of unsigned bytes, the last dimension"),
        (eval, r"names builtins\.eval|names __builtin__\.eval"),
    ],
    ids=["class", "scalar", "floats", "objects", "fortran", "builtin"],
)
def test_other_things_are_refused(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        unpickled(pickle.dumps(value, 2))


def test_damage_is_one_kind_of_error() -> None:
    content = pickle.dumps({"data": np.arange(40, dtype=np.uint8), "labels": [1, 2]}, 2)
    for length in range(len(content)):
        with pytest.raises(ValueError, match=r"^\w+: "):
            unpickled(content[:length])
    for i in range(len(content)):
        damaged = content[:i] + bytes((content[i] ^ 0xFF,)) + content[i + 1 :]
        try:
            unpickled(damaged)
        except ValueError:
            continue
