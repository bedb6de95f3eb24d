"""What a training step of each configuration costs: all interleaved in one process, medians."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradreg._timing import in_turn
from gradreg.study.config import Run, StudyError, digest, meaning
from gradreg.study.store import Store, write_atomically

REPEATS = 25
# Seconds after which large networks are timed no more often than three times.
WITHIN = 60.0
_DEVICE = "device"  # beside the steps' ids, which are hexadecimal


@dataclass(frozen=True)
class Timing:
    """Configurations whose steps are to be timed; of those that differ in weights alone, one is."""

    runs: tuple[Run, ...]
    store: Path
    device: str = "cpu"


def step_id(run: Run) -> str:
    """What decides the time of a step: neither weights nor seeds nor the number of steps."""
    terms = [(penalty.preset, meaning(penalty.options)) for penalty in run.penalties]
    parts = [meaning(run.data), meaning(run.model), run.optimizer.name, run.schedule.batch_size, terms]
    if used := list(run.technique.used):
        parts.append(used)
    if run.technique.auto_weight:
        parts.append(run.schedule.steps)  # which the looks are spread over
    if run.split.unlabelled:
        parts.append(f"{run.schedule.unlabelled_batch or run.schedule.batch_size} unlabelled")
    return digest(parts)


def known_seconds(runs: Iterable[Run], store: Store) -> dict[str, float]:
    """Seconds of a step by `step_id`, where these runs were tried and timed together, all of them; else empty."""
    return {name: seconds for name, seconds in _kept(runs, store).items() if name != _DEVICE}


def timed_on(runs: Iterable[Run], store: Store) -> str:
    """The device that `known_seconds` are of."""
    return str(_kept(runs, store).get(_DEVICE, "cpu"))


def missing_timing(runs: Iterable[Run], store: Store, device: str = "cpu") -> Timing | None:
    """What has to be timed, on this device; None where it was, on whichever."""
    runs = list(runs)
    if known_seconds(runs, store):
        return None
    return Timing(tuple(dict.fromkeys(runs)), store.directory, device)


def save_seconds(timing: Timing, seconds: Mapping[str, float], store: Store) -> None:
    """Keeps what was timed."""
    kept = dict(seconds) if timing.device == "cpu" else {**seconds, _DEVICE: timing.device}
    write_atomically(_file(timing.runs, store), json.dumps(kept, indent=1))


def time_steps(timing: Timing) -> dict[str, float] | str:
    """Median seconds of one training step (forward, backward, optimizer) of each run, by `step_id`.

    On one thread, or on a GPU by steps that are not compiled. The looks of `gradreg.AutoWeight` are spread over all
    steps.

    A run that cannot be built, by its data, sizes, network or penalties, is told in words instead, all of them at once.
    """
    import torch

    from gradreg._peak import clock_of
    from gradreg.auto_weight import PARTS
    from gradreg.data.dataset import DataError
    from gradreg.study.batches import batches
    from gradreg.study.train import Training, dataset, divide

    store = Store(timing.store)
    steps: dict[str, Callable[[], object]] = {}
    looks: dict[str, Callable[[], object]] = {}
    share: dict[str, float] = {}
    periods: dict[str, int] = {}
    problems: dict[str, list[str]] = {}
    tried: set[str] = set()
    for run in timing.runs:
        built = digest([step_id(run), meaning(run.split), [meaning(term) for term in run.penalties]])
        if built in tried:
            continue
        tried.add(built)
        try:
            data = dataset(run.data.name, store.pack(run.data.content) if run.data.content else None)
            training = Training(run, divide(run, data), data.outputs, timing.device)
            chosen = next(batches(len(training.y), run))
            if training.auto_weight is not None:
                training.step = run.steps // 2  # where its penalties have begun
            training.advance(chosen)
        except (DataError, StudyError) as error:
            problems.setdefault(str(error), []).append(str(run))
            continue
        except Exception as error:
            problems.setdefault(f"{type(error).__name__}: {error}", []).append(str(run))
            continue
        steps.setdefault(step_id(run), lambda training=training, chosen=chosen: training.advance(chosen))
        periods[step_id(run)] = run.period
        if (auto := training.auto_weight) is not None:
            auto.steps = 10**9  # so that no look is timed with the steps
            looks[step_id(run)] = lambda auto=auto, model=training.model: auto.losses(model)
            share[step_id(run)] = min(1.0, PARTS / run.schedule.steps)
    if problems:
        return "\n".join(f"{named(runs)}: {problem}" for problem, runs in problems.items())
    threads, clock = torch.get_num_threads(), clock_of(torch.device(timing.device))
    torch.set_num_threads(1)
    try:
        # Runs of a few steps, which only show that everything works, are not worth more.
        repeats = min(REPEATS, max(run.steps for run in timing.runs))
        found = interleaved(steps, repeats, periods, clock)
        between = interleaved(looks, min(5, repeats), None, clock) if looks else {}
        return {name: seconds + share.get(name, 0.0) * between.get(name, 0.0) for name, seconds in found.items()}
    finally:
        torch.set_num_threads(threads)


def named(runs: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return runs[0] + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")


def interleaved(
    steps: Mapping[str, Callable[[], object]],
    repeats: int = REPEATS,
    periods: Mapping[str, int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each call, in turn; see `in_turn`."""
    found = in_turn(steps, repeats, periods=periods, within=WITHIN, clock=clock)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _kept(runs: Iterable[Run], store: Store) -> dict[str, Any]:
    runs = list(runs)
    try:
        found = json.loads(_file(runs, store).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(step_id(run) in found for run in runs) else {}


def _file(runs: Iterable[Run], store: Store) -> Path:
    folder = store.directory / "timings"
    folder.mkdir(exist_ok=True)
    return folder / f"{digest(sorted({run.key for run in runs}))}.json"
