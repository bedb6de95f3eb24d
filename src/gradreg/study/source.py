"""The source of the user's own networks, by whose hash a change is seen. No torch here."""

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path

from gradreg.study.config import StudyError


def code_hash(name: str) -> str:
    """The first 16 hexadecimal digits of SHA-256 over the source file of a ``module:factory``; "" for built-ins.

    Other files that this one imports do not count.

    Raises:
        StudyError: the module is not there, or has no source file.

    Example:
        >>> code_hash("mlp")
        ''
    """
    return file_hash(source_file(name)) if ":" in name else ""


def file_hash(path: Path) -> str:
    """The first 16 hexadecimal digits of SHA-256 over a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def parted(name: str) -> tuple[str, str]:
    """Module and factory of ``module:factory``."""
    module, _, factory = name.rpartition(":")
    if not module or not factory.isidentifier():
        raise StudyError(f"the network got {name!r}; expected module:factory, as in mynet:build or mynet.py:Net.")
    return module, factory


def source_file(name: str) -> Path:
    """The file of a module."""
    module, _ = parted(name)
    if module.endswith(".py"):
        path = Path(module).expanduser().resolve()
        if not path.is_file():
            raise StudyError(f"the network {name!r} is in {path}, which is not there.")
        return path
    if os.getcwd() not in sys.path and "" not in sys.path:  # as python -m does
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec(module)
    except Exception as error:  # of a package above it, which is run, or of the name
        raise StudyError(f"the network {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if found is None:
        raise StudyError(
            f"the network {name!r} is in a module {module!r} that is not there; expected {module.replace('.', '/')}.py "
            f"in {os.getcwd()} or an installed module, or a file: path/to/{module.rsplit('.', maxsplit=1)[-1]}.py:..."
        )
    if not found.origin or not found.origin.endswith(".py"):
        raise StudyError(
            f"the network {name!r} is in a module without a source file ({found.origin or 'a folder'}), so that "
            "changes to it could not be seen; put the factory into a .py file."
        )
    return Path(found.origin)
