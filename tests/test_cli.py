"""The command line's door: help, versions, words it does not know, and an extra that is not installed."""

import sys

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
    assert "compare" in help_text
    assert "version" in help_text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["compete"], "compete"),
        (["compare", "letters"], "letters"),
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


@pytest.mark.parametrize("module", ["tyro", "rich.console", "scipy", "matplotlib"])
def test_missing_extra_is_named_before_anything_runs(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith(("gradreg.study", "gradreg.commands")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "digits"])
    assert stopped.value.code == (
        f"gradreg's command line needs {module}, which is in its study extra: pip install 'gradreg[study]'"
    )
