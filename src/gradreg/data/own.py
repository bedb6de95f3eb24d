"""The user's own data: class folders, archives of them, and .npz files, with everything that was decided in words."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradreg.data.arrays import read_arrays
from gradreg.data.dataset import DataError, Dataset
from gradreg.data.files import opened
from gradreg.data.fingerprint import check_kind, quick_fingerprint
from gradreg.data.images import SMALLEST, read_images
from gradreg.data.layout import Layout, find_layout
from gradreg.data.pack import content_hash, load_pack, save_pack

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Own", "load_pack", "quick_fingerprint", "read_own", "save_pack"]

_BROKEN_PART = 0.05
_FEW = 3


@dataclass(frozen=True)
class Own:
    """What was read.

    Attributes:
        dataset: with `content` set.
        notes: a sentence about each thing that was decided, left aside or looks wrong.
    """

    dataset: Dataset
    notes: tuple[str, ...]


def read_own(path: Path, *, image_size: int | None = None) -> Own:
    """Reads a data set from a folder, a .zip or an .npz file.

    Args:
        path: a folder of class folders; a folder with train/ and val/ (or valid/, validation/) or test/ or both, with
            class folders in each; TinyImageNet-200 as published; a .zip of any of these; or an .npz with ``X`` and
            ``y`` (or ``x_train``, ``y_train``, ``x_test``, ``y_test`` and so on).
        image_size: side of the squares that images are made to. None: image files of one size of at most 64 are kept,
            others become squares of at most 64; arrays are kept.

    Returns:
        The data set and notes for the user. Where there is only val/ or only test/ beside train/, that one is the test
        set. Broken images are left out and named.

    Raises:
        DataError: nothing to read there, or not in a layout that is known; more than one image in twenty is broken;
            fewer than two classes. Says what to do.

    Example:
        >>> own = read_own(Path("photos"))  # doctest: +SKIP
        >>> own.dataset.classes  # doctest: +SKIP
        ('cat', 'dog')
    """
    path = Path(path).expanduser()
    if image_size is not None and (not isinstance(image_size, int) or image_size < SMALLEST):
        raise DataError(f"image_size={image_size!r} is out of range; expected a whole number of at least {SMALLEST}.")
    check_kind(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        arrays = read_arrays(path, image_size)
        return _finished(path, arrays.classes, arrays.x, arrays.y, arrays.called, list(arrays.notes))
    with opened(path) as files:
        layout = find_layout(files)
        names = [name for entries in layout.parts.values() for name, _ in entries]
        pictures = read_images(layout.files.read, names, image_size)
    notes = [*layout.notes, *pictures.notes]
    if pictures.broken:
        notes.append(_broken(path, pictures.broken, len(names)))
    x, y = _divided(layout, pictures.x, pictures.good)
    return _finished(path, layout.classes, x, y, layout.called, notes)


def _broken(path: Path, broken: dict[str, str], count: int) -> str:
    """A sentence about broken images; an error where they are too many."""
    first = "; ".join(f"{name} ({why})" for name, why in list(broken.items())[:5])
    more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
    if len(broken) > _BROKEN_PART * count:
        raise DataError(
            f"{path} has {len(broken)} broken images of {count}, more than {_BROKEN_PART:.0%}: {first}{more}. Delete "
            "them or mend them (open and save them anew), or download the data again."
        )
    return f"{len(broken)} of {count} images cannot be read and were left out: {first}{more}."


def _divided(
    layout: Layout, x: "np.ndarray[Any, Any]", good: "np.ndarray[Any, Any]"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Images and labels by part; the images share one memory."""
    import numpy as np

    labels = np.array([label for entries in layout.parts.values() for _, label in entries], dtype=np.int64)
    ends = np.cumsum([len(entries) for entries in layout.parts.values()])
    cuts = [0, *np.searchsorted(good, ends)]
    all_x, all_y = torch.from_numpy(x), torch.from_numpy(labels[good])
    bounds = [(part, slice(cuts[i], cuts[i + 1])) for i, part in enumerate(layout.parts)]
    return {part: all_x[at] for part, at in bounds}, {part: all_y[at] for part, at in bounds}


