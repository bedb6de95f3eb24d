"""The IDX reader on files written here, MNIST from the official files, and downloads from a server on this machine."""

import gzip
import hashlib
import re
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradreg.data import mnist
from gradreg.data.dataset import DataError, Dataset, data_directory
from gradreg.data.mnist import load_mnist, read_idx

AGAIN = "Delete it to have it downloaded again."


def idx(*shape: int, start: int = 0, kind: int = 8) -> bytes:
    """An IDX file whose bytes count up from ``start``."""
    header = bytes((0, 0, kind, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
    return header + bytes((start + i) % 256 for i in range(prod(shape)))


def counting(*shape: int, start: int = 0) -> Tensor:
    """What `read_idx` must make of it."""
    return ((torch.arange(prod(shape)) + start) % 256).to(torch.uint8).reshape(shape)


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- read_idx ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(7,), (300,), (2, 3), (3, 2, 4), (2, 1, 3, 5), (0,), (0, 28, 28)], ids=str)
def test_an_idx_file_reads_back_exactly(tmp_path: Path, shape: tuple[int, ...], pack: Callable[[bytes], bytes]) -> None:
    content = idx(*shape, start=250)
    found = read_idx(written(tmp_path / "a", pack(content)), sha(content))
    assert found.dtype == torch.uint8
    assert torch.equal(found, counting(*shape, start=250))


def test_a_size_is_big_endian_and_the_last_dimension_is_the_fastest(tmp_path: Path) -> None:
    """The format written out by hand, so that writer and reader of these tests do not share a mistake."""
    path = written(tmp_path / "a", bytes.fromhex("00000802 00000002 00000003 0a0b0c 14151e"))
    assert read_idx(path).tolist() == [[10, 11, 12], [20, 21, 30]]


def test_what_was_read_may_be_written_to(tmp_path: Path) -> None:
    found = read_idx(written(tmp_path / "a", idx(4)))
    found.add_(1)  # torch warns of memory that is read-only, and warnings are errors here
    assert found.tolist() == [1, 2, 3, 4]


