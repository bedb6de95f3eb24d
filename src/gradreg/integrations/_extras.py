"""The error for a framework that is not installed."""


def missing(error: ImportError, extra: str) -> ModuleNotFoundError:
    """Names the package that is missing and the extra that brings it.

    Args:
        error: of the import.
        extra: of gradreg.
    """
    return ModuleNotFoundError(
        f"gradreg.integrations.{extra} needs {error.name}: pip install 'gradreg[{extra}]'", name=error.name
    )
