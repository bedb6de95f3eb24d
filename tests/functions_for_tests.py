"""What spawned processes run in tests of `execute`: importable by name, as this folder is on the path they inherit."""

import os
import signal
import threading
from pathlib import Path
from typing import Any


def act(order: tuple[str, Any]) -> Any:
    """Does what the first word says with the second."""
    what, value = order
    match what:
        case "square":
            return value**2
        case "raise":
            raise LookupError(f"no page {value}")
        case "environment":
            return [os.environ.get(name) for name in value]
        case "blocked":
            return value in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        case "die at first":
            if not Path(value).exists():
                Path(value).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return "came back"
        case "die always":
            with Path(value).open("a") as file:
                file.write("tried\n")
            os.kill(os.getpid(), signal.SIGKILL)
        case "answer, then die":
            threading.Timer(value, os._exit, (0,)).start()
            return os.getpid()
    raise AssertionError(order)
