"""An index of all runs in sqlite, so that not every directory is read each time; made anew from these at any time."""

import json
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradreg.study.profile import MEASURES
from gradreg.study.store import RunFiles, Store

_COLUMNS = (
    "key TEXT PRIMARY KEY",
    "state TEXT",
    "step INTEGER",
    "steps INTEGER",
    "data TEXT",
    "model TEXT",
    "train_size INTEGER",
    "penalties TEXT",
    "seed INTEGER",
    "measure TEXT",
    "validation_accuracy REAL",
    "test_accuracy REAL",
    "validation_mse REAL",
    "test_mse REAL",
    "jacobian_norm REAL",
    *(f"{measure.key} REAL" for measure in MEASURES),
    "seconds REAL",
    "error TEXT",
    "stamp REAL",
)
FIELDS = tuple(column.split()[0] for column in _COLUMNS[:-1])


@dataclass(frozen=True)
class Index:
    """The index of a store.

    Attributes:
        store: whose runs.
    """

    store: Store

    @property
    def path(self) -> Path:
        """The file; it may be deleted at any time."""
        return self.store.directory / "index.sqlite"

    def rows(self) -> list[dict[str, Any]]:
        """Every run that has a directory, as it is now: only directories that changed are read again."""
        try:
            return self._rows(str(self.path))
        except sqlite3.OperationalError:  # busy, or on a disk that is full or read-only
            return self._rows(":memory:")
        except sqlite3.DatabaseError:  # damaged: it is made anew from the directories
            with suppress(OSError):
                self.path.unlink()
        try:
            return self._rows(str(self.path))
        except sqlite3.DatabaseError:  # it cannot be kept, as on a full disk
            return self._rows(":memory:")

    def _rows(self, path: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(path, timeout=30)) as base, base:
            columns = tuple(name for _, name, *_ in base.execute("PRAGMA table_info(runs)"))
            if columns not in ((), (*FIELDS, "stamp")):  # of another version
                base.execute("DROP TABLE runs")
            base.execute(f"CREATE TABLE IF NOT EXISTS runs ({', '.join(_COLUMNS)})")
            stamps = dict(base.execute("SELECT key, stamp FROM runs WHERE state IN ('done', 'failed')"))
            keys = self.store.keys()
            for key in keys:
                files = RunFiles(self.store.directory / "runs" / key)
                stamp = files.folder.stat().st_mtime
                if stamps.get(key) != stamp:
                    values = [*_row(key, files).values(), stamp]
                    base.execute(f"INSERT OR REPLACE INTO runs VALUES ({', '.join('?' * len(values))})", values)
            gone = {key for (key,) in base.execute("SELECT key FROM runs")} - set(keys)
            base.executemany("DELETE FROM runs WHERE key = ?", [(key,) for key in gone])
            found = base.execute(f"SELECT {', '.join(FIELDS)} FROM runs ORDER BY key").fetchall()
        return [dict(zip(FIELDS, row, strict=True)) for row in found]


def _row(key: str, files: RunFiles) -> dict[str, Any]:
    """A run's directory as a row."""
    config, result, status = files.config() or {}, files.result() or {}, files.status()
    failure = files.failure() if status.state == "failed" else None
    technique = dict(config.get("technique", {}))
    auto = "auto" if technique.pop("auto_weight", 0) else ""
    penalties = [f"{p['preset']}({auto or format(p['weight'], 'g')})" for p in config.get("penalties", ())]
    penalties += [f"{name}({value:g})" for name, value in technique.items() if value]
    return {
        "key": key,
        "state": status.state,
        "step": status.step,
        "steps": status.steps or config.get("schedule", {}).get("steps", 0),
        "data": config.get("data", {}).get("name"),
        "model": config.get("model", {}).get("name"),
        "train_size": config.get("split", {}).get("train_size"),
        "penalties": " + ".join(penalties),
        "seed": config.get("seed"),
        "measure": config.get("protocol", {}).get("measure"),
        "validation_accuracy": result.get("validation_accuracy"),
        "test_accuracy": result.get("test_accuracy"),
        "validation_mse": result.get("validation_mse"),
        "test_mse": result.get("test_mse"),
        "jacobian_norm": result.get("jacobian_norm"),
        **{measure.key: result.get(measure.key) for measure in MEASURES},
        "seconds": result.get("seconds"),
        "error": json.dumps(failure["error"])[1:-1] if failure else None,
    }
