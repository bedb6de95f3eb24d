"""What spawned processes run in tests of `execute`: importable by name, as this folder is on the path they inherit."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

_asked_to_stop: list[int] = []


def stop_gracefully() -> None:
    """A setup that has SIGTERM end what is in hand."""
    os.environ["SET_UP"] = "yes"
    signal.signal(signal.SIGTERM, lambda number, frame: _asked_to_stop.append(number))


def fail_to_set_up() -> None:
    """A setup that cannot be."""
    raise SystemExit(3)


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
        case "wait":
            # For a file, or for SIGTERM where `stop_gracefully` was the setup.
            begun, awaited = map(Path, value)
            begun.write_text(str(os.getpid()))
            while not awaited.exists():
                if _asked_to_stop:
                    awaited.with_suffix(".stopped").write_text("stopped gracefully")
                    return "stopped"
                time.sleep(0.01)
            return "waited"
        case "ignore SIGTERM":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Path(value).write_text(str(os.getpid()))
            while True:
                time.sleep(1)
        case "set up":
            return list(_asked_to_stop), os.environ.get("SET_UP")
        case "answer, then die":
            threading.Timer(value, os._exit, (0,)).start()
            return os.getpid()
    raise AssertionError(order)


def execute_one(item: tuple[str, Any]) -> None:
    """A parent with one worker."""
    from gradreg.study.execute import execute

    list(execute(act, [item], jobs=1))
