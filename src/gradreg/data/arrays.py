"""Arrays of a user's own from an .npz file: which is which, which way round they lie, and what their labels mean."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from gradreg.data.dataset import DataError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# By part, the names of inputs and labels: plain ones, as Keras writes them, and as MedMNIST does.
_NAMES = {
    "train": (("x", "y"), ("x_train", "y_train"), ("train_images", "train_labels")),
    "validation": (("x_val", "y_val"), ("x_valid", "y_valid"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
EXPECTED = "X and y, or x_train, y_train, x_test and y_test (and x_val, y_val)"


@dataclass(frozen=True)
class Arrays:
    """What an .npz file holds.

    Attributes:
        x: by "train", and "validation" and "test" where they are there: images (N, C, H, W) or features (N, D).
        y: labels, as positions in ``classes``.
        classes: names of the classes.
        called: what the parts are called there.
        notes: what was decided.
    """

    x: dict[str, Tensor]
    y: dict[str, Tensor]
    classes: tuple[str, ...]
    called: dict[str, str]
    notes: tuple[str, ...]


def read_arrays(path: Path, image_size: int | None = None) -> Arrays:
    """Reads inputs and labels.

    Args:
        path: an .npz file with ``X`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ``y_test`` and so on, in
            capital or small letters. Inputs are (N, H, W), (N, H, W, C), (N, C, H, W) or (N, D), bytes or numbers;
            labels are whole numbers, strings, or rows with a single 1.
        image_size: side of the squares that images are made to; None: left as they are.

    Raises:
        DataError: the file is damaged, arrays are missing or do not fit together, numbers are not finite, or a part
            has classes that the training part does not have.
    """
    loaded = _load(path)
    pairs = _pairs(path, loaded)
    x, y, called, notes = {}, {}, {}, []
    for part, (x_name, y_name) in pairs.items():
        inputs, labels = loaded[x_name], _labels(path, y_name, loaded[y_name])
        if len(inputs.shape) == 0 or len(inputs) != len(labels):
            raise DataError(
                f"{path}: {x_name} has the shape {inputs.shape} and {y_name} {loaded[y_name].shape}; expected one "
                "label for each input."
            )
        x[part], how = _inputs(path, x_name, inputs)
        y[part], called[part] = labels, x_name
        notes += [how] if how and how not in notes else []
    shapes = {called[part]: tuple(points.shape[1:]) for part, points in x.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{path} has inputs of unequal shapes: {_shown(shapes)}; expected the same for all.")
    if image_size is not None:
        x, notes = _resized(path, x, image_size, notes)
    classes, coded = _coded(path, pairs, y)
    return Arrays(x, coded, classes, called, tuple(notes))


def _load(path: Path) -> "dict[str, Array]":
    try:
        import numpy as np
    except ImportError as error:
        raise DataError("reading .npz files needs numpy: pip install 'gradreg[study]'") from error
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            wanted = {name for pairs in _NAMES.values() for pair in pairs for name in pair}
            names = {name.lower(): name for name in file.files}
            found = {names[name]: file[names[name]] for name in names if name in wanted}
            found.update({name: np.empty(0) for name in file.files if name not in found})
            return found
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise DataError(
                f"{path} holds an array of Python objects, which is not read because it could run programs; expected "
                "numbers or strings: np.savez(path, X=X.astype('float32'), y=y.astype('int64'))."
            ) from error
        raise DataError(
            f"{path} cannot be read as an .npz file: {error}. Write it again: np.savez(path, X=X, y=y)."
        ) from error


def _pairs(path: Path, loaded: "dict[str, Array]") -> dict[str, tuple[str, str]]:
    """The names of inputs and labels in the file, by part."""
    names = {name.lower(): name for name in loaded}
    pairs = {}
    for part, known in _NAMES.items():
        there = [pair for pair in known if pair[0] in names or pair[1] in names]
        halves = [names.get(name) for name in there[0]] if there else []
        if len(there) > 1 or None in halves:
            expected = " and ".join(there[0])
            raise DataError(f"{path} has {_listed(loaded)}; expected {expected}, both and once. Rename them.")
        if there:
            pairs[part] = (names[there[0][0]], names[there[0][1]])
    if "train" not in pairs:
        raise DataError(f"{path} has {_listed(loaded)}; expected {EXPECTED}: np.savez(path, X=X, y=y).")
    return pairs


def _inputs(path: Path, name: str, inputs: "Array") -> tuple[Tensor, str]:
    """A tensor (N, C, H, W) or (N, D), and in words how the array was read."""
    import numpy as np

    if inputs.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} has the type {inputs.dtype}; expected bytes or numbers.")
    shape, how = inputs.shape, ""
    if 0 in shape:
        raise DataError(f"{path}: {name} has the shape {shape}, which is empty; expected one or more inputs.")
    if inputs.ndim == 3:
        inputs, how = inputs[:, None], "grey images (N, H, W)"
    elif inputs.ndim == 4 and shape[3] in (1, 3, 4):
        inputs, how = inputs[..., :3].transpose(0, 3, 1, 2), "images (N, H, W, C)"
    elif inputs.ndim == 4 and shape[1] in (1, 3, 4):
        inputs, how = inputs[:, :3], "images (N, C, H, W)"
    elif inputs.ndim != 2:
        raise DataError(
            f"{path}: {name} has the shape {shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 "
            "channels C, or (N, D)."
        )
    if how:
        alpha = ", without their fourth channel" if inputs.shape[1] == 3 and 4 in (shape[1], shape[-1]) else ""
        how = f"{name} of shape {shape} was read as {how}{alpha}."
    if inputs.dtype.kind in "iu" and inputs.ndim == 4 and inputs.min() >= 0 and inputs.max() <= 255:
        return torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.uint8)), how
    if inputs.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(inputs)), how
    with np.errstate(over="ignore"):
        numbers = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
    if not numbers.isfinite().all():
        bad = int((~numbers.isfinite()).flatten(1).any(1).sum())
        raise DataError(
            f"{path}: {name} has {bad} inputs with numbers that are not finite (NaN, infinite, or beyond float32). "
            "Fill the gaps or take these inputs out."
        )
    return numbers, how


def _labels(path: Path, name: str, labels: "Array") -> "Array":
    """One label for each input: whole numbers or strings."""
    import numpy as np

    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biuf":
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()):
            raise DataError(
                f"{path}: {name} has the shape {labels.shape}, but not a single 1 in each row; expected one class for "
                "each input."
            )
        return labels.argmax(1)
    if labels.ndim != 1:
        raise DataError(f"{path}: {name} has the shape {labels.shape}; expected (N,), or (N, classes) of 0 and 1.")
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.floor(labels)).all():
        return labels.astype(np.int64)
    if labels.dtype.kind == "b":
        return labels.astype(np.int64)
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: {name} has the type {labels.dtype} and is no list of classes; expected whole numbers or strings."
        )
    return labels


def _coded(
    path: Path, pairs: dict[str, tuple[str, str]], y: "dict[str, Array]"
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Names of the classes, and labels as positions among them."""
    import numpy as np

    known = np.unique(y["train"])
    coded = {}
    for part, labels in y.items():
        name = pairs[part][1]
        if (labels.dtype.kind == "U") != (known.dtype.kind == "U"):
            raise DataError(f"{path}: {name} and {pairs['train'][1]} are not both numbers or both strings.")
        strange = [str(value) for value in np.unique(labels) if value not in known]
        if strange:
            raise DataError(
                f"{path}: {name} has classes that {pairs['train'][1]} does not have: {_listed(strange)}. Take their "
                "inputs out, or move some to the training part."
            )
        coded[part] = torch.from_numpy(np.searchsorted(known, labels).astype(np.int64))
    return tuple(str(value) for value in known), coded


def _resized(path: Path, x: dict[str, Tensor], side: int, notes: list[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The middle squares of images, made smaller or larger."""
    shape = tuple(x["train"].shape[1:])
    if len(shape) == 1:
        raise DataError(f"{path} holds vectors of {shape[0]} features; image_size={side} is for images: leave it out.")
    if shape[1:] == (side, side):
        return x, notes
    short = min(shape[1:])
    top, left = (shape[1] - short) // 2, (shape[2] - short) // 2

    def made(points: Tensor) -> Tensor:
        middle = points[:, :, top : top + short, left : left + short]
        new = interpolate(middle.float(), (side, side), mode="bilinear", antialias=True, align_corners=False)
        return new.round().clamp(0, 255).byte() if points.dtype == torch.uint8 else new

    found = {part: torch.cat([made(chunk) for chunk in points.split(256)]) for part, points in x.items()}
    return found, [
        *notes,
        f"The images of {shape[2]} x {shape[1]} pixels (their middle squares) were made {side} x {side}.",
    ]


def _shown(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _listed(names: "dict[str, Any] | list[str]") -> str:
    names = list(names)
    return (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "no arrays"
