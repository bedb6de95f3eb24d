"""Published data sets of image files: TinyImageNet-200, and the JPEG copy of CIFAR-10."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gradreg import _random
from gradreg.data.dataset import DataError, Dataset, data_directory
from gradreg.data.decoded import decoded
from gradreg.data.download import check_sum, download
from gradreg.data.files import Files, opened
from gradreg.data.images import read_images
from gradreg.data.layout import find_layout

# The shuffle of test images.
_ORDER = 20180201


@dataclass(frozen=True)
class ImageSet:
    """A data set of image files as it is known here.

    Attributes:
        name: as on the command line; also a folder below the data directory that is looked through.
        archive, sha256: the zip archive and its checksum.
        side: of the square colour images.
        classes: number of labels.
        train, test: images of each class.
        folder: what the archive unpacks to, which is read as well; "" where only the archive is known for certain.
        mirrors: where the archive is; () where it is not to be had.
    """

    name: str
    archive: str
    sha256: str
    side: int
    classes: int
    train: int
    test: int
    folder: str = ""
    mirrors: tuple[str, ...] = ()


TINYIMAGENET = ImageSet(
    name="tinyimagenet",
    archive="tiny-imagenet-200.zip",
    sha256="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    side=64,
    classes=200,
    train=500,
    test=50,
    folder="tiny-imagenet-200",
    mirrors=("http://cs231n.stanford.edu/", "https://zenodo.org/records/10720917/files/"),
)
TINYIMAGENET_SUB100 = ImageSet(
    name="tinyimagenet-sub100",
    archive="tiny-imagenet-200-sub100.zip",
    sha256="ffcf321748d827b223c0cafccdc0a967e343fa59b60e4ecff42e6efe1e2ac98c",
    side=64,
    classes=200,
    train=100,
    test=50,
)
CIFAR10_JPEG = ImageSet(
    name="cifar10-jpeg",
    archive="cifar10-jpeg.zip",
    sha256="f96fe4ecdfe8b08ab557fd3e608a6f3123ac3fd732ce254936e6d50232ed2ebf",
    side=32,
    classes=10,
    train=5000,
    test=1000,
)


def load_tinyimagenet() -> Dataset:
    """TinyImageNet-200: 100000 images to draw from; the official validation set of 10000 is the test set.

    Bytes (N, 3, 64, 64). The official test set has no labels. The data directory (`data_directory`), or
    ``tinyimagenet/`` below it, is looked through for ``tiny-imagenet-200/`` and ``tiny-imagenet-200.zip``, in this
    order; else the archive is downloaded to ``tinyimagenet/``. The images are decoded once: see `decoded`.

    Raises:
        DataError: a file is broken or not the official one, or it can neither be found nor downloaded.

    Source: Stanford's course CS231n; the paper's section 4.5 and appendix B.3.
    """
    return _load(TINYIMAGENET)


def load_tinyimagenet_sub100() -> Dataset:
    """The first 100 of the 500 training images of each class of TinyImageNet-200, and its whole validation set.

    Otherwise as `load_tinyimagenet`: from ``tiny-imagenet-200-sub100.zip``, of one checksum.

    Raises:
        DataError: the archive is not there, broken, or another.
    """
    return _load(TINYIMAGENET_SUB100)


def load_cifar10_jpeg() -> Dataset:
    """The images of CIFAR-10 as a third party saved them as JPEG (quality about 75): real, and slightly lossy.

    50000 images to draw from and the test set of 10000, bytes (N, 3, 32, 32), from ``cifar10-jpeg.zip``, of one
    checksum. Numbers from this copy are not those of CIFAR-10: say so beside them.

    Raises:
        DataError: the archive is not there, broken, or another.
    """
    return _load(CIFAR10_JPEG)


def read_image_set(path: Path, known: ImageSet) -> Dataset:
    """Reads image files in class folders, with train/ and test/ (or val/); every one has to be there and whole.

    Args:
        path: a zip archive or a folder. TinyImageNet's layout is known: the classes of val/ are in
            val/val_annotations.txt, their names in words.txt, and their folders' names in wnids.txt.
        known: what the data set has.

    Returns:
        Bytes (N, 3, side, side); val/ as the test set where there is no test/ with labels. The test images are in the
        order of a fixed shuffle.

    Raises:
        DataError: not a layout that is known; images broken, missing, too many or of another size; classes missing.
    """
    path = Path(path)
    with opened(path) as files:
        layout = find_layout(files)
        _check_wnids(layout.files, path)
        held = "test" if "test" in layout.parts else "validation"
        if set(layout.parts) != {"train", held}:
            raise DataError(
                f"{path} has {', '.join(layout.called.values()) or 'class folders'}; expected train/ and "
                "test/ or val/, with labels for both."
            )
        _check_counts(path, known, layout.classes, {part: layout.parts[part] for part in ("train", held)})
        entries = [*layout.parts["train"], *layout.parts[held]]
        pictures = read_images(layout.files.read, [name for name, _ in entries])
    if pictures.broken:
        name, why = next(iter(pictures.broken.items()))
        raise DataError(
            f"{path} has {len(pictures.broken)} images that cannot be read, such as {name} ({why}). Copy or "
            "download it again."
        )
    shape = (3, known.side, known.side)
    if pictures.x.shape[1:] != shape or pictures.resized:
        found = "several sizes" if pictures.resized else f"the shape {pictures.x.shape[1:]}"
        raise DataError(f"{path} has images of {found}; expected {shape} for all. It is not {known.name}.")
    x, y = torch.from_numpy(pictures.x), torch.tensor([label for _, label in entries])
    size = len(layout.parts["train"])
    # Files lie by class; the first test points, which some measures are taken on, should be of all.
    order = size + torch.randperm(len(y) - size, generator=_random.generator_for(_ORDER, f"{known.name}/test order"))
    return Dataset(known.name, x[:size], y[:size], layout.classes, x[order], y[order])


def _check_wnids(files: Files, path: Path) -> None:
    """TinyImageNet's list of classes: each has its folder."""
    if "wnids.txt" not in files.names or "train" not in files.top:
        return
    listed = set(files.read("wnids.txt").decode("utf-8", "replace").split())
    there = set(files.below("train").top)
    if listed != there:
        lacking, more = sorted(listed - there), sorted(there - listed)
        raise DataError(
            f"{path} has classes in train/ that are not those of wnids.txt: {_listed(lacking)} lacking, "
            f"{_listed(more)} more. Copy or download it again."
        )