def _finished(
    path: Path,
    classes: tuple[str, ...],
    x: dict[str, Tensor],
    y: dict[str, Tensor],
    called: dict[str, str],
    notes: list[str],
) -> Own:
    """The data set, with what all kinds of sources have in common."""
    for part in [part for part in x if part != "train" and len(y[part]) == 0]:
        notes.append(f"{called[part]} has no inputs and was left aside.")
        del x[part], y[part]
    classes, y = _without_empty(path, classes, y, called, notes)
    counts = y["train"].bincount(minlength=len(classes)).tolist()
    few = [f"{name}: {count}" for name, count in zip(classes, counts, strict=True) if count < _FEW]
    if few:
        notes.append(f"Classes with fewer than {_FEW} training points: {_listed(few)}.")
    if "validation" in x and "test" not in x:
        x, y = ({"test" if part == "validation" else part: v for part, v in parts.items()} for parts in (x, y))
        notes.append(
            f"There is no test set beside {called['validation']}: it is the test set, and validation points are drawn "
            f"from {called['train']}."
        )
    elif "test" in x and "validation" not in x:
        notes.append(
            f"{called['test']} is the test set; there is no validation set, so validation points are drawn from "
            f"{called['train']}."
        )
    notes += _repeated(x, y)
    resolved = path.resolve()
    dataset = Dataset(
        name=resolved.name if path.is_dir() else resolved.stem,
        x=x["train"],
        y=y["train"],
        classes=classes,
        test_x=x.get("test"),
        test_y=y.get("test"),
        validation_x=x.get("validation"),
        validation_y=y.get("validation"),
    )
    return Own(replace(dataset, content=content_hash(dataset)), tuple(notes))


def _without_empty(
    path: Path, classes: tuple[str, ...], y: dict[str, Tensor], called: dict[str, str], notes: list[str]
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Takes classes without training points out."""
    counts = y["train"].bincount(minlength=len(classes))
    empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if count == 0]
    for part, labels in y.items():
        strange = [classes[label] for label in labels.unique().tolist() if counts[label] == 0]
        if strange:
            raise DataError(
                f"{path}: {called[part]} has classes of which {called['train']} has no image that can be read: "
                f"{_listed(strange)}. Add images or take these classes away."
            )
    left = [name for name in classes if name not in empty]
    if len(left) < 2:
        raise DataError(f"{path} has inputs of {len(left)} class ({_listed(left)}); expected two classes or more.")
    if not empty:
        return classes, y
    notes.append(f"Classes without any image that can be read were left out: {_listed(empty)}.")
    moved = (counts > 0).cumsum(0) - 1
    return tuple(left), {part: moved[labels] for part, labels in y.items()}


def _repeated(x: dict[str, Tensor], y: dict[str, Tensor]) -> Iterable[str]:
    """Sentences about inputs that are there more than once, number for number."""
    seen = {part: [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x[part].numpy()] for part in x}
    what = "image" if x["train"].ndim == 4 else "point"
    trained = Counter(seen["train"])
    labels: dict[bytes, set[int]] = {}
    for key, label in zip(seen["train"], y["train"].tolist(), strict=True):
        labels.setdefault(key, set()).add(label)
    copies = sum(trained.values()) - len(trained)
    if copies:
        yield f"{_are(copies, f'training {what}')} identical to an earlier one."
    mixed = sum(trained[key] for key, found in labels.items() if len(found) > 1)
    if mixed:
        yield f"{_are(mixed, f'training {what}')} in more than one class."
    for part, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if part not in seen or other not in seen:
            continue
        known = set(seen[other])
        both = sum(key in known for key in seen[part])
        if both:
            word = "training" if other == "train" else other
            yield f"{_are(both, f'{part} {what}')} also among the {word} {what}s."


def _are(count: int, what: str) -> str:
    return f"{count} {what} is" if count == 1 else f"{count} {what}s are"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
