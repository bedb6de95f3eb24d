"""Splits: training, validation and test points that never meet, and standardization from the training points alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradreg import _random
from gradreg.data.dataset import DataError, Dataset

# What takes more bytes than this as float32 stays as bytes 0 ... 255 until it is used: 256 MiB.
LARGE = 2**28
# The shuffle that sets validation and test points apart: one for all seeds, so that no run trains on another's.
_FIXED = 20180201


@dataclass(frozen=True)
class Split:
    """Three disjoint parts, standardized per channel or feature by the training part's mean and standard deviation.

    Images that are kept as bytes stay so where there are many (more than `LARGE` as float32): what takes points out of
    a part hands them to `prepared`, which does the rest.

    Attributes:
        x, y: training points (N, C, H, W) or (N, D), float32 (or bytes, see above), and labels (N,), or (N, m) of a
            regression.
        validation_x, validation_y: for choosing weights.
        test_x, test_y: for the final table; None unless asked for, so that nothing else can look at them.
        mean, std: of the training part, (C,) or (D,); 0 and 1 where the data set is not to be standardized.
        unlabelled_x: further training points, without labels; None unless asked for.
    """

    x: Tensor
    y: Tensor
    validation_x: Tensor
    validation_y: Tensor
    mean: Tensor
    std: Tensor
    test_x: Tensor | None = None
    test_y: Tensor | None = None
    unlabelled_x: Tensor | None = None

    def prepared(self, points: Tensor) -> Tensor:
        """Points of one of the parts as a network takes them: bytes are standardized, others are already."""
        return standardized(points, self.mean, self.std) if points.dtype == torch.uint8 else points


def split(
    data: Dataset,
    *,
    train_size: int,
    validation_size: int,
    test_size: int,
    seed: int,
    balanced: bool = True,
    with_test: bool = False,
    test_points: int = 0,
    unlabelled: int = 0,
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
        test_points: hand out so many of them, the first; 0: all.
        unlabelled: number of unlabelled points, the next of the seed's shuffle: of those that are neither training,
            validation nor test points. Their labels are not handed out; only a balanced draw of the training points
            looks at the labels of all that it draws from.

    Raises:
        DataError: more points asked for than there are, test points of a data set without any, or the same number of
            each class of a regression.

    Example:
        >>> from gradreg.data.digits import load_digits
        >>> parts = split(load_digits(), train_size=100, validation_size=400, test_size=797, seed=0)
        >>> parts.x.shape
        torch.Size([100, 1, 8, 8])
    """
    parts = indices(data, train_size, validation_size, test_size, seed=seed, balanced=balanced, unlabelled=unlabelled)
    x, y = data.x[parts.train], data.y[parts.train]
    if data.twin:
        x, y = scaled(x), torch.cat([y, y])
        x = torch.cat([x, x + data.twin])
    mean, std = moments(x) if data.standardize else (torch.zeros(x.shape[1]), torch.ones(x.shape[1]))

    def ready(points: Tensor) -> Tensor:
        is_large = points.dtype == torch.uint8 and 4 * points.numel() > LARGE
        return points if is_large else standardized(points, mean, std)

    test_x, test_y = None, None
    if with_test:
        if data.test_x is None and test_size == 0:
            raise DataError(f"test_size=0, but {data.name} has no official test set; expected a number of test points.")
        first = slice(test_points or None)
        test_x = ready(data.x[parts.test[first]] if data.test_x is None else data.test_x[first])
        test_y = data.y[parts.test[first]] if data.test_y is None else data.test_y[first]
    return Split(
        x=ready(x),
        y=y,
        validation_x=ready(data.x[parts.validation] if data.validation_x is None else data.validation_x),
        validation_y=data.y[parts.validation] if data.validation_y is None else data.validation_y,
        mean=mean,
        std=std,
        test_x=test_x,
        test_y=test_y,
        unlabelled_x=ready(data.x[parts.unlabelled]) if unlabelled else None,
    )


def scaled(points: Tensor) -> Tensor:
    """Bytes 0 ... 255 as float32 in [0, 1]; other numbers as they are."""
    return points.float() / 255 if points.dtype == torch.uint8 else points


def standardized(points: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Points less the mean of their channel or feature, over its standard deviation; bytes are scaled to [0, 1] first.

    Args:
        points: (N, C, H, W) or (N, D).
        mean, std: (C,) or (D,); moved to where the points are.
    """
    shape = (-1, *(1,) * (points.ndim - 2))
    mean, std = mean.to(points.device), std.to(points.device)
    return (scaled(points) - mean.reshape(shape)) / std.reshape(shape)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel or feature; 1 for a deviation of 0, or of a single number.

    Args:
        x: (N, C, H, W) or (N, D); of bytes, they are those of x / 255.
    """
    others = (0, *range(2, x.ndim))
    if x.numel() == x.shape[1]:
        return scaled(x).mean(others), torch.ones(x.shape[1])
    if x.dtype == torch.uint8 and 4 * x.numel() > LARGE:
        return _moments_of_bytes(x)
    std, mean = torch.std_mean(scaled(x), others)
    return mean, torch.where(std > 0, std, 1)


def _moments_of_bytes(x: Tensor) -> tuple[Tensor, Tensor]:
    """From how often each of the 256 values is there, which takes no memory and rounds once."""
    counts = torch.zeros(x.shape[1], 256, dtype=torch.float64)
    for chunk in x.split(1024):
        for channel in range(x.shape[1]):
            counts[channel] += chunk[:, channel].flatten().bincount(minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    count = counts[0].sum()
    mean = counts @ values / count
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / (count - 1)
    return mean.float(), torch.where(variance > 0, variance.sqrt(), 1).float()


@dataclass(frozen=True)
class Indices:
    """Positions in a data set's images, disjoint."""

    train: Tensor
    validation: Tensor
    test: Tensor
    unlabelled: Tensor


def indices(
    data: Dataset,
    train_size: int,
    validation_size: int,
    test_size: int,
    *,
    seed: int,
    balanced: bool = True,
    unlabelled: int = 0,
) -> Indices:
    """Positions of the parts; see `split`."""
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
    left = len(rest) - train_size
    if not 0 <= unlabelled <= left:
        raise DataError(
            f"unlabelled={unlabelled} is out of range: of the {len(data.y)} {kind} of {data.name}, {len(held_out)} are "
            f"held out for validation and test and {train_size} are for training; expected 0 to {left}."
        )
    others = shuffled[~torch.isin(shuffled, train)][:unlabelled]
    return Indices(train, held_out[test_size:], held_out[:test_size], others)


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
