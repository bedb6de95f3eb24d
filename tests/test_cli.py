"""The command line's door: help, versions, words it does not know, and an extra that is not installed."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gradreg as gr
from gradreg.cli import main


def test_version_prints_the_versions_of_gradreg_and_torch(capsys: pytest.CaptureFixture[str]) -> None:
    main(["version"])
    assert capsys.readouterr().out == f"gradreg {gr.__version__}, torch {torch.__version__}\n"


def test_no_arguments_print_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 0
    help_text = capsys.readouterr().out
    for command in ("compare", "run", "report", "status", "show", "export", "train", "bench", "probe", "version"):
        assert f" {command} " in help_text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compete"], "compete"),
        (["compare"], "DATA"),
        (["run", "digits", "--executor", "cloud"], "cloud"),
        (["compare", "digits", "--steps", "ten"], "ten"),
        (["compare", "digits", "--colour", "red"], "--colour"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unknown_word_ends_with_status_2_and_is_named(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("module", ["tyro", "rich", "scipy", "matplotlib"])
def test_missing_extra_is_named_before_anything_runs(module: str, tmp_path: Path) -> None:
    program = (
        f"import sys\nsys.modules[{module!r}] = None\nfrom gradreg.cli import main\n"
        f"main(['compare', 'digits', '--store', {str(tmp_path / 'runs')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"gradreg's command line needs {module}, which is in its study extra: pip install 'gradreg[study]'\n"
    )
    assert not (tmp_path / "runs").exists()


def test_full_disk_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gradreg.commands.run.do", full)
    with pytest.raises(SystemExit) as stopped:
        main(["run", "digits", "--store", str(tmp_path)])
    assert stopped.value.code == (
        "error: [Errno 28] No space left on device. Free some space, and give the same command again: it goes on from "
        "here."
    )


def test_commands_that_only_read_do_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    program = (
        "import sys\nfrom gradreg.cli import main\n"
        f"main(['status', '--store', {str(tmp_path)!r}])\nmain(['status', 'digits', '--store', {str(tmp_path)!r}])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    program = "from gradreg.cli import main\nmain(['--help'])"
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as output:
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=False,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "")