def _check_counts(path: Path, known: ImageSet, classes: Sequence[str], parts: dict[str, list[tuple[str, int]]]) -> None:
    if len(classes) != known.classes:
        raise DataError(f"{path} has {len(classes)} classes; expected the {known.classes} of {known.name}.")
    for part, size in zip(parts, (known.train, known.test), strict=True):
        counts = [0] * len(classes)
        for _, label in parts[part]:
            counts[label] += 1
        wrong = [f"{name}: {count}" for name, count in zip(classes, counts, strict=True) if count != size]
        if wrong:
            raise DataError(
                f"{path} has other numbers of {part} images than the {size} of each class that {known.name} has: "
                f"{_listed(wrong)}. Copy or download it again."
            )


def _load(known: ImageSet) -> Dataset:
    path = _find(known)

    def read() -> Dataset:
        if path.is_file():
            _check(path, known)
        return read_image_set(path, known)

    return replace(decoded(known.name, path, read), name=known.name)


def _find(known: ImageSet) -> Path:
    root = data_directory()
    for name in filter(None, (known.folder, known.archive)):
        for path in (root / name, root / known.name / name):
            if path.exists():
                return path
    instead = f"Put {known.archive} into {root}, or set GRADREG_DATA to the folder that holds it."
    if not known.mirrors:
        raise DataError(f"{known.archive} is not in {root}, and there is no place to download it from. {instead}")
    return download(known.archive, root / known.name, known.mirrors, lambda path: _check(path, known), instead=instead)


def _check(path: Path, known: ImageSet) -> None:
    again = "Delete it to have it downloaded again." if known.mirrors else "Copy it again."
    check_sum(path, known.sha256, again)


def _listed(names: Sequence[str]) -> str:
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"
