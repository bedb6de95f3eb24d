"""Pickles of plain values and arrays of bytes, read without running anything that they name."""

import io
import pickle
from dataclasses import dataclass
from typing import Any


@dataclass
class ByteArray:
    """An array of unsigned bytes as a pickle describes it; numpy has no part in reading it.

    Attributes:
        shape: of the array.
        content: the bytes, last dimension fastest.
    """

    shape: tuple[int, ...] = ()
    content: bytes = b""

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, fortran, content = state
        if version != 1 or not isinstance(kind, _Kind) or kind.name not in ("u1", "|u1") or fortran:
            raise pickle.UnpicklingError("an array that is none of unsigned bytes, the last dimension the fastest")
        if not isinstance(content, bytes):
            raise pickle.UnpicklingError(f"an array whose bytes are {type(content).__name__}")
        self.shape, self.content = tuple(map(int, shape)), content


class _Kind:
    """What stands for numpy's dtype."""

    def __init__(self, name: Any, *_: Any):
        self.name = name.decode("ascii") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: Any) -> None:
        """Byte order and so on, of which bytes have none."""


class _Reader(pickle.Unpickler):
    """Knows the names that arrays of numpy are written with, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, and could run it")


def _array(*_: Any) -> ByteArray:
    return ByteArray()


def _bytes(text: str, coding: str) -> bytes:
    """How Python 3 writes bytes in the old protocols."""
    return text.encode("latin1") if coding == "latin1" else b""


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy", "ndarray"): ByteArray,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _bytes,
}


def unpickled(content: bytes) -> Any:
    """What a pickle holds: dicts, lists, tuples, texts, numbers, bytes and `ByteArray`; texts of Python 2 are bytes.

    Args:
        content: the whole pickle.

    Raises:
        ValueError: it is damaged, or names anything else than numpy's arrays.

    Example:
        >>> unpickled(pickle.dumps({"labels": [3, 1]}))
        {'labels': [3, 1]}
    """
    try:
        return _Reader(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly everything
        raise ValueError(f"{type(error).__name__}: {error}") from error
