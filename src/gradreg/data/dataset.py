"""What a data set is here: labelled images or vectors in memory, and where the files are kept."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands that only read results do not wait for torch
    from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Labelled images, or labelled vectors of features.

    Attributes:
        name: short name, as on the command line.
        x: where training points are drawn from, and validation and test points where there are no official ones:
            images (N, C, H, W), float32, or uint8 (0 ... 255, which `gradreg.data.splits.split` scales to [0, 1]); or
            vectors of features (N, D).
        y: their labels (N,), int64; or of a regression the numbers to predict (N, m), float32.
        classes: names of the classes, by label; () for a regression.
        test_x, test_y: the official test set; None where the test points are drawn from x as well.
        validation_x, validation_y: the official validation set; None where the validation points are drawn from x.
        content: hash of all of the above but the name, for the user's own data; "" for built-in data sets.
        standardize: whether inputs are standardized by the training points; else they are left in their own unit.
        twin: where not 0, each training point comes a second time, moved by so much, with the same label.
    """

    name: str
    x: "Tensor"
    y: "Tensor"
    classes: tuple[str, ...]
    test_x: "Tensor | None" = None
    test_y: "Tensor | None" = None
    validation_x: "Tensor | None" = None
    validation_y: "Tensor | None" = None
    content: str = ""
    standardize: bool = True
    twin: float = 0.0

    @property
    def outputs(self) -> int:
        """How many numbers a network gives for an input: one for each class, or those of a regression."""
        return len(self.classes) or self.y.shape[1]


class DataError(ValueError):
    """Data that is missing or broken, with what to do about it."""


def data_directory() -> Path:
    """``$GRADREG_DATA``, or the user's cache directory."""
    given = os.environ.get("GRADREG_DATA")
    if given:
        return Path(given).expanduser().resolve()
    return cache_directory()


def cache_directory() -> Path:
    """``gradreg`` in the user's cache directory, where what can be made anew is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gradreg"
