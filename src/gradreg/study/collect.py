"""From the store to a summary: what is known of a study at this moment. No torch here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gradreg.study.config import Run
from gradreg.study.cost import known_seconds, step_id, timed_on
from gradreg.study.grid import Arm, Study, final_runs
from gradreg.study.search import progress
from gradreg.study.store import Store
from gradreg.study.summary import Curve, Found, Summary, summarize

# Of a run's environment, what changes from run to run of one command.
_OF_A_RUN = ("pid", "host")


def collect(study: Study, store: Store, *, command: str, notes: Sequence[str] = ()) -> Summary:
    """Reads what a study has found so far.

    Args:
        study: what was asked.
        store: where the runs are.
        command: what repeats the study.
        notes: sentences about the data.
    """
    compared = [arm.run for arm in study.arms]
    seconds = known_seconds(compared, store)
    found = [_found(arm, study, store, seconds) for arm in study.arms]
    environments: dict[tuple[tuple[str, object], ...], dict[str, object]] = {}
    for item in found:
        for run, result in zip(item.runs, item.results, strict=True):
            known = store.files(run).environment() if result is not None else None
            if known is not None:
                kept = {name: value for name, value in known.items() if name not in _OF_A_RUN}
                environments.setdefault(tuple(sorted((k, str(v)) for k, v in kept.items())), kept)
    summary = summarize(study, found, command=command, environments=list(environments.values()), notes=notes)
    return replace(summary, timed_on=timed_on(compared, store))


def _found(arm: Arm, study: Study, store: Store, seconds: Mapping[str, float]) -> Found:
    at = progress(arm, study, store)
    failures: list[tuple[int | None, str]] = []
    if at.values is None:
        failures += [(None, error) for error in dict.fromkeys(at.failures)] if at.ended else []
        return Found(arm, None, at.tried, (), (), tuple(failures))
    runs = tuple(final_runs(arm, at.values, study.seeds))
    results = tuple(store.result(run) for run in runs)
    for run, result in zip(runs, results, strict=True):
        failure = store.files(run).failure() if result is None else None
        if failure is not None:
            failures.append((run.seed, failure["error"]))
    curves = tuple(_curve(run, store) for run, result in zip(runs, results, strict=True) if result is not None)
    return Found(arm, at.values, at.tried, runs, results, tuple(failures), seconds.get(step_id(runs[0])), curves)


def _curve(run: Run, store: Store) -> Curve:
    lines, name = store.files(run).metrics(), f"validation_{run.metric.key}"
    return Curve(
        seed=run.seed,
        steps=tuple(int(line["step"]) for line in lines),
        loss=tuple(float(line.get("task", math.nan)) for line in lines),
        validation=tuple(run.metric.of(line, "validation") if name in line else math.nan for line in lines),
    )
