"""What a data set is here: labelled images in memory, and where the files are kept."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        name: short name, as on the command line.
        x: images to draw training and validation points from (N, C, H, W), float32 in [0, 1].
        y: their labels (N,), int64.
        test_x, test_y: the official test set; None where the test points are drawn from x as well.
        classes: names of the classes, by label.
    """

    name: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    test_x: Tensor | None = None
    test_y: Tensor | None = None


class DataError(ValueError):
    """Data that is missing or broken, with what to do about it."""


def data_directory() -> Path:
    """``$GRADREG_DATA``, or the user's cache directory."""
    given = os.environ.get("GRADREG_DATA")
    if given:
        return Path(given).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gradreg"
