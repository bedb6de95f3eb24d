"""TinyImageNet-200 in its own layout and the JPEG copy of CIFAR-10: small ones of the kind, and damaged ones."""

import hashlib
import io
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gradreg.data import image_sets
from gradreg.data.dataset import DataError, Dataset, data_directory
from gradreg.data.files import opened
from gradreg.data.image_sets import CIFAR10_JPEG, TINYIMAGENET, TINYIMAGENET_SUB100, ImageSet, read_image_set
from gradreg.data.images import read_images
from gradreg.data.layout import find_layout

# Three classes, in an order that is not the alphabet's; two training images and one validation image of each.
WNIDS = ("n03", "n01", "n02")
WORDS = {"n01": "cat, house cat", "n02": "dog", "n03": "goldfish, Carassius auratus", "n09": "elsewhere"}
TINY = replace(TINYIMAGENET, classes=3, train=2, test=1)
JPEG = replace(CIFAR10_JPEG, classes=2, train=3, test=2)


def picture(value: int, side: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """An image of one colour, which JPEG keeps to a step or two."""
    color = value if mode == "L" else (value, 255 - value, value // 2)
    file = io.BytesIO()
    Image.new(mode, (side, side), color).save(file, kind, quality=95)
    return file.getvalue()


def tiny(side: int = 64) -> dict[str, bytes]:
    """The files of a small TinyImageNet: the colour says which image it is. One training image is grey, as some are."""
    files = {"wnids.txt": "\n".join(WNIDS).encode() + b"\n"}
    files["words.txt"] = "".join(f"{wnid}\t{words}\n" for wnid, words in sorted(WORDS.items())).encode()
    annotations = []
    for place, wnid in enumerate(sorted(WNIDS)):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"0\t0\t63\t63\n"
        for i in range(2):
            grey = place == i == 1
            value = 20 * (2 * place + i)
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = picture(value, side, mode="L" if grey else "RGB")
        files[f"val/images/val_{2 - place}.JPEG"] = picture(200 + 20 * place, side)
        annotations.append(f"val_{2 - place}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    files["val/val_annotations.txt"] = "".join(annotations).encode()
    files["test/images/test_0.JPEG"] = picture(9, side)
    return files


def jpeg() -> dict[str, bytes]:
    """The files of a small JPEG copy of CIFAR-10."""
    return {
        f"{part}/{name}/{i:04}.jpg": picture(100 * place + 10 * i + (5 if part == "test" else 0), 32)
        for part, count in (("train", 3), ("test", 2))
        for place, name in enumerate(("airplane", "automobile"))
        for i in range(count)
    }


def folder(path: Path, files: dict[str, bytes], top: str) -> Path:
    for name, content in files.items():
        (path / top / name).parent.mkdir(parents=True, exist_ok=True)
        (path / top / name).write_bytes(content)
    return path / top


def archive(path: Path, files: dict[str, bytes], top: str) -> Path:
    found = path / f"{top}.zip"
    found.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(found, "w") as target:
        for name, content in files.items():
            target.writestr(f"{top}/{name}", content)
    return found


def colors(x: torch.Tensor) -> list[int]:
    """The red of each image; they are of one colour."""
    assert (x.flatten(2).float().std(2) < 2).all()
    return [round(value) for value in x[:, 0].flatten(1).float().mean(1).tolist()]


def near(found: list[int], expected: list[int]) -> bool:
    return len(found) == len(expected) and all(abs(a - b) <= 3 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("pack", [folder, archive])
def test_tinyimagenet_in_its_own_layout_is_read(tmp_path: Path, pack: Callable[..., Path]) -> None:
    data = read_image_set(pack(tmp_path, tiny(), "tiny-imagenet-200"), TINY)
    assert data.test_x is not None
    assert data.test_y is not None
    assert data.name == "tinyimagenet"
    assert data.classes == ("cat", "dog", "goldfish")
    assert data.x.dtype == data.test_x.dtype == torch.uint8
    assert data.x.shape == (6, 3, 64, 64)
    assert near(colors(data.x), [0, 20, 40, 60, 80, 100])
    assert data.y.tolist() == [0, 0, 1, 1, 2, 2]
    grey = data.x[3].float()
    assert (grey[0] - grey[2]).abs().max() <= 1  # an image without colours among those with
    # Labels are those of the text file, not of the order of files.
    order = data.test_y.argsort()
    assert data.test_y[order].tolist() == [0, 1, 2]
    assert near(colors(data.test_x[order]), [200, 220, 240])
    assert data.validation_x is None


@pytest.mark.parametrize("pack", [folder, archive])
def test_the_jpeg_copy_is_read(tmp_path: Path, pack: Callable[..., Path]) -> None:
    data = read_image_set(pack(tmp_path, jpeg(), "cifar10-jpeg"), JPEG)
    assert data.test_x is not None
    assert data.test_y is not None
    assert data.classes == ("airplane", "automobile")
    assert data.x.shape == (6, 3, 32, 32)
    assert near(colors(data.x), [0, 10, 20, 100, 110, 120])
    assert data.y.tolist() == [0, 0, 0, 1, 1, 1]
    found = sorted(zip(data.test_y.tolist(), colors(data.test_x), strict=True))
    assert [label for label, _ in found] == [0, 0, 1, 1]
    assert near([color for _, color in found], [5, 15, 105, 115])


def test_the_first_test_images_are_of_all_classes_and_the_order_is_fixed(tmp_path: Path) -> None:
    files = {
        f"{part}/{name}/{i:02}.png": picture(i, 32, "PNG")
        for part in ("train", "test")
        for name in "abcde"
        for i in range(20)
    }
    path, known = archive(tmp_path, files, "many"), replace(CIFAR10_JPEG, classes=5, train=20, test=20)
    one, two = read_image_set(path, known), read_image_set(path, known)
    assert one.test_y is not None
    assert two.test_y is not None
    assert torch.equal(one.test_y, two.test_y)
    assert one.y.tolist() == sorted(one.y.tolist())
    assert len(one.test_y[:30].unique()) == 5


# --- damage -----------------------------------------------------------------------------------------------------------


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name not in names}


FIRST = "train/n01/images/n01_0.JPEG"
CUT = tiny()[FIRST][:200]
ANNOTATIONS = tiny()["val/val_annotations.txt"]
DAMAGES: dict[str, tuple[dict[str, bytes], str]] = {
    "image cut": (tiny() | {FIRST: CUT}, rf"has 1 images that cannot be read, such as {FIRST} \(.+\)\. Copy or"),
    "image empty": (tiny() | {FIRST: b""}, rf"such as {FIRST} \(it is empty\)"),
    "not an image": (tiny() | {FIRST: b"<html>"}, rf"such as {FIRST} \(it is not an image\)"),
    "image missing": (
        without(tiny(), FIRST),
        r"has other numbers of train images than the 2 of each class that tinyimagenet has: cat: 1\. Copy",
    ),
    "image more": (
        tiny() | {"train/n02/images/n02_9.JPEG": tiny()[FIRST]},
        r"than the 2 of each class that tinyimagenet has: dog: 3\.",
    ),
    "validation image missing": (
        without(tiny(), "val/images/val_0.JPEG"),
        r"other numbers of validation images than the 1 of each class that tinyimagenet has: goldfish: 0\.",
    ),
    "label missing": (
        tiny() | {"val/val_annotations.txt": ANNOTATIONS.split(b"\n", 1)[1]},
        "other numbers of validation images .*: cat: 0",
    ),
    "label of another class": (
        tiny() | {"val/val_annotations.txt": ANNOTATIONS.replace(b"n02", b"n07")},
        r"val_annotations.txt names classes that train/ does not have: n07",
    ),
    "label of the wrong class": (
        tiny() | {"val/val_annotations.txt": ANNOTATIONS.replace(b"n02", b"n01")},
        "other numbers of validation images .*: cat: 2, dog: 0",
    ),
    "no annotations": (without(tiny(), "val/val_annotations.txt"), r"has train/; expected train/ and test/ or val/"),
    "class missing": (
        {name: content for name, content in tiny().items() if not name.startswith("train/n03") and "_ann" not in name}
        | {"val/val_annotations.txt": b"".join(ANNOTATIONS.splitlines(keepends=True)[:2])},
        r"classes in train/ that are not those of wnids.txt: n03 lacking, none more",
    ),
    "class renamed in the list": (
        tiny() | {"wnids.txt": b"n01\nn02\nn05\n"},
        "not those of wnids.txt: n05 lacking, n03 more",
    ),
    "another size": (
        tiny(32),
        r"has images of the shape \(3, 32, 32\); expected \(3, 64, 64\) for all\. It is not",
    ),
    "one of another size": (tiny() | {FIRST: tiny(60)[FIRST]}, r"has images of several sizes; expected \(3, 64, 64\)"),
    "classes less": (
        without(
            {name: content for name, content in tiny().items() if "n03" not in name},
            "wnids.txt",
            "val/images/val_0.JPEG",
        )
        | {"val/val_annotations.txt": b"".join(ANNOTATIONS.splitlines(keepends=True)[:2])},
        "has 2 classes; expected the 3 of tinyimagenet",
    ),
}


@pytest.mark.parametrize("pack", [folder, archive])
@pytest.mark.parametrize(("files", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named(tmp_path: Path, files: dict[str, bytes], message: str, pack: Callable[..., Path]) -> None:
    path = pack(tmp_path, files, "tiny-imagenet-200")
    with pytest.raises(DataError, match=message):
        read_image_set(path, TINY)


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, jpeg(), "cifar10-jpeg")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be read as a zip archive"):
        read_image_set(path, JPEG)


# --- the official ones ------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data directory, and small archives that are taken for the official ones."""
    monkeypatch.setenv("GRADREG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()

    def small(known: ImageSet, files: dict[str, bytes]) -> ImageSet:
        content = archive(tmp_path / "official", files, known.archive.removesuffix(".zip")).read_bytes()
        return replace(
            known, sha256=hashlib.sha256(content).hexdigest(), mirrors=("http://127.0.0.1:9/",) if known.mirrors else ()
        )

    monkeypatch.setattr(image_sets, "TINYIMAGENET", small(TINY, tiny()))
    sub = replace(TINYIMAGENET_SUB100, classes=3, train=2, test=1)
    monkeypatch.setattr(image_sets, "TINYIMAGENET_SUB100", small(sub, tiny()))
    monkeypatch.setattr(image_sets, "CIFAR10_JPEG", small(JPEG, jpeg()))
    return tmp_path / "data"


def place(root: Path, known: ImageSet, below: str = "") -> Path:
    path = root / below / known.archive
    path.parent.mkdir(exist_ok=True)
    shutil.copy(root.parent / "official" / known.archive, path)
    return path


LOADS: list[tuple[ImageSet, Callable[[], Dataset]]] = [
    (TINYIMAGENET, image_sets.load_tinyimagenet),
    (TINYIMAGENET_SUB100, image_sets.load_tinyimagenet_sub100),
    (CIFAR10_JPEG, image_sets.load_cifar10_jpeg),
]


@pytest.mark.parametrize(("known", "load"), LOADS, ids=[known.name for known, _ in LOADS])
def test_archives_in_the_data_directory_are_read_once(
    root: Path, known: ImageSet, load: Callable[[], Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    place(root, known)
    first = load()
    monkeypatch.setattr(image_sets, "read_image_set", None)
    second = load()
    assert first.name == second.name == known.name
    assert torch.equal(first.x, second.x)
    assert first.test_x is not None
    assert second.test_x is not None
    assert torch.equal(first.test_x, second.test_x)
    assert len(first.classes) == (2 if known is CIFAR10_JPEG else 3)


@pytest.mark.parametrize(("known", "load"), LOADS, ids=[known.name for known, _ in LOADS])
def test_another_archive_is_refused(root: Path, known: ImageSet, load: Callable[[], Dataset]) -> None:
    path = place(root, known, known.name)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=rf"{known.archive} has another checksum than the official file\."):
        load()


@pytest.mark.parametrize(("known", "load"), LOADS[1:], ids=[known.name for known, _ in LOADS[1:]])
def test_a_copy_that_is_not_there_cannot_be_downloaded(
    root: Path, known: ImageSet, load: Callable[[], Dataset]
) -> None:
    with pytest.raises(DataError) as caught:
        load()
    assert str(caught.value) == (
        f"{known.archive} is not in {root}, and there is no place to download it from. Put {known.archive} into "
        f"{root}, or set GRADREG_DATA to the folder that holds it."
    )


def test_tinyimagenet_unpacked_is_read_and_else_downloaded(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"tiny-imagenet-200.zip is not in .*tinyimagenet and could not be downloaded\. Put"
    ):
        image_sets.load_tinyimagenet()
    folder(root, tiny(), "tiny-imagenet-200")
    assert image_sets.load_tinyimagenet().x.shape == (6, 3, 64, 64)


# --- the real copies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [CIFAR10_JPEG, TINYIMAGENET_SUB100], ids=lambda known: known.name)
def test_the_real_copy_has_every_image_and_a_sample_of_them_decodes(known: ImageSet) -> None:
    """All names and labels; every 200th image."""
    path = data_directory() / known.archive
    if not path.is_file():
        pytest.skip(f"{known.archive} is not here: set GRADREG_DATA to the folder that holds it")
    image_sets._check(path, known)
    with opened(path) as files:
        layout = find_layout(files)
        held = layout.parts["test" if "test" in layout.parts else "validation"]
        for entries, size in ((layout.parts["train"], known.train), (held, known.test)):
            assert np.bincount([label for _, label in entries]).tolist() == [size] * known.classes
        names = [name for name, _ in [*layout.parts["train"], *held]][::200]
        pictures = read_images(layout.files.read, names)
    assert pictures.broken == {}
    assert pictures.x.shape == (len(names), 3, known.side, known.side)
    assert not pictures.resized
    assert 0.4 < pictures.x.mean() / 255 < 0.55  # as everyone quotes them: 0.47 and 0.45
    if known is CIFAR10_JPEG:
        assert layout.classes[:3] == ("airplane", "automobile", "bird")
