"""The command line's door: `gradreg compare digits`, `gradreg run STUDY`, `gradreg report STUDY`."""

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec

_NEEDED = ("numpy", "scipy", "matplotlib", "rich", "tyro", "cattrs", "optuna", "jinja2")


@dataclass(frozen=True)
class Version:
    """Print the versions of gradreg and torch."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; user's errors end the process with status 1 and a message."""
    try:
        _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough: gradreg --help | head. Nothing is left to be written at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _main(arguments: list[str] | None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    for name in _NEEDED:  # some are imported late, when a report is written: too late to be told
        if find_spec(name) is None:
            raise SystemExit(
                f"gradreg's command line needs {name}, which is in its study extra: pip install 'gradreg[study]'"
            )
    import tyro

    from gradreg.commands.bench import Bench, run_bench
    from gradreg.commands.compare import Compare, run_compare
    from gradreg.commands.look import Export, Show, Status, run_export, run_show, run_status
    from gradreg.commands.probe import Probe, run_probe
    from gradreg.commands.run import Report, RunStudy, run_report, run_study
    from gradreg.commands.train import Train, run_train
    from gradreg.data.dataset import DataError
    from gradreg.study.config import StudyError
    from gradreg.study.store import is_full

    # One type for each command; tyro reads the options from their fields and docstrings.
    commands = {
        "compare": (Compare, run_compare),
        "run": (RunStudy, run_study),
        "report": (Report, run_report),
        "status": (Status, run_status),
        "show": (Show, run_show),
        "export": (Export, run_export),
        "train": (Train, run_train),
        "bench": (Bench, run_bench),
        "probe": (Probe, run_probe),
        "version": (Version, _print_versions),
    }
    command = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in commands.items()},
        prog="gradreg",
        description="Gradient regularization for PyTorch.",
        args=arguments or ["--help"],
        config=(tyro.conf.OmitArgPrefixes,),
    )
    do = next(function for kind, function in commands.values() if isinstance(command, kind))
    try:
        do(command)  # type: ignore[operator]
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; the same command goes on from here") from None
    except (DataError, StudyError) as error:
        raise SystemExit(f"error: {error}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        after = " Free some space, and give the same command again: it goes on from here." if is_full(error) else ""
        raise SystemExit(f"error: {error}.{after}") from None


def _print_versions(_: Version) -> None:
    import torch

    import gradreg

    print(f"gradreg {gradreg.__version__}, torch {torch.__version__}")
