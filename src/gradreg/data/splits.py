"""Splits: training, validation and test points that never meet, and standardization from the training points alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradreg import _random
from gradreg.data.dataset import DataError, Dataset

# The shuffle that sets validation and test points apart: one for all seeds, so that no run trains on another's.
_FIXED = 20180201


@dataclass(frozen=True)
class Split:
    """Three disjoint parts, standardized per channel or feature by the training part's mean and standard deviation.

    Attributes:
        x, y: training points (N, C, H, W) or (N, D), float32, and labels (N,), or (N, m) of a regression.
        validation_x, validation_y: for choosing weights.
        test_x, test_y: for the final table; None unless asked for, so that nothing else can look at them.
        mean, std: of the training part, (C,) or (D,); 0 and 1 where the data set is not to be standardized.
    """

    x: Tensor
    y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    mean: Tensor
    std: Tensor
    test_x: Tensor | None = None
    test_y: Tensor | None = None


def split(
    data: Dataset,
    *,
    train_size: int,
    validation_size: int,
    test_size: int,
    seed: int,
    balanced: bool = True,
    with_test: bool = False,
) -> Split:
    """Draws a training subset; validation and test points are the same for every seed.

    Args:
        data: where to draw from.
        train_size: number of training points, the same for each class where balanced; twins are not counted.
        validation_size: number of validation points, drawn from the same images; an official validation set is used
            whole instead.
        test_size: number of test points, drawn from the same images; 0 uses the official test set.
        seed: of the training subset.
        balanced: the same number of each class; else the first of a shuffle, as the paper's published scripts.
        with_test: whether to hand the test points out.

    Raises:
        DataError: more points asked for than there are, test points of a data set without any, or the same number of
            each class of a regression.

    Example:
        >>> from gradreg.data.digits import load_digits
        >>> parts = split(load_digits(), train_size=100, validation_size=400, test_size=797, seed=0)
        >>> parts.x.shape
        torch.Size([100, 1, 8, 8])
    """
    parts = indices(data, train_size, validation_size, test_size, seed=seed, balanced=balanced)
    x, y = scaled(data.x[parts.train]), data.y[parts.train]
    if data.twin:
        x, y = torch.cat([x, x + data.twin]), torch.cat([y, y])
    mean, std = _moments(x) if data.standardize else (torch.zeros(x.shape[1]), torch.ones(x.shape[1]))
    shape = (-1, *(1,) * (x.ndim - 2))

    def standardized(points: Tensor) -> Tensor:
        return (scaled(points) - mean.reshape(shape)) / std.reshape(shape)

    test_x, test_y = None, None
    if with_test:
        if data.test_x is None and test_size == 0:
            raise DataError(f"test_size=0, but {data.name} has no official test set; expected a number of test points.")
        test_x = standardized(data.x[parts.test] if data.test_x is None else data.test_x)
        test_y = data.y[parts.test] if data.test_y is None else data.test_y
    return Split(
        x=standardized(x),
        y=y,
        validation_x=standardized(data.x[parts.validation] if data.validation_x is None else data.validation_x),
        validation_y=data.y[parts.validation] if data.validation_y is None else data.validation_y,
        mean=mean,
        std=std,
        test_x=test_x,
        test_y=test_y,
    )


def scaled(points: Tensor) -> Tensor:
    """Bytes 0 ... 255 as float32 in [0, 1]; other numbers as they are."""
    return points.float() / 255 if points.dtype == torch.uint8 else points


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel or feature; 1 for a deviation of 0, or of a single number."""
    others = (0, *range(2, x.ndim))
    if x.numel() == x.shape[1]:
        return x.mean(others), torch.ones(x.shape[1])
    std, mean = torch.std_mean(x, others)
    return mean, torch.where(std > 0, std, 1)


@dataclass(frozen=True)
class Indices:
    """Positions in a data set's images, disjoint."""

    train: Tensor
    validation: Tensor
    test: Tensor


def indices(
    data: Dataset, train_size: int, validation_size: int, test_size: int, *, seed: int, balanced: bool = True
) -> Indices:
    """Positions of the three parts; see `split`."""
    if balanced and not data.classes:
        raise DataError(
            f"balanced=True, but the labels of {data.name} are numbers, not classes; write balanced=False, which takes "
            "the first train_size of a shuffle."
        )
    if data.test_x is not None:
        test_size = 0
    if data.validation_x is not None:
        validation_size = 0
    # One's own data set keeps its held-out points when it is renamed, and gets others when it changes.
    identity = data.content or data.name
    kind = "images" if data.x.ndim > 2 else "points"
    if min(validation_size, test_size) < 0 or validation_size + test_size >= len(data.y):
        raise DataError(
            f"validation_size={validation_size} and test_size={test_size} are out of range: {data.name} has "
            f"{len(data.y)} {kind}; expected sizes >= 0 with a sum of at most {len(data.y) - 1}."
        )
    fixed = torch.randperm(len(data.y), generator=_random.generator_for(_FIXED, f"{identity}/held out"))
    held_out, rest = fixed[: validation_size + test_size], fixed[validation_size + test_size :]
    shuffled = rest[torch.randperm(len(rest), generator=_random.generator_for(seed, "training subset"))]
    if not 0 < train_size <= len(rest):
        raise DataError(
            f"train_size={train_size} is out of range: {data.name} has {len(data.y)} {kind}, of which {len(held_out)} "
            f"are held out for validation and test; expected 1 to {len(rest)}."
        )
    train = _balanced(data, shuffled, train_size) if balanced else shuffled[:train_size]
    return Indices(train, held_out[test_size:], held_out[:test_size])


def _balanced(data: Dataset, shuffled: Tensor, train_size: int) -> Tensor:
    """The first of each class, as many as go into the size evenly; the rest of the size from the classes in turn."""
    classes = len(data.classes)
    kind = "images" if data.x.ndim > 2 else "points"
    chosen = []
    for label in range(classes):
        share = train_size // classes + (label < train_size % classes)
        members = shuffled[data.y[shuffled] == label][:share]
        if len(members) < share:
            raise DataError(
                f"train_size={train_size} needs {share} {kind} of class {data.classes[label]!r}, but only "
                f"{len(members)} are left for training; ask for fewer, or for an unbalanced subset (--unbalanced)."
            )
        chosen.append(members)
    return torch.cat(chosen)
