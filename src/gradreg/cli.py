"""The command line's door: `gradreg compare digits`, `gradreg compare mnist --train-size 2000`."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Version:
    """Print the versions of gradreg and torch."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; user's errors end the process with status 1 and a message."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        import tyro

        from gradreg.commands.compare import Compare, run_compare
        from gradreg.data.dataset import DataError
        from gradreg.study.config import StudyError
    except ImportError as error:
        raise SystemExit(
            f"gradreg's command line needs {error.name}, which is in its study extra: pip install 'gradreg[study]'"
        ) from error
    # One type for each command; tyro reads the options from their fields and docstrings.
    command = tyro.extras.subcommand_cli_from_dict(
        {"compare": Compare, "version": Version},
        prog="gradreg",
        description="Gradient regularization for PyTorch.",
        args=arguments or ["--help"],
    )
    try:
        if isinstance(command, Compare):
            run_compare(command)
        else:
            _print_versions()
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; the same command goes on from here") from None
    except (DataError, StudyError) as error:
        raise SystemExit(f"error: {error}") from None


def _print_versions() -> None:
    import torch

    import gradreg

    print(f"gradreg {gradreg.__version__}, torch {torch.__version__}")
