"""The files below a folder or within a zip archive, by name, in an order that no file system decides."""

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gradreg.data.dataset import DataError

IMAGES = ("png", "jpg", "jpeg", "jfif", "bmp", "gif", "tif", "tiff", "webp", "pgm", "ppm", "pbm", "pnm")
# What operating systems leave behind; names that begin with a dot are hidden as well.
_HIDDEN = ("__MACOSX", "Thumbs.db", "desktop.ini")
# A member of an archive that claims more than this is not unpacked: it is no image, or a bomb.
_LARGEST_MEMBER = 2**28


@dataclass(frozen=True)
class Files:
    """A tree of files.

    Attributes:
        where: the folder or archive, for messages.
        names: of the files, relative, with "/" between folders; sorted.
        folders: names of the folders, those without files included; sorted.
        read: the content of a file, by name.
    """

    where: str
    names: tuple[str, ...]
    folders: tuple[str, ...]
    read: Callable[[str], bytes]

    @property
    def top(self) -> tuple[str, ...]:
        """The folders at the top."""
        return tuple(name for name in self.folders if "/" not in name)

    def below(self, folder: str) -> "Files":
        """The tree below one of the folders."""
        start, read = f"{folder}/", self.read

        def inside(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name.removeprefix(start) for name in names if name.startswith(start))

        return Files(
            f"{self.where}/{folder}", inside(self.names), inside(self.folders), lambda name: read(start + name)
        )


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's."""
    return ending(name) in IMAGES


def ending(name: str) -> str:
    """What follows the last dot of a file's name, in lower case; "" where there is none."""
    return os.path.splitext(name)[1].removeprefix(".").lower()


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """The files of a folder or of a zip archive, which is read without unpacking it.

    Raises:
        DataError: a folder cannot be read; a zip is damaged, encrypted, or packed in a way that Python cannot read.
    """
    if path.is_dir():
        yield folder_files(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path} cannot be read as a zip archive: {error}. Copy or download it again, or pack the folder anew."
        ) from error
    with archive:
        yield _members(path, archive)


def folder_files(path: Path) -> Files:
    """The files below a folder; links are followed, but not in circles."""
    names: list[str] = []
    folders: list[str] = []

    def walk(folder: Path, prefix: str, above: frozenset[str]) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _hidden(entry.name):
                    continue
                if entry.is_file():
                    names.append(prefix + entry.name)
                elif entry.is_dir() and (real := os.path.realpath(entry.path)) not in above:
                    folders.append(prefix + entry.name)
                    walk(Path(entry.path), f"{prefix}{entry.name}/", above | {real})

    try:
        walk(path, "", frozenset({os.path.realpath(path)}))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    return Files(str(path), tuple(sorted(names)), tuple(sorted(folders)), lambda name: (path / name).read_bytes())


def _members(path: Path, archive: zipfile.ZipFile) -> Files:
    members: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for member in archive.infolist():
        parts = [part for part in member.filename.replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts or any(map(_hidden, parts)):
            continue
        if member.flag_bits & 1:
            raise DataError(f"{path} is encrypted ({member.filename}); unpack it and name the folder.")
        folder = member.is_dir() or member.filename.endswith("\\")
        folders.update("/".join(parts[:length]) for length in range(1, len(parts) + folder))
        if not folder:
            members["/".join(parts)] = member

    def read(name: str) -> bytes:
        if members[name].file_size > _LARGEST_MEMBER:
            raise ValueError(f"it has {members[name].file_size} bytes")
        try:
            return archive.read(members[name])
        except NotImplementedError as error:
            raise DataError(
                f"{path} is packed in a way that Python cannot read ({error}); unpack it and name the folder."
            ) from error

    return Files(str(path), tuple(sorted(members)), tuple(sorted(folders)), read)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN
