"""Which file belongs to which class and part: class folders, train/val/test folders, TinyImageNet's own layout."""

from collections import Counter
from dataclasses import dataclass

from gradreg.data.dataset import DataError
from gradreg.data.files import Files, ending, is_image

TREE = """
    {name}/
        cat/    one.jpg, two.jpg, ...
        dog/    one.jpg, two.jpg, ..."""
_PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_ANNOTATIONS = "val_annotations.txt"


@dataclass(frozen=True)
class Layout:
    """Where the images are.

    Attributes:
        files: the tree that the names are relative to.
        classes: names of the classes.
        parts: by "train", and "validation" and "test" where there are such folders: each image's name and label.
        called: what these parts are called there.
        notes: what was decided or left aside.
    """

    files: Files
    classes: tuple[str, ...]
    parts: dict[str, list[tuple[str, int]]]
    called: dict[str, str]
    notes: tuple[str, ...]


def find_layout(files: Files) -> Layout:
    """Reads the layout from the names of folders and files.

    Raises:
        DataError: no images, no class folders, fewer than two classes, or a class that is not in train/.
    """
    if not any(map(is_image, files.names)):
        raise DataError(_without_images(files))
    files, notes = _looked_through(files)
    folders = _part_folders(files)
    if not folders:
        layout = _class_folders(files)
    elif "validation" in folders and f"{folders['validation']}/{_ANNOTATIONS}" in files.names:
        layout = _tiny_imagenet(files, folders["train"], folders["validation"])
    else:
        layout = _part_layout(files, folders)
    return Layout(layout.files, layout.classes, layout.parts, layout.called, (*notes, *layout.notes))


def _without_images(files: Files) -> str:
    if not files.names:
        return f"{files.where} is empty; expected one folder of images per class:{_tree(files)}"
    kinds = ", ".join(sorted({f".{ending(name)}" if ending(name) else "no ending" for name in files.names})[:8])
    return (
        f"{files.where} has {len(files.names)} files ({kinds}), but none is an image (.png, .jpg, .gif, .bmp, .tif, "
        f".webp, .ppm); expected one folder of images per class:{_tree(files)}"
    )


def _looked_through(files: Files) -> tuple[Files, list[str]]:
    """Goes down while all there is is one folder that has no images of its own."""
    notes = []
    while len(files.top) == 1 and not _loose(files):
        inner = files.below(files.top[0])
        if _loose(inner):
            break
        notes.append(f"{files.where} holds the folder {files.top[0]}/ alone: its folders were taken.")
        files = inner
    return files, notes[-1:]


def _loose(files: Files) -> list[str]:
    """Images outside of folders."""
    return [name for name in files.names if "/" not in name and is_image(name)]


def _part_folders(files: Files) -> dict[str, str]:
    """The folders by part; empty where the folders at the top are classes."""
    filled = list(_groups(files))
    known = [name for name in filled if name.lower() in _PARTS]
    names = [_PARTS[name.lower()] for name in known]
    # A folder "train" without folders of its own may well be a class, beside "car" and "bus".
    train = next((name for name in known if name.lower() == "train" and len(_groups(files.below(name))) > 1), None)
    others = [name for name in filled if name not in known]
    if not known or (others and train is None):
        return {}
    if others and len(known) == 1:
        raise DataError(
            f"{files.where} has train/ with class folders of its own, and beside it {_listed(others)}. If train/ "
            "is the training set, name the folder train/ itself or take the others away; if it is a class, rename it."
        )
    if len(set(names)) < len(names):
        raise DataError(
            f"{files.where} has the folders {_listed(known)}; expected one of a kind. Rename or merge them."
        )
    if "train" not in names:
        if len(known) == 1:
            return {}
        raise DataError(f"{files.where} has {_listed(known)} but no train/; name the folder to train on train/.")
    return dict(zip(names, known, strict=True))


def _groups(files: Files) -> dict[str, list[str]]:
    """Names of the images by folder at the top, for folders that hold any."""
    groups: dict[str, list[str]] = {}
    for name in files.names:
        if "/" in name and is_image(name):
            groups.setdefault(name.split("/", 1)[0], []).append(name)
    return groups


def _class_folders(files: Files) -> Layout:
    classes = _two_classes(files)
    groups = _groups(files)
    entries = [(name, label) for label, owner in enumerate(classes) for name in groups.get(owner, ())]
    return Layout(files, classes, {"train": entries}, {}, tuple(_left_aside(files, files.names, _loose(files))))


def _two_classes(files: Files) -> tuple[str, ...]:
    groups = _groups(files)
    if not groups:
        raise DataError(
            f"{files.where} has images ({_listed(_loose(files))}), but no class folders. Put the images of each class "
            f"into a folder of its own:{_tree(files)}"
        )
    if len(groups) < 2:
        raise DataError(
            f"{files.where} has images of one class alone ({next(iter(groups))}); expected two or more folders with "
            f"images:{_tree(files)}"
        )
    return files.top


