"""`gradreg train`: one run, in this process, or on all the processes that torchrun started."""

import json
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from gradreg.study.config import Run, StudyError
from gradreg.study.environment import environment
from gradreg.study.files import kept_studies
from gradreg.study.grid import final_runs
from gradreg.study.metric import Metric
from gradreg.study.search import progress, tuning_runs
from gradreg.study.store import RunFiles, Store
from gradreg.study.structure import checked, structure

if TYPE_CHECKING:
    from gradreg.study.distributed import Group


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one run of a study, or of a file; under torchrun on several processes.

    `torchrun --nproc-per-node 4 -m gradreg train RUN.json` gives each process its share of every batch, and the
    parameters of the single process but for the order of summation.
    """

    run: tyro.conf.Positional[str]
    """A run's key or the beginning of it; or a file like the config.json of a run."""
    store: Path = Path("runs")
    """Directory of all results."""
    device: str = "cpu"
    """Where to train: cpu, cuda."""
    again: bool = False
    """Train a run anew that is done, and compare what comes out with what is kept, which stays as it is."""


class _Telling:
    """The files of a run, which also tells people how it goes."""

    def __init__(self, files: RunFiles, metric: Metric):
        self._files, self._metric = files, metric

    def note(self, line: dict[str, Any]) -> None:
        self._files.note(line)
        if f"validation_{self._metric.key}" in line:
            found = self._metric.whole(self._metric.of(line, "validation"))
            print(f"step {line['step']}: loss {line['task']:.4f}, validation {found}")

    def beat(self, step: int, steps: int) -> None:
        self._files.beat(step, steps)

    def save_checkpoint(self, content: bytes) -> None:
        self._files.save_checkpoint(content)


def run_train(options: Train) -> None:
    """Trains one run."""
    from gradreg.study.distributed import joined
    from gradreg.study.train import dataset
    from gradreg.study.work import stop_on_sigterm

    store = Store(options.store)
    run = _run(options.run, store)
    data = dataset(run.data.name, store.pack(run.data.content) if run.data.content else None)
    stop_on_sigterm(with_parent="RANK" in os.environ)  # torchrun's end is this one's; a shell's is not, as after nohup
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))
    with joined(options.device) as group, ExitStack() as stack:
        files = store.files(run)
        if options.again:
            _again(run, data, options.device, files, group)
            return
        state = "go"
        if group.rank == 0:
            mine = stack.enter_context(files.claim())
            state = "elsewhere" if not mine else "done" if files.result() is not None else "go"
        state = group.from_first(state)
        if state == "elsewhere":
            raise StudyError(f"{run.key} is in another process's hands; `gradreg status` shows how far it is.")
        if state == "go":
            _train(run, data, options.device, files, group)
        if group.rank == 0:
            _tell(run, files, "done before; --again repeats it" if state == "done" else "done")


def _run(reference: str, store: Store) -> Run:
    """A run from a file, or by its key."""
    path = Path(reference).expanduser()
    if path.suffix == ".json":
        try:
            value = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise StudyError(f"the run {reference} cannot be read: {error}") from error
        return checked(structure(value, Run, f"the run {reference}"), f"the run {reference}")
    kept = _of_studies(reference, store)
    if kept is not None:
        return kept
    files = store.find(reference)
    config = files.config()
    if config is None:
        raise StudyError(f"{files.folder} has no whole config.json; give the study's command again.")
    return structure(config, Run, f"the run {files.folder.name}")


def _of_studies(key: str, store: Store) -> Run | None:
    """The run of a study in the store with this key, whether it has begun or not."""
    if len(key) != 16 or store.has(key):
        return None
    for study in kept_studies(store):
        for arm in study.arms:
            values = progress(arm, study, store).values
            final = [] if values is None else final_runs(arm, values, study.seeds)
            for run in (*final, *tuning_runs(arm, study, store)):
                if run.key == key:
                    return run
    return None


def _train(run: Run, data: Any, device: str, files: RunFiles, group: "Group") -> None:
    from gradreg.study.distributed import train_distributed
    from gradreg.study.train import StoppedError, Watch
    from gradreg.study.trained import pack_model
    from gradreg.study.work import stopping, usable

    first = group.rank == 0
    start = None
    if first:
        files.begin(run, {**environment(device), "processes": group.world})
        start = usable(files.checkpoint())
        files.trim(start[0] if start else 0)
        print(f"{run.key}: {run}" + (f"; goes on from step {start[0]}" if start else ""))
    watch = Watch(keeper=_Telling(files, run.metric) if first else None, stop=stopping)
    content = start[1] if start else None
    try:
        result, training = train_distributed(run, data, device=device, start=content, watch=watch)
    except StoppedError as stopped:
        raise SystemExit(f"{stopped}; the same command goes on from here" if first else 1) from None
    except StudyError as error:
        if first:
            files.save_failure(str(error))
        raise
    if first:
        if run.protocol.measure == "test":
            files.save_model(pack_model(training, data))
        files.save_result(result)


def _again(run: Run, data: Any, device: str, files: RunFiles, group: "Group") -> None:
    """Trains anew, in memory, and compares."""
    from gradreg.study.distributed import train_distributed
    from gradreg.study.train import StoppedError, Watch
    from gradreg.study.work import stopping

    kept = files.result()
    if kept is None:
        raise StudyError(f"{run.key} is not done, so that there is nothing to compare with; leave --again out.")
    try:
        result, _ = train_distributed(run, data, device=device, watch=Watch(stop=stopping))
    except StoppedError as stopped:
        raise SystemExit(str(stopped) if group.rank == 0 else 1) from None
    if group.rank != 0:
        return
    names = [name for name in result if name != "seconds"]
    for name in names:
        if not isinstance(result[name], dict):  # a learned function is compared, not printed
            print(f"{name}: {result[name]} (kept: {kept.get(name)})")
    print(
        "the same in every digit"
        if all(result[n] == kept[n] for n in names if n in kept)
        else "NOT the same in every digit"
    )


def _tell(run: Run, files: RunFiles, how: str) -> None:
    result = files.result() or {}
    print(f"{run.key} {how}: " + ", ".join(f"{k} {v:.4g}" for k, v in result.items() if isinstance(v, float)))
    print(f"kept in {files.folder}")
