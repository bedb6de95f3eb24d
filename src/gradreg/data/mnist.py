"""MNIST from its four official IDX files: read strictly, found in the data directory or downloaded with checksums."""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from gradreg.data.dataset import DataError, Dataset, data_directory
from gradreg.data.download import download

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

# SHA-256 of the files' contents after decompression: mirrors compress them in different ways.
CONTENTS = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def load_mnist() -> Dataset:
    """MNIST: 60000 images to draw from, and the official test set of 10000; scaled from 0 ... 255 to [0, 1].

    The files are looked for in ``mnist/`` below the data directory (`data_directory`), else downloaded there.

    Raises:
        DataError: a file is broken, or can neither be found nor downloaded.

    Source: LeCun et al. 1998; the paper's appendix B.1.
    """
    train_x, train_y, test_x, test_y = (read_idx(_find(name), CONTENTS[name]) for name in CONTENTS)
    return Dataset(
        name="mnist",
        x=_images(train_x),
        y=train_y.long(),
        classes=tuple("0123456789"),
        test_x=_images(test_x),
        test_y=test_y.long(),
    )


def read_idx(path: Path, sha256: str | None = None) -> Tensor:
    """Reads an IDX file of unsigned bytes, gzipped or not.

    Args:
        path: the file.
        sha256: of the contents after decompression; not checked where None.

    Returns:
        A uint8 tensor of the shape that the file states.

    Raises:
        DataError: not an IDX file of bytes, truncated, too long, or of another checksum.

    Format: two zero bytes, the type 8 (unsigned byte), the number of dimensions; each size as a big-endian 32-bit
    number; then the bytes, last dimension fastest.
    """
    content = _content(path)
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] == 0:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ') or 'nothing'}, "
            "expected 00 00 08 and the number of dimensions. Delete it to have it downloaded again."
        )
    dimensions = content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(f"{path} ends within its header. Delete it to have it downloaded again.")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} states the shape {shape}, which is {math.prod(shape)} bytes, but holds {len(content) - header}: "
            "it is truncated or damaged. Delete it to have it downloaded again."
        )
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} has another checksum than the official file. Delete it to have it downloaded again.")
    if 0 in shape:  # torch.frombuffer refuses an empty buffer
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}). Delete it to have it downloaded again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _images(x: Tensor) -> Tensor:
    return x[:, None].float() / 255


def _find(name: str) -> Path:
    """The file in the data directory, in gzipped or plain form; else downloaded."""
    folder = data_directory() / "mnist"
    for candidate in (folder / name, folder / name.removesuffix(".gz")):
        if candidate.is_file():
            return candidate
    return download(
        name,
        folder,
        MIRRORS,
        lambda path: read_idx(path, CONTENTS[name]),
        instead="Put the four official MNIST files there, or set GRADREG_DATA to the folder that holds mnist/.",
    )
