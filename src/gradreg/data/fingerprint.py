"""What the user's own data may be, and a hash by which it is known again without being read. No torch here."""

import hashlib
import json
from pathlib import Path
from typing import Any

from gradreg.data.dataset import DataError
from gradreg.data.files import folder_files, is_image
from gradreg.data.layout import TREE

ACCEPTED = (
    "a folder with one folder of images per class, or with train/, val/ and test/ of such folders; a .zip of either; "
    "or an .npz with arrays X and y"
)
# Raised when the same files come to be read in another way, so that what was read before is not taken for it.
_READING = 1


def quick_fingerprint(path: Path, image_size: int | None = None) -> str:
    """A hash of names, sizes and times of change, by which an unchanged folder or file is known without reading it.

    Args:
        path: as for `read_own`.
        image_size: as for `read_own`.

    Raises:
        DataError: there is nothing at the path, or it cannot be read.
    """
    path = Path(path).expanduser()
    check_kind(path)
    listing: list[Any] = [_READING, str(path.resolve()), image_size]
    try:
        if path.is_dir():
            files = folder_files(path)
            listing.append(files.folders)
            listing += [(name, *_stamp(path / name)) for name in files.names]
        else:
            listing.append(_stamp(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def check_kind(path: Path) -> None:
    """Refuses what is neither a folder nor an archive of images nor an .npz file."""
    if not path.exists():
        raise DataError(f"{path} is not there; expected {ACCEPTED}.")
    if path.is_dir() or path.suffix.lower() in (".zip", ".npz"):
        return
    if is_image(path.name):
        raise DataError(
            f"{path} is a single image; expected {ACCEPTED}. Put the images of each class into a folder of its own:"
            + TREE.format(name="photos")
        )
    raise DataError(f"{path} is of no known kind; expected {ACCEPTED}.")
