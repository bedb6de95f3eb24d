"""`gradreg run`, `gradreg report`: a study's runs, and what they say."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from gradreg.commands.common import Doing, do, existing, keep_report, show
from gradreg.study.collect import collect
from gradreg.study.files import Loaded, load_study
from gradreg.study.store import Store


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which study."""

    study: tyro.conf.Positional[str]
    """A built-in study (digits, mnist, ...), a file (.py, .toml), or the name of a study in the store."""
    set: tuple[str, ...] = ()
    """Values to put in: seeds=3 schedule.steps=100 optimizer.learning_rate=0.001."""
    only: tuple[str, ...] = ()
    """Arms to keep, by name, group/name or pattern ("training points 500/*"); baselines of their groups stay."""
    scale: str | None = None
    """For studies that come in several sizes: smoke, quick, paper."""
    protocol: str | None = None
    """For studies of the paper, where its text and its published scripts differ: paper, scripts."""

    def load(self, store: Store, *, kept: bool = False) -> Loaded:
        """The study; as it was last run, where that is asked for and the store has it."""
        return load_study(
            self.study,
            store,
            scale=self.scale,
            protocol=self.protocol,
            overrides=self.set,
            only=self.only,
            kept=kept,
        )

    def command(self, verb: str, store: Path) -> str:
        """What repeats it."""
        words = ["gradreg", verb, self.study]
        words += ["--set", *self.set] if self.set else []
        words += ["--only", *self.only] if self.only else []
        words += ["--scale", self.scale] if self.scale else []
        words += ["--protocol", self.protocol] if self.protocol else []
        words += ["--store", str(store)] if store != Path("runs") else []
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True)
class RunStudy(Doing, Which):
    """Do what a study lacks, and report what it found.

    Shows what is done, missing and failed; trains only what is missing, one process per core; goes on from checkpoints
    after Ctrl-C or a crash. Ends with a table, one sentence, and a report in STORE/studies/NAME.
    """


@dataclass(frozen=True, kw_only=True)
class Report(Which):
    """Write the report of a study from what is there, without training."""

    store: Path = Path("runs")
    """Directory of all results."""
    out: Path | None = None
    """Directory of the report. Default: STORE/studies/NAME."""


def run_study(options: RunStudy) -> None:
    """Does what a study lacks."""
    console = Console()
    loaded = options.load(Store(options.store))
    summary = do(loaded, options, options.command("run", options.store), console)
    show(summary, Store(options.store).study(summary.study.name), console)


def run_report(options: Report) -> None:
    """Writes a report."""
    console = Console()
    store = existing(options.store)
    loaded = options.load(store, kept=True)
    command = loaded.command or options.command("run", options.store)
    summary = collect(loaded.study, store, command=command, notes=loaded.notes)
    folder = options.out or store.study(loaded.study.name)
    folder.mkdir(parents=True, exist_ok=True)
    keep_report(summary, folder, store)
    show(summary, folder, console)
