"""Files from the net into the data directory: mirrors in turn, checked, with progress; after a break it goes on."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gradreg.data.dataset import DataError

# What came of a file before the connection broke is kept from so many bytes on: 1 MiB. Less is fetched again as soon.
KEPT_FROM = 2**20


def download(name: str, folder: Path, mirrors: Sequence[str], check: Callable[[Path], object], *, instead: str) -> Path:
    """Fetches a file and puts it in place when it is whole and right.

    What a broken connection left of a large file stays beside it, as ``.NAME.part``; the next mirror, or the next call,
    goes on from there where the server can, and starts over where it cannot.

    Args:
        name: of the file.
        folder: where to; made where it is missing.
        mirrors: addresses that the name is appended to, tried in this order.
        check: is called with the file that was fetched, and raises an error if it is not the right one.
        instead: a sentence on what the user can do where no mirror serves.

    Returns:
        The file's path.

    Raises:
        DataError: no mirror serves, and why each did not; or a package that downloads need is not installed.
    """
    try:
        import pooch  # noqa: F401 - `_fetch` uses it
        import tqdm  # noqa: F401 - for pooch's progress bar
    except ImportError as error:
        raise DataError(
            f"{name} is not in {folder}, and {error.name}, which downloads need, is not installed: pip install "
            "'gradreg[study]'"
        ) from error
    failures = []
    for mirror in mirrors:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _unfinished(folder, name) as (path, file):
                _fetch(mirror + name, path, file, check)
                os.replace(path, folder / name)
            return folder / name
        except Exception as error:
            failures.append(f"{mirror}: {type(error).__name__}: {error}")
    raise DataError(f"{name} is not in {folder} and could not be downloaded. {instead} Tried " + "; ".join(failures))


def check_sum(path: Path, sha256: str, again: str = "Delete it to have it downloaded again.") -> None:
    """Refuses a file of another checksum than the official one.

    Args:
        path: the file.
        sha256: what its SHA-256 has to be.
        again: a sentence on what to do.

    Raises:
        DataError: it has another checksum, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if found != sha256:
        raise DataError(f"{path} has another checksum than the official file. {again}")


def _fetch(url: str, path: Path, file: IO[bytes], check: Callable[[Path], object]) -> None:
    """Fetches what is missing of a file, and checks the whole; starts over where an old beginning was of no use."""
    while True:
        start = os.fstat(file.fileno()).st_size
        print(f"downloading {url}" + (f", from {start / 1e6:.0f} MB on" if start else ""), file=sys.stderr)
        try:
            _transfer(url, file, start)
        except Exception as error:
            now = os.fstat(file.fileno()).st_size
            if getattr(getattr(error, "response", None), "status_code", None) == 416 and start:  # nothing left to get
                if _is_right(path, check):
                    return
                file.truncate(0)
                continue
            if now - start >= KEPT_FROM:  # the connection broke, but served until then
                continue
            raise
        file.flush()
        try:
            check(path)
        except Exception:
            file.truncate(0)
            if not start:
                raise
            continue
        return


def _is_right(path: Path, check: Callable[[Path], object]) -> bool:
    try:
        check(path)
    except Exception:
        return False
    return True


def _transfer(url: str, file: IO[bytes], start: int) -> None:
    import pooch

    options: dict[str, Any] = {}
    if start:
        # Bytes as they are kept: a part of a stream that is compressed on the way could not be unpacked.
        options["headers"] = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}

    def began(response: Any, *_: Any, **__: Any) -> None:
        whole = response.status_code == 200
        if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise OSError(f"asked for the bytes from {start} on, got {response.headers.get('Content-Range')}")
        if whole and start:  # the server knows no parts
            file.truncate(0)

    pooch.HTTPDownloader(progressbar=True, hooks={"response": began}, **options)(url, file, None)  # type: ignore[arg-type]


@contextmanager
def _unfinished(folder: Path, name: str) -> Iterator[tuple[Path, IO[bytes]]]:
    """The file to append to: what was left of an earlier download, unless another process has that in hand."""
    path = folder / f".{name}.part"
    with path.open("ab") as file:
        if _locked(file, path):
            try:
                yield path, file
            finally:
                # Not what another has put in place or begun since.
                if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    file.flush()
                    if path.stat().st_size < KEPT_FROM:
                        path.unlink()
            return
    # A folder of its own: two that download at once never take, check or remove each other's file.
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as private:
        path = Path(private) / name
        with path.open("ab") as file:
            yield path, file


def _locked(file: IO[bytes], path: Path) -> bool:
    """Whether this process alone has the file, and the file is still the one of that name."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (ImportError, OSError):
        return False
