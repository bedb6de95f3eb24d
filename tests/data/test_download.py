"""Downloads that break and go on, from servers on this machine; tests/data/test_mnist.py has the usual course."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gradreg.data import download as module
from gradreg.data.dataset import DataError
from gradreg.data.download import check_sum, download

NAME = "data.bin"
CONTENT = hashlib.shake_256(b"content").digest(50_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
INSTEAD = "Put it there."


class Server:
    """Holds a file, and knows parts of it unless told otherwise. Downloads come in chunks of 1024 bytes.

    Attributes:
        content: of the file.
        parts: whether it answers with the part that is asked for.
        breaks: after so many bytes of each answer the connection breaks; the last is kept.
        status: an error to answer with, or 0.
        asked: the range of each request, "" for all.
    """

    def __init__(self) -> None:
        self.content, self.parts, self.status = CONTENT, True, 0
        self.breaks: list[int] = []
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range", "")
                server.asked.append(asked)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.parts else 0
                if server.status or (start and start >= len(server.content)):
                    self.send_error(server.status or 416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    size = len(server.content)
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                left = server.content[start:]
                self.send_header("Content-Length", str(len(left)))
                self.end_headers()
                self.wfile.write(left[: server.breaks.pop(0)] if server.breaks else left)

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
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Server]]:
    """Two mirrors; here a thousand bytes are worth keeping."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "KEPT_FROM", 1000)
    two = [Server(), Server()]
    yield two
    for server in two:
        server.close()


@pytest.fixture
def fetch(servers: list[Server], tmp_path: Path) -> Callable[..., Path]:
    """Downloads from the first servers."""

    def fetched(mirrors: int = 1) -> Path:
        addresses = [server.address for server in servers[:mirrors]]
        return download(NAME, tmp_path / "to", addresses, lambda path: check_sum(path, SHA), instead=INSTEAD)

    return fetched


def there(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "to").iterdir())


def test_a_file_comes_whole(fetch: Callable[..., Path], servers: list[Server], tmp_path: Path) -> None:
    assert fetch().read_bytes() == CONTENT
    assert there(tmp_path) == [NAME]
    assert servers[0].asked == [""]


def test_a_broken_connection_is_gone_on_with_at_once(
    fetch: Callable[..., Path], servers: list[Server], tmp_path: Path
) -> None:
    servers[0].breaks = [20_480, 10_240]
    assert fetch().read_bytes() == CONTENT
    assert servers[0].asked == ["", "bytes=20480-", "bytes=30720-"]
    assert there(tmp_path) == [NAME]


def test_the_second_mirror_goes_on_where_the_first_broke_off(
    fetch: Callable[..., Path], servers: list[Server], tmp_path: Path
) -> None:
    servers[0].breaks = [20_480, 10]
    assert fetch(2).read_bytes() == CONTENT
    assert servers[1].asked == ["bytes=20480-"]
    assert there(tmp_path) == [NAME]


def test_the_next_call_goes_on_and_says_so(
    fetch: Callable[..., Path], servers: list[Server], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    servers[0].breaks = [20_480, 0]
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch()
    assert there(tmp_path) == [f".{NAME}.part"]
    assert (tmp_path / "to" / f".{NAME}.part").read_bytes() == CONTENT[:20_480]
    servers[0].asked.clear()
    capfd.readouterr()
    assert fetch().read_bytes() == CONTENT
    assert servers[0].asked == ["bytes=20480-"]
    assert f"downloading {servers[0].address}{NAME}, from 0 MB on" in capfd.readouterr().err
    assert there(tmp_path) == [NAME]


def test_a_server_that_knows_no_parts_sends_all(fetch: Callable[..., Path], servers: list[Server]) -> None:
    servers[0].breaks = [20_480]
    servers[0].parts = False
    assert fetch().read_bytes() == CONTENT
    assert servers[0].asked == ["", "bytes=20480-"]


def left(tmp_path: Path, content: bytes) -> None:
    """What an earlier download left."""
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / f".{NAME}.part").write_bytes(content)


@pytest.mark.parametrize("content", [CONTENT, bytes(20_000), bytes(len(CONTENT)), bytes(60_000)])
def test_whatever_was_left_the_right_file_comes(fetch: Callable[..., Path], tmp_path: Path, content: bytes) -> None:
    left(tmp_path, content)
    assert fetch().read_bytes() == CONTENT
    assert there(tmp_path) == [NAME]


def test_a_wrong_file_is_refused_and_not_gone_on_with(
    fetch: Callable[..., Path], servers: list[Server], tmp_path: Path
) -> None:
    servers[0].content = CONTENT[:-1] + b"\0"
    with pytest.raises(DataError, match=r"is not in .* and could not be downloaded\. Put it there\. Tried .*another"):
        fetch()
    assert there(tmp_path) == []
    assert servers[0].asked == [""]


def test_what_was_left_stays_when_the_server_is_out_of_order(
    fetch: Callable[..., Path], servers: list[Server], tmp_path: Path
) -> None:
    left(tmp_path, CONTENT[:30_000])
    servers[0].status = 503
    with pytest.raises(DataError, match="HTTPError: 503"):
        fetch()
    assert there(tmp_path) == [f".{NAME}.part"]


def test_a_part_that_another_process_has_in_hand_is_left_to_it(
    fetch: Callable[..., Path], servers: list[Server], tmp_path: Path
) -> None:
    import fcntl

    left(tmp_path, CONTENT[:30_000])
    with (tmp_path / "to" / f".{NAME}.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert fetch().read_bytes() == CONTENT
    assert servers[0].asked == [""]
    assert (tmp_path / "to" / f".{NAME}.part").read_bytes() == CONTENT[:30_000]


def test_a_checksum_is_checked(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with pytest.raises(DataError, match=r"data\.bin cannot be read: .*No such file"):
        check_sum(path, SHA)
    path.write_bytes(CONTENT)
    check_sum(path, SHA)
    path.write_bytes(CONTENT[1:])
    with pytest.raises(DataError, match=r"another checksum than the official file\. Copy it again\."):
        check_sum(path, SHA, "Copy it again.")
