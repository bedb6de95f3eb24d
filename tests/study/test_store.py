"""What is saved comes back; what is not whole does not."""

import json
from pathlib import Path

import pytest

from gradreg.study.config import SETTINGS
from gradreg.study.store import Store, write_atomically

RUN = SETTINGS["digits"].run((("SpectReg", 0.03),), 0, "test")
OTHER = SETTINGS["digits"].run((("SpectReg", 0.03),), 1, "test")
RESULT = {"test_accuracy": 94.123456789012345, "jacobian_norm": 1e-7, "seconds": 0.5}


def test_saved_result_is_there_in_a_new_store_to_the_last_bit(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "runs").save(RUN, RESULT)
    store = Store(tmp_path / "a" / "runs")
    assert store.result(RUN) == {**RESULT, "complete": True}
    assert store.result(OTHER) is None
    config = json.loads((tmp_path / "a" / "runs" / RUN.key / "config.json").read_text())
    assert config == json.loads(json.dumps(RUN.as_dict()))


def test_every_truncation_reads_as_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(RUN, RESULT)
    file = tmp_path / RUN.key / "result.json"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert store.result(RUN) is None, whole[:length]


@pytest.mark.parametrize("foreign", [b"[1, 2]", b"null", b'{"accuracy": 1}', b'{"complete": "yes"}', b"\xff\xfe\x00"])
def test_foreign_file_reads_as_missing_and_is_replaced(tmp_path: Path, foreign: bytes) -> None:
    store = Store(tmp_path)
    (tmp_path / RUN.key).mkdir()
    (tmp_path / RUN.key / "result.json").write_bytes(foreign)
    assert store.result(RUN) is None
    store.save(RUN, RESULT)
    assert store.result(RUN) == {**RESULT, "complete": True}


def test_leftovers_of_a_killed_process_do_no_harm(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / RUN.key).mkdir()
    leftover = tmp_path / RUN.key / ".result.json.4711"
    leftover.write_text('{"complete": tr')
    assert store.result(RUN) is None
    store.save(RUN, RESULT)
    assert store.result(RUN) is not None
    assert leftover.exists()


def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "new \ud800")  # a lone surrogate cannot be written
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
