"""Where results are kept: a directory per run, written so that a crash leaves a whole result or none."""

import json
import os
from pathlib import Path
from typing import Any

from gradreg.study.config import Run


class Store:
    """Results below one directory: ``<key>/config.json`` and ``<key>/result.json``.

    Args:
        directory: made where it is missing.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def result(self, run: Run) -> dict[str, Any] | None:
        """The result of a run, or None where there is none or it is not whole."""
        try:
            found = json.loads((self.directory / run.key / "result.json").read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("complete") is True else None

    def save(self, run: Run, result: dict[str, Any]) -> None:
        """Keeps the result of a run; it is there whole, or not at all, whenever the power goes."""
        folder = self.directory / run.key
        folder.mkdir(exist_ok=True)
        write_atomically(folder / "config.json", json.dumps(run.as_dict(), indent=1))
        write_atomically(folder / "result.json", json.dumps({**result, "complete": True}, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Writes beside the file, then renames."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
