"""The user's own folders, archives and packed files: layouts, notes, errors, and the hash they are known by."""

import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradreg.data.dataset import DataError, Dataset
from gradreg.data.own import Own, load_pack, quick_fingerprint, read_own, save_pack
from gradreg.data.pack import content_hash

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")


def put(path: Path, seed: int, side: int = 8) -> Path:
    """An image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return path


def fill(folder: Path, *classes: str, count: int = 4, start: int = 0) -> Path:
    for at, name in enumerate(classes):
        for i in range(count):
            put(folder / name / f"{i}.png", seed=start + 100 * at + i)
    return folder


def packed(folder: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, top + str(file.relative_to(folder)))
    return path


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)).transpose(2, 0, 1).copy())


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_class_folders_are_classes_and_nested_images_count(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", "dog", "cat")
    deep = put(folder / "cat" / "indoor" / "old" / "z.png", seed=999)
    own = read_own(folder)
    assert own.notes == ()
    data = own.dataset
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert data.x.shape == (9, 3, 8, 8)
    assert data.x.dtype == torch.uint8
    assert data.y.tolist() == [0] * 5 + [1] * 4
    assert torch.equal(data.x[4], pixels(deep))
    assert torch.equal(data.x[5], pixels(folder / "dog" / "0.png"))
    assert data.test_x is data.validation_x is None


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_three_parts_are_used_as_named(tmp_path: Path, val: str) -> None:
    for at, part in enumerate(("train", val, "test")):
        fill(tmp_path / part, "a", "b", count=3 + at, start=1000 * at)
    own = read_own(tmp_path)
    data = own.dataset
    assert own.notes == ()
    assert data.validation_x is not None
    assert data.validation_y is not None
    assert data.test_x is not None
    assert data.test_y is not None
    assert [len(x) for x in (data.x, data.validation_x, data.test_x)] == [6, 8, 10]
    assert data.test_y.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(data.validation_x[0], pixels(tmp_path / val / "a" / "0.png"))


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_single_part_beside_train_is_the_test_set(tmp_path: Path, part: str) -> None:
    fill(tmp_path / "train", "a", "b")
    fill(tmp_path / part, "a", "b", start=1000)
    own = read_own(tmp_path)
    assert own.dataset.test_x is not None
    assert own.dataset.validation_x is None
    assert len(own.dataset.test_x) == 8
    expected = {
        "val": "There is no test set beside val/: it is the test set, and validation points are drawn from train/.",
        "test": "test/ is the test set; there is no validation set, so validation points are drawn from train/.",
    }
    assert own.notes == (expected[part],)


@pytest.mark.parametrize("inside", ["", "images"], ids=["flat", "one folder"])
def test_a_test_folder_without_labels_is_left_aside(tmp_path: Path, inside: str) -> None:
    fill(tmp_path / "train", "a", "b")
    put(tmp_path / "test" / inside / "1.png", 0)
    own = read_own(tmp_path)
    assert own.dataset.test_x is None
    assert own.notes == ("test/ was left aside: its images are not in class folders, so their labels are unknown.",)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert read_own(fill(tmp_path, "bus", "train")).dataset.classes == ("bus", "train")


def test_a_part_may_lack_a_class(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b")
    fill(tmp_path / "test", "b", start=1000)
    own = read_own(tmp_path)
    assert own.dataset.test_y is not None
    assert own.dataset.test_y.tolist() == [1] * 4
    assert own.notes[0] == "test/ has no images of a."


TINY = {"n01": "crane, bird", "n02": "crane, machine", "n03": "goldfish, Carassius auratus"}


def tiny(folder: Path, *, words: bool = True) -> Path:
    for at, name in enumerate(TINY):
        for i in range(3):
            put(folder / "train" / name / "images" / f"{name}_{i}.JPEG", seed=10 * at + i, side=64)
        (folder / "train" / name / f"{name}_boxes.txt").write_text("")
    lines = []
    for i, name in enumerate(["n03", "n01", "n02"]):
        put(folder / "val" / "images" / f"val_{i}.JPEG", seed=900 + i, side=64)
        lines.append(f"val_{i}.JPEG\t{name}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    put(folder / "test" / "images" / "test_0.JPEG", 5)
    (folder / "wnids.txt").write_text("\n".join(TINY))
    if words:
        (folder / "words.txt").write_text("".join(f"{key}\t{value}\n" for key, value in TINY.items()))
    return folder


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_tiny_imagenets_layout_is_known(tmp_path: Path, zipped: bool) -> None:
    folder = tiny(tmp_path / "tiny-imagenet-200")
    own = read_own(packed(folder, tmp_path / "tiny.zip", "tiny-imagenet-200/") if zipped else folder)
    data = own.dataset
    assert data.classes == ("crane (n01)", "crane (n02)", "goldfish")
    assert data.x.shape == (9, 3, 64, 64)
    assert data.test_y is not None
    assert data.test_y.tolist() == [2, 0, 1]
    assert data.validation_x is None
    assert own.notes[-3:] == (
        "This is TinyImageNet's own layout: the labels of val/ are those of its text file.",
        "test/ was left aside: its images have no labels.",
        "There is no test set beside val/: it is the test set, and validation points are drawn from train/.",
    )


def test_tiny_imagenet_without_words_has_its_own_class_names(tmp_path: Path) -> None:
    assert read_own(tiny(tmp_path, words=False)).dataset.classes == ("n01", "n02", "n03")
    with (tmp_path / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_9.JPEG\tn01\t0\t0\t62\t62\n")
    assert "Images that val/val_annotations.txt names (1) are not there." in read_own(tmp_path).notes
    with (tmp_path / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_0.JPEG\tn99\t0\t0\t62\t62\n")
    with pytest.raises(DataError, match=r"names classes that train/ does not have: n99\. Copy their folders into"):
        read_own(tmp_path)


@pytest.mark.parametrize("top", ["", "pets/", "a/pets/"])
def test_a_zip_reads_as_its_folder(tmp_path: Path, top: str) -> None:
    folder = fill(tmp_path / "pets", "cat", "dog")
    (folder / ".hidden").mkdir()
    put(folder / ".hidden" / "x.png", 1)
    path = packed(folder, tmp_path / "pets.zip", top)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/pets/cat/._0.png", b"junk")
    own = read_own(path)
    assert own.dataset.content == read_own(folder).dataset.content
    assert own.dataset.name == "pets"
    assert len(own.notes) == (top != "")
    assert all("alone: its folders were taken." in note for note in own.notes)


# --- notes ------------------------------------------------------------------------------------------------------------


def test_what_is_left_aside_is_said(tmp_path: Path) -> None:
    folder = fill(tmp_path, "a", "b", count=30)
    (folder / "a" / "list.csv").write_text("")
    (folder / "README").write_text("")
    put(folder / "loose.png", 777)
    (folder / "c").mkdir()
    put(folder / "few" / "1.png", 778)
    (folder / "b" / "0.png").write_bytes(b"")
    (folder / "b" / "1.png").write_text("hello")
    own = read_own(folder)
    assert own.notes == (
        "Files that are not images (2) were left aside: .csv: 1, no ending: 1.",
        "Images outside of the class folders (1) were left aside: loose.png.",
        "2 of 61 images cannot be read and were left out: b/0.png (it is empty); b/1.png (it is not an image).",
        "Classes without any image that can be read were left out: c.",
        "Classes with fewer than 3 training points: few: 1.",
    )
    assert own.dataset.classes == ("a", "b", "few")
    assert own.dataset.y.bincount().tolist() == [30, 28, 1]


def test_repeated_images_are_counted_and_kept(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b")
    fill(tmp_path / "test", "a", "b", start=1000)
    put(tmp_path / "train" / "a" / "again.png", seed=0)
    put(tmp_path / "train" / "b" / "other.png", seed=0)
    put(tmp_path / "test" / "a" / "known.png", seed=1)
    own = read_own(tmp_path)
    assert own.notes[1:] == (
        "2 training images are identical to an earlier one.",
        "3 training images are in more than one class.",
        "1 test image is also among the training images.",
    )
    assert len(own.dataset.x) == 10


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder = fill(tmp_path / "here", "a")
    (folder / "b").symlink_to(fill(tmp_path / "there", "x", start=500) / "x")
    (folder / "a" / "up").symlink_to(folder)
    assert read_own(folder).dataset.y.tolist() == [0] * 4 + [1] * 4


# --- errors -----------------------------------------------------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_own(path)


def test_paths_that_hold_no_data_set_say_what_is_accepted(tmp_path: Path) -> None:
    accepted = r"expected a folder with one folder of images per class, or with train/, val/ and test/ of such folders"
    refused(tmp_path / "nowhere", rf"nowhere is not there; {accepted}")
    refused(put(tmp_path / "x.png", 0), rf"x\.png is a single image; {accepted}.*an \.npz with arrays X and y")
    (tmp_path / "x.csv").write_text("")
    refused(tmp_path / "x.csv", rf"x\.csv is of no known kind; {accepted}")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"empty is empty; expected one folder of images per class:\n\s+empty/\n\s+cat/")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.heic").write_text("")
    refused(tmp_path / "text", r"text has 1 files \(\.heic\), but none is an image \(\.png, ")


def test_images_without_class_folders_are_shown_a_tree(tmp_path: Path) -> None:
    put(tmp_path / "photos" / "1.png", 0)
    refused(
        tmp_path / "photos", r"has images \(1\.png\), but no class folders\. Put the .*:\n\s+photos/\n\s+cat/    one"
    )
    put(tmp_path / "flat" / "train" / "1.png", 0)
    put(tmp_path / "flat" / "test" / "1.png", 0)
    refused(tmp_path / "flat", r"flat/train has images \(1\.png\), but no class folders")


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    refused(fill(tmp_path / "x", "cat"), r"x has images of one class alone \(cat\); expected two or more folders")
    fill(tmp_path / "y", "cat", "dog", count=1)
    fill(tmp_path / "y", "cat", count=40)
    (tmp_path / "y" / "dog" / "0.png").write_bytes(b"")
    refused(tmp_path / "y", r"y has inputs of 1 class \(cat\); expected two classes or more\.$")


def test_a_class_that_train_does_not_have_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b", count=30)
    fill(tmp_path / "test", "a", "c")
    refused(tmp_path, r"test has classes that train/ does not have: c\. Rename them as in train/ or take them away\.$")
    fill(tmp_path / "train", "c", count=1)
    (tmp_path / "train" / "c" / "0.png").write_bytes(b"")
    refused(tmp_path, r"test/ has classes of which train/ has no image that can be read: c\. Add images or take")


def test_folders_that_could_mean_two_things_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "train", "x", "y")
    fill(tmp_path / "a", "unlabelled")
    refused(tmp_path / "a", r"has train/ with class folders of its own, and beside it unlabelled\. If train/ is the")
    for part in ("train", "val", "valid"):
        fill(tmp_path / "b" / part, "x", "y")
    refused(tmp_path / "b", r"has the folders train, val, valid; expected one of a kind\. Rename or merge them\.$")
    for part in ("val", "test"):
        fill(tmp_path / "c" / part, "x", "y")
    refused(tmp_path / "c", r"has test, val but no train/; name the folder to train on train/\.$")


def test_many_broken_images_are_an_error(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", count=50)
    for i in range(6):
        (tmp_path / "a" / f"{i}.png").write_bytes(b"")
    refused(
        tmp_path,
        r"has 6 broken images of 100, more than 5%: a/0\.png \(it is empty\); .*; and 1 more\. Delete them or mend",
    )
    put(tmp_path / "a" / "5.png", 5)
    assert len(read_own(tmp_path).dataset.x) == 95


def test_archives_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"not a zip")
    refused(path, r"a\.zip cannot be read as a zip archive: File is not a zip file\. Copy or download it again")
    packed(fill(tmp_path / "x", "a", "b"), path)
    content = bytearray(path.read_bytes())
    for start in (match.start() for match in re.finditer(rb"PK\x01\x02", bytes(content))):
        content[start + 8] |= 1  # the flag of encryption
    path.write_bytes(bytes(content))
    refused(path, r"a\.zip is encrypted \(b/3\.png\); unpack it and name the folder\.$")


def test_a_damaged_member_of_an_archive_is_a_broken_image(tmp_path: Path) -> None:
    path = packed(fill(tmp_path / "x", "a", "b", count=20), tmp_path / "a.zip")
    content = path.read_bytes()
    at = content.index(b"a/7.png") + 60
    path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    (note,) = read_own(path).notes
    assert note.startswith("1 of 40 images cannot be read and were left out: a/7.png (Bad CRC-32")


@pytest.mark.parametrize("size", [7, 0, -8, 32.0])
def test_an_image_size_out_of_range_says_the_range(tmp_path: Path, size: int) -> None:
    with pytest.raises(DataError, match=rf"^image_size={size} is out of range; expected a whole number of at least 8"):
        read_own(tmp_path, image_size=size)


def test_a_given_image_size_is_used(tmp_path: Path) -> None:
    assert read_own(fill(tmp_path, "a", "b"), image_size=16).dataset.x.shape == (8, 3, 16, 16)


# --- hashes and packed files ------------------------------------------------------------------------------------------


def test_content_knows_pixels_labels_and_names_of_classes_alone(tmp_path: Path) -> None:
    first = read_own(fill(tmp_path / "x", "a", "b")).dataset
    assert len(first.content) == 16
    renamed = fill(tmp_path / "y", "a", "b")
    for i in (3, 2, 1, 0):
        os.utime((renamed / "a" / f"{i}.png").rename(renamed / "a" / f"image{i}.png"), (0, 0))
    assert read_own(renamed).dataset.content == first.content
    changed = [
        replace(first, x=first.x + (torch.arange(8) == 7).byte()[:, None, None, None]),
        replace(first, x=first.x.float()),
        replace(first, x=first.x.reshape(8, 3, 4, 16)),
        replace(first, y=first.y.flip(0)),
        replace(first, classes=("a", "c")),
        replace(first, test_x=first.x, test_y=first.y),
        replace(first, validation_x=first.x, validation_y=first.y),
    ]
    assert len({content_hash(data) for data in (first, *changed)}) == len(changed) + 1
    assert content_hash(replace(first, name="other")) == first.content


def test_the_fingerprint_follows_names_sizes_times_and_image_size(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x", "a", "b")
    found = [quick_fingerprint(folder, None)]
    assert quick_fingerprint(folder, None) == found[0]
    found.append(quick_fingerprint(folder, 32))
    os.utime(folder / "a" / "0.png", (1e9, 1e9))
    found.append(quick_fingerprint(folder, None))
    (folder / "c").mkdir()
    found.append(quick_fingerprint(folder, None))
    (folder / "a" / "0.png").rename(folder / "a" / "9.png")
    found.append(quick_fingerprint(folder, None))
    path = packed(folder, tmp_path / "x.zip")
    found.append(quick_fingerprint(path, None))
    os.utime(path, (0, 0))
    found.append(quick_fingerprint(path, None))
    assert len(set(found)) == 7
    with pytest.raises(DataError, match="nowhere is not there; expected a folder"):
        quick_fingerprint(tmp_path / "nowhere", None)


@pytest.fixture
def own(tmp_path: Path) -> Own:
    for at, part in enumerate(("train", "val", "test")):
        fill(tmp_path / "ö" / part, "ä", "b", start=1000 * at)
    return read_own(tmp_path / "ö")


def test_a_packed_data_set_comes_back_whole(tmp_path: Path, own: Own) -> None:
    path = tmp_path / "deep" / "er" / "pack.npz"
    save_pack(own.dataset, path)
    found = load_pack(path)
    for name, value in vars(own.dataset).items():
        other = getattr(found, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
    assert [file.name for file in path.parent.iterdir()] == ["pack.npz"]
    save_pack(replace(own.dataset, test_x=None, test_y=None, content=""), path)
    assert load_pack(path).test_x is None
    assert load_pack(path).content not in ("", own.dataset.content)


def test_a_damaged_pack_is_refused_and_a_failed_one_leaves_nothing(tmp_path: Path, own: Own) -> None:
    path = tmp_path / "pack.npz"
    with pytest.raises(DataError, match=r"pack\.npz is not there\. Give the command with the original data again"):
        load_pack(path)
    save_pack(own.dataset, path)
    whole = path.read_bytes()
    for content in (b"", b"x", whole[: len(whole) // 2], whole[:300] + bytes([whole[300] ^ 255]) + whole[301:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"pack\.npz is damaged or no packed data set .* Delete it and give the"):
            load_pack(path)
    np.savez(path, X=np.zeros(3))
    with pytest.raises(DataError, match=r"is damaged or no packed data set \(KeyError"):
        load_pack(path)
    save_pack(replace(own.dataset, content="0" * 16), path)
    with pytest.raises(DataError, match=r"is damaged: its content has another hash than is written in it\. Delete it"):
        load_pack(path)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OSError, match="directory"):
        save_pack(own.dataset, tmp_path / "folder.npz")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.npz", "pack.npz", "ö"]


def test_the_hash_in_the_example_is_right() -> None:
    assert content_hash(Dataset("any", torch.zeros(2, 1), torch.tensor([0, 1]), ("a", "b"))) == "fb98f3aad7928fe0"
