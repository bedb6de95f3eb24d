"""One run in a worker process of a Ray cluster, whose store is on another machine."""

import pickle
import socket
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradreg.study.config import AUTO_MEANING, MEANING, Run, StudyError
from gradreg.study.ray_keeper import RemoteFiles
from gradreg.study.source import code_hash
from gradreg.study.store import is_full
from gradreg.study.work import Answer, LostError, Task, log_to, train_task

if TYPE_CHECKING:
    from gradreg.data.dataset import Dataset

# The user's own data sets that this process has read, by their hash.
_own: dict[str, "Dataset"] = {}


def identity() -> dict[str, str]:
    """What has to be the same on all machines, for the same run to come out the same."""
    return {
        "gradreg": _version("gradreg"),
        "gradreg's meaning of a run": f"{MEANING}.{AUTO_MEANING}",
        "torch": _version("torch").partition("+")[0],  # what follows the + says which devices it was built for
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def serve(payload: bytes, keeper: Any, name: str, pack: Any) -> tuple[str, Any]:
    """Does one run.

    Args:
        payload: the `Task`, pickled.
        keeper: the handle of the `Keeper`.
        name: of this try.
        pack: reference to the bytes of the user's own data; None where there are none.

    Returns:
        "answer" and an `Answer`; or "refused" and what is wrong with this machine.
    """
    task: Task = pickle.loads(payload)
    with tempfile.TemporaryDirectory(prefix="gradreg-") as folder:
        files = RemoteFiles(keeper, name, Path(folder) / "log.txt")
        try:
            opened = files.open(task)
            if opened.answer is not None:
                return "answer", opened.answer
            if lacking := problem(task.run):
                return "refused", lacking
            with log_to(Path(folder) / "log.txt"):
                answer = train_task(
                    task,
                    files,
                    load=lambda: _load(task, pack, Path(folder) / "data.npz"),
                    start=opened.start,
                    stop=lambda: files.stop,
                )
                files.send_log()
            return "answer", answer
        except OSError as error:
            if is_full(error):
                return "answer", Answer("storage", error=f"{error} (a run on {socket.gethostname()})")
            raise


def problem(run: Run) -> str:
    """What this machine lacks for a run; none of it is the run's failure."""
    from gradreg.data.dataset import DataError
    from gradreg.study.train import dataset

    try:
        there = code_hash(run.model.name)
    except StudyError as error:
        return f"{error} With Ray, the network's file must be on every machine, at the same place."
    if there != run.model.code:
        return f"the source of the network {run.model.name!r} is not what it is where the command was given; copy it."
    if not run.data.content:
        try:
            dataset(run.data.name)
        except DataError as error:
            return f"the data set {run.data.name!r} cannot be read: {error}"
        except StudyError:
            return ""  # no machine has a data set of that name: the run fails
    return ""


def _load(task: Task, pack: Any, path: Path) -> "Dataset":
    """The data set: built in, or the user's own, which comes once per machine and is read once per process."""
    from gradreg.data.dataset import DataError
    from gradreg.data.pack import load_pack
    from gradreg.study.train import dataset

    data = task.run.data
    if not data.content:
        return dataset(data.name)
    if data.content not in _own:
        if pack is None:  # it was not there: the error says so as on the machine of the store
            return load_pack(task.store / "data" / f"{data.content}.npz")
        try:
            path.write_bytes(_bytes(pack))
            found = load_pack(path)
        finally:
            path.unlink(missing_ok=True)
        if found.content != data.content:
            raise DataError(f"the data {data.name!r} have the hash {found.content}, expected {data.content}.")
        _own[data.content] = found
    return _own[data.content]


def _bytes(reference: Any) -> memoryview:
    """An array from the object store of this machine, to which Ray copies it once."""
    import ray
    from ray.exceptions import RayError

    try:
        return memoryview(ray.get(reference))
    except RayError as error:
        raise LostError(f"the data are out of reach: {type(error).__name__}: {error}") from error