BROKEN = {
    "another type": (idx(3, kind=9), r"starts with 00 00 09 01, expected 00 00 08 and the number of dimensions"),
    "no dimensions": (b"\0\0\x08\0", "starts with 00 00 08 00, expected 00 00 08"),
    "a web page": (b"<html>not found</html>", "starts with 3c 68 74 6d, expected 00 00 08"),
    "nothing": (b"", "starts with nothing, expected 00 00 08"),
    "three bytes": (b"\0\0\x08", "starts with 00 00 08, expected 00 00 08 and the number of dimensions"),
    "half a header": (idx(2, 3)[:9], "ends within its header"),
    "header without its last byte": (idx(2, 3)[:11], "ends within its header"),
    "no bytes": (idx(2, 3)[:12], r"states the shape \(2, 3\), which is 6 bytes, but holds 0: it is truncated"),
    "a byte short": (idx(2, 3)[:-1], r"states the shape \(2, 3\), which is 6 bytes, but holds 5: it is truncated"),
    "a byte more": (idx(2, 3) + b"\0", r"states the shape \(2, 3\), which is 6 bytes, but holds 7: it is truncated"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_idx_file_says_what_is_wrong(
    tmp_path: Path, content: bytes, message: str, pack: Callable[[bytes], bytes]
) -> None:
    path = written(tmp_path / "labels.gz", pack(content))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith(AGAIN)


def test_another_checksum_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a", idx(3))
    with pytest.raises(DataError, match=rf"a has another checksum than the official file\. {AGAIN}"):
        read_idx(path, sha(idx(3, start=1)))


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes((content[position] ^ 0xFF,)) + content[position + 1 :]


PACKED = gzip.compress(idx(40), mtime=0)
DAMAGED = {
    "truncated": PACKED[:-12],
    "without its length": PACKED[:-4],
    "two bytes": PACKED[:2],
    "bad CRC": flipped(PACKED, len(PACKED) - 8),
    "bad length": flipped(PACKED, len(PACKED) - 1),
    "bad stream": flipped(PACKED, 10),
    "another method": flipped(PACKED, 2),
    "followed by rubbish": PACKED + b"rubbish",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / "a.gz", content)
    with pytest.raises(DataError, match=rf"a\.gz is a damaged gzip file \(.+\)\. {AGAIN}"):
        read_idx(path)


def test_no_damage_passes_unseen(tmp_path: Path) -> None:
    """Cut anywhere, or with any byte inverted, a file is refused or (damage to gzip's time stamp) reads as before."""
    path = tmp_path / "a.gz"
    cut = [PACKED[:length] for length in range(len(PACKED))]
    for content in cut:
        with pytest.raises(DataError):
            read_idx(written(path, content), sha(idx(40)))
    refused = 0
    for position in range(len(PACKED)):
        try:
            found = read_idx(written(path, flipped(PACKED, position)), sha(idx(40)))
        except DataError:
            refused += 1
        else:
            assert torch.equal(found, counting(40)), position
    assert refused >= len(PACKED) - 6  # the time stamp, the compression level and the system


def test_a_path_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing cannot be read: .*No such file"):
        read_idx(tmp_path / "missing")
    with pytest.raises(DataError, match=r"cannot be read: .*Is a directory"):
        read_idx(tmp_path)


# --- load_mnist on the official files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official() -> Dataset:
    folder = data_directory() / "mnist"
    if not all((folder / name).is_file() or (folder / name[:-3]).is_file() for name in mnist.CONTENTS):
        pytest.skip("MNIST is not here: set GRADREG_DATA to the folder that holds mnist/ with the four official files")
    return load_mnist()


def test_official_mnist_is_what_is_published(official: Dataset) -> None:
    assert official.test_x is not None
    assert official.test_y is not None
    assert official.name == "mnist"
    assert official.classes == tuple("0123456789")
    assert official.x.shape == (60000, 1, 28, 28)
    assert official.test_x.shape == (10000, 1, 28, 28)
    assert official.x.dtype == official.test_x.dtype == torch.float32
    assert official.y.dtype == official.test_y.dtype == torch.int64
    assert official.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert official.test_y[:5].tolist() == [7, 2, 1, 0, 4]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert official.y.bincount().tolist() == counts
    assert official.test_y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_official_mnist_is_scaled_and_upright(official: Dataset) -> None:
    assert official.test_x is not None
    for x in (official.x, official.test_x):
        assert x.min() == 0
        assert x.max() == 1
        assert torch.equal(x[:100] * 255, (x[:100] * 255).round())
    std, mean = torch.std_mean(official.x)
    assert mean.item() == pytest.approx(0.1307, abs=5e-5)  # as everyone quotes them
    assert std.item() == pytest.approx(0.3081, abs=5e-5)
    # Ones are higher than wide: what a transposed reading would turn around.
    ones = official.x[official.y == 1][:, 0] > 0.5
    assert ones.any(2).sum(1).float().mean() > 1.5 * ones.any(1).sum(1).float().mean()


# --- load_mnist on small files in place of the official ones ----------------------------------------------------------

TINY = {
    "train-images-idx3-ubyte.gz": idx(3, 2, 4, start=240),
    "train-labels-idx1-ubyte.gz": idx(3, start=5),
    "t10k-images-idx3-ubyte.gz": idx(2, 2, 4, start=100),
    "t10k-labels-idx1-ubyte.gz": idx(2, start=8),
}
FIRST = "train-images-idx3-ubyte.gz"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty data directory, for files with the contents of `TINY`."""
    monkeypatch.setenv("GRADREG_DATA", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(mnist, "CONTENTS", {name: sha(content) for name, content in TINY.items()})
    monkeypatch.setattr(mnist, "MIRRORS", ())
    return tmp_path / "mnist"


def fill(folder: Path, *, without: str = "") -> None:
    for name, content in TINY.items():
        if name != without:
            written(folder / name, gzip.compress(content))


def assert_tiny(data: Dataset) -> None:
    assert data.test_x is not None
    assert data.test_y is not None
    assert torch.equal(data.x, counting(3, 1, 2, 4, start=240) / 255)
    assert torch.equal(data.test_x, counting(2, 1, 2, 4, start=100) / 255)
    assert data.y.tolist() == [5, 6, 7]
    assert data.test_y.tolist() == [8, 9]


def test_files_that_are_there_are_read(folder: Path) -> None:
    fill(folder)
    assert_tiny(load_mnist())


def test_files_may_be_decompressed(folder: Path) -> None:
    for name, content in TINY.items():
        written(folder / name.removesuffix(".gz"), content)
    assert_tiny(load_mnist())


def test_a_damaged_file_that_is_there_is_named_and_left_alone(folder: Path, mirror: "Mirror") -> None:
    fill(folder)
    written(folder / FIRST, gzip.compress(idx(3, 2, 4, start=241)))
    with pytest.raises(DataError, match=rf"{FIRST} has another checksum than the official file\. {AGAIN}"):
        load_mnist()
    assert (folder / FIRST).is_file()
    assert mirror.asked == []


# --- downloads --------------------------------------------------------------------------------------------------------


class Mirror:
    """A server on this machine that holds the packed files of `TINY`.

    Attributes:
        answers: by name of the file, what is sent: bytes, or the status of an error.
        headers: sent with every answer.
        asked: names of the files, in the order in which they were asked for.
        before: called before each answer.
    """

    def __init__(self) -> None:
        self.answers: dict[str, bytes | int] = {name: gzip.compress(content) for name, content in TINY.items()}
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.before: Callable[[], object] = lambda: None
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/")
                mirror.asked.append(name)
                mirror.before()
                answer = mirror.answers.get(name, 404)
                if isinstance(answer, int):
                    self.send_error(answer)
                    return
                self.send_response(200)
                for key, value in {"Content-Length": str(len(answer)), **mirror.headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def mirrors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Mirror, Mirror]]:
    """Two mirrors, asked in this order."""
    two = Mirror(), Mirror()
    monkeypatch.setattr(mnist, "MIRRORS", tuple(mirror.address for mirror in two))
    yield two
    for mirror in two:
        mirror.close()


@pytest.fixture
def mirror(mirrors: tuple[Mirror, Mirror], monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """The only mirror."""
    monkeypatch.setattr(mnist, "MIRRORS", (mirrors[0].address,))
    return mirrors[0]


def names(folder: Path) -> list[str]:
    """Everything in the folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_missing_files_are_downloaded_once(folder: Path, mirror: Mirror) -> None:
    assert_tiny(load_mnist())
    assert names(folder) == sorted(TINY)
    assert mirror.asked == list(TINY)
    assert_tiny(load_mnist())
    assert mirror.asked == list(TINY)


def test_only_the_missing_file_is_downloaded(folder: Path, mirror: Mirror) -> None:
    fill(folder, without=FIRST)
    assert_tiny(load_mnist())
    assert mirror.asked == [FIRST]


def test_a_file_is_on_the_disk_of_the_data_directory_from_the_start(folder: Path, mirror: Mirror) -> None:
    """Only within one disk is a file put in place at once; and /tmp may be small. Until then it has another name."""
    fill(folder, without=FIRST)
    there: list[list[str]] = []
    mirror.before = lambda: there.append(names(folder))
    load_mnist()
    ((unfinished,),) = (set(found) - set(TINY) for found in there)
    assert unfinished.startswith(".")


def test_downloaded_files_have_the_usual_permissions(folder: Path, mirror: Mirror) -> None:
    """A data directory is often shared, so a file that only its downloader may read would not do."""
    fill(folder, without=FIRST)
    load_mnist()
    other = written(folder.parent / "other", b"")
    assert stat.S_IMODE((folder / FIRST).stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_a_download_says_what_it_fetches_and_how_far_it_is(
    folder: Path, mirror: Mirror, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(folder, without=FIRST)
    load_mnist()
    output, errors = capfd.readouterr()
    assert output == ""
    first, *bars = [line for line in re.split(r"[\r\n]+", errors) if line.strip()]
    assert first == f"downloading {mirror.address}{FIRST}"
    assert all(re.match(r" *\d+%\|.*B/s\]", bar) for bar in bars), errors  # and none of pooch's advice to programmers
    assert bars[-1].startswith("100%")


def test_a_file_that_the_server_decompresses_is_taken(folder: Path, mirror: Mirror) -> None:
    """Some servers declare .gz files as compressed transfers, and the client then gets the contents."""
    mirror.headers["Content-Encoding"] = "gzip"
    fill(folder, without=FIRST)
    assert_tiny(load_mnist())
    assert mirror.asked == [FIRST]


BAD_ANSWERS: dict[str, tuple[bytes | int, str]] = {
    "missing": (404, "HTTPError: 404"),
    "broken server": (503, "HTTPError: 503"),
    "another file": (gzip.compress(idx(3, 2, 4)), "another checksum"),
    "truncated": (gzip.compress(TINY[FIRST])[:-6], "damaged gzip file"),
    "a web page": (b"<html>Log in to this network</html>", "not an IDX file"),
}


@pytest.mark.parametrize(("answer", "reason"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_the_second_mirror_stands_in_for_the_first(
    folder: Path, mirrors: tuple[Mirror, Mirror], answer: bytes | int, reason: str
) -> None:
    fill(folder, without=FIRST)
    mirrors[0].answers[FIRST] = answer
    assert_tiny(load_mnist())
    assert [mirror.asked for mirror in mirrors] == [[FIRST], [FIRST]]
    assert names(folder) == sorted(TINY)


@pytest.mark.parametrize(("answer", "reason"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_bad_download_is_refused_and_leaves_nothing(
    folder: Path, mirror: Mirror, answer: bytes | int, reason: str
) -> None:
    mirror.answers[FIRST] = answer
    with pytest.raises(DataError, match=reason):
        load_mnist()
    assert names(folder) == []


def test_a_connection_that_breaks_off_is_refused_and_leaves_nothing(folder: Path, mirror: Mirror) -> None:
    mirror.headers["Content-Length"] = "5000"
    with pytest.raises(DataError, match=r"ChunkedEncodingError|damaged gzip file"):
        load_mnist()
    assert names(folder) == []


def test_when_all_mirrors_fail_the_error_says_what_to_do(folder: Path, mirrors: tuple[Mirror, Mirror]) -> None:
    mirrors[0].answers[FIRST] = 404
    mirrors[1].close()
    with pytest.raises(DataError) as caught:
        load_mnist()
    message = str(caught.value)
    assert message.startswith(f"{FIRST} is not in {folder} and could not be downloaded. ")
    assert "Put the four official MNIST files there, or set GRADREG_DATA to the folder that holds mnist/." in message
    assert f"{mirrors[0].address}: HTTPError: 404" in message
    assert f"{mirrors[1].address}: ConnectionError: " in message
    assert names(folder) == []


def test_a_data_directory_that_cannot_be_made_is_named(
    folder: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = written(folder.parent / "a file", b"")
    monkeypatch.setenv("GRADREG_DATA", str(blocked))
    with pytest.raises(DataError, match=re.escape(f"{FIRST} is not in {blocked / 'mnist'} and could not be")):
        load_mnist()
    assert mirror.asked == []


@pytest.mark.parametrize("package", ["pooch", "tqdm"])
def test_a_missing_package_names_the_extra(
    folder: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError) as caught:
        load_mnist()
    message = str(caught.value)
    assert message.startswith(f"{FIRST} is not in {folder}")
    assert f"and {package}, which downloads need, is not installed" in message
    assert message.endswith("pip install 'gradreg[study]'")
    assert isinstance(caught.value.__cause__, ImportError)
    assert mirror.asked == []


def test_no_package_is_needed_where_the_files_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pooch", "tqdm"):
        monkeypatch.setitem(sys.modules, package, None)
    fill(folder)
    assert_tiny(load_mnist())


def test_downloads_at_once_do_not_disturb_each_other(
    folder: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that download the same file at the same time, as two commands do that are started together."""
    fill(folder, without=FIRST)
    asked, checked = threading.Barrier(2), threading.Barrier(2)
    mirror.before = lambda: asked.wait(10)

    def read_together(path: Path, sha256: str | None = None) -> Tensor:
        """Each has checked its download before either puts it in place."""
        found = read_idx(path, sha256)
        if path != folder / FIRST and FIRST in path.name:
            checked.wait(10)
        return found

    monkeypatch.setattr(mnist, "read_idx", read_together)
    results: list[Dataset | Exception] = []

    def load() -> None:
        try:
            results.append(load_mnist())
        except Exception as error:
            results.append(error)

    loading = [threading.Thread(target=load) for _ in range(2)]
    for thread in loading:
        thread.start()
    for thread in loading:
        thread.join()
    assert len(results) == 2
    for found in results:
        assert isinstance(found, Dataset), found
        assert_tiny(found)
    assert mirror.asked == [FIRST, FIRST]
    assert names(folder) == sorted(TINY)


def test_the_official_names_and_mirrors() -> None:
    assert list(mnist.CONTENTS) == list(TINY)
    assert all(len(digest) == 64 for digest in mnist.CONTENTS.values())
    assert len(mnist.MIRRORS) >= 2
    assert all(address.startswith("https://") and address.endswith("/") for address in mnist.MIRRORS)