def _part_layout(files: Files, folders: dict[str, str]) -> Layout:
    classes = _two_classes(files.below(folders["train"]))
    label = {name: at for at, name in enumerate(classes)}
    parts: dict[str, list[tuple[str, int]]] = {}
    called: dict[str, str] = {}
    notes: list[str] = []
    loose, used = list[str](), list[str]()
    for part in ("train", "validation", "test"):
        if part not in folders:
            continue
        folder = folders[part]
        inner = files.below(folder)
        groups = _groups(inner)
        strange = [name for name in groups if name not in label]
        if not groups or (len(groups) == 1 and strange):  # test/*.jpg or test/images/*.jpg
            notes.append(f"{folder}/ was left aside: its images are not in class folders, so their labels are unknown.")
            continue
        if strange:
            raise DataError(
                f"{inner.where} has classes that {folders['train']}/ does not have: {_listed(strange)}. Rename them as "
                f"in {folders['train']}/ or take them away."
            )
        missing = [name for name in classes if name not in groups]
        if missing and part != "train":
            notes.append(f"{folder}/ has no images of {_listed(missing)}.")
        loose += [f"{folder}/{name}" for name in _loose(inner)]
        used += [f"{folder}/{name}" for name in inner.names]
        parts[part] = [(f"{folder}/{name}", label[owner]) for owner in classes for name in groups.get(owner, ())]
        called[part] = f"{folder}/"
    others = [name for name in files.top if name not in folders.values() and name in _groups(files)]
    if others:
        notes.append(f"Beside {folders['train']}/ the folders {_listed(others)} were left aside.")
    return Layout(files, classes, parts, called, (*notes, *_left_aside(files, used, [*_loose(files), *loose])))


def _tiny_imagenet(files: Files, train: str, val: str) -> Layout:
    """TinyImageNet-200 as published: labels of val/ in a text file, test/ without labels."""
    folders = _two_classes(files.below(train))
    label = {name: at for at, name in enumerate(folders)}
    groups = _groups(files.below(train))
    held: list[tuple[str, int]] = []
    strange: set[str] = set()
    images = set(files.names)
    missing = 0
    for line in _text(files, f"{val}/{_ANNOTATIONS}").splitlines():
        name, owner, *_ = [*line.split("\t"), "", ""]
        if owner and owner not in label:
            strange.add(owner)
        elif owner and f"{val}/images/{name}" in images:
            held.append((f"{val}/images/{name}", label[owner]))
        elif owner:
            missing += 1
    if strange:
        raise DataError(
            f"{files.where}/{val}/{_ANNOTATIONS} names classes that {train}/ does not have: {_listed(sorted(strange))}"
            f". Copy their folders into {train}/ or delete their lines."
        )
    notes = ["This is TinyImageNet's own layout: the labels of val/ are those of its text file."]
    if missing:
        notes.append(f"Images that {val}/{_ANNOTATIONS} names ({missing}) are not there.")
    if any(name.lower() == "test" and any(map(is_image, files.below(name).names)) for name in files.top):
        notes.append("test/ was left aside: its images have no labels.")
    entries = [(f"{train}/{name}", at) for at, owner in enumerate(folders) for name in groups.get(owner, ())]
    parts = {"train": entries, "validation": sorted(held)}
    return Layout(files, _words(files, folders), parts, {"train": f"{train}/", "validation": f"{val}/"}, tuple(notes))


def _words(files: Files, folders: tuple[str, ...]) -> tuple[str, ...]:
    """The first name of each class in words.txt; with the folder's where two classes share it."""
    if "words.txt" not in files.names:
        return folders
    lines = [line.split("\t", 1) for line in _text(files, "words.txt").splitlines() if "\t" in line]
    words = {folder: names.split(",")[0].strip() for folder, names in lines}
    first = [words.get(folder) or folder for folder in folders]
    shared = Counter(first)
    return tuple(
        f"{name} ({folder})" if shared[name] > 1 else name for name, folder in zip(first, folders, strict=True)
    )


def _text(files: Files, name: str) -> str:
    try:
        return files.read(name).decode("utf-8-sig")
    except Exception as error:  # of zipfile, zlib, the file system, or not UTF-8
        raise DataError(f"{files.where}/{name} cannot be read: {error}. Copy it from the original again.") from error


def _left_aside(files: Files, names: tuple[str, ...] | list[str], loose: list[str]) -> list[str]:
    others = Counter(f".{ending(name)}" if ending(name) else "no ending" for name in names if not is_image(name))
    notes = []
    if others:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(others.items()))
        notes.append(f"Files that are not images ({others.total()}) were left aside: {kinds}.")
    if loose:
        notes.append(f"Images outside of the class folders ({len(loose)}) were left aside: {_listed(loose)}.")
    return notes


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _tree(files: Files) -> str:
    return TREE.format(name=files.where.rstrip("/").rsplit("/", 1)[-1].removesuffix(".zip"))
