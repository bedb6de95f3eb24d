"""Searches for hyper-parameters, always on validation points: what to run next, and what has been tried.

A search is a generator: it yields the runs that it wants, is sent how they ended, and ends when it needs no more. What
it does depends on results alone, never on their order or on the number of processes, so that a search that was broken
off goes on as if it had not been.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradreg.study.config import AUTO_MEANING, MEANING, Run, StudyError, digest, meaning
from gradreg.study.grid import Arm, Grid, Study, Tpe, Values, kind, put, tuning_run
from gradreg.study.metric import Metric
from gradreg.study.select import Candidate, choose
from gradreg.study.store import Store
from gradreg.study.summary import Tried
from gradreg.study.work import Answer, Task

Searching = Generator[list[Task], Mapping[Run, Answer], None]


@dataclass(frozen=True)
class Progress:
    """What a search has found so far.

    Attributes:
        values: what is selected; None before the search has ended, or where every configuration failed.
        tried: every configuration.
        ended: whether nothing is left to run.
        left: runs that are known to be left; more may follow.
        failures: what went wrong in the runs that failed.
    """

    values: Values | None
    tried: tuple[Tried, ...]
    ended: bool
    left: int
    failures: tuple[str, ...] = ()


def search(arm: Arm, study: Study, store: Store) -> Searching:
    """The runs that an arm's search wants, batch by batch."""
    if isinstance(arm.search, Grid):
        yield [Task(run, store.directory) for runs in _grid_runs(arm, arm.search, study).values() for run in runs]
    elif isinstance(arm.search, Tpe):
        yield from _tpe(arm, arm.search, study, store)


def progress(arm: Arm, study: Study, store: Store) -> Progress:
    """What an arm's search has found, read from the store; changes nothing."""
    if arm.search is None:
        return Progress((), (), ended=True, left=0)
    if isinstance(arm.search, Grid):
        points, left = _grid_runs(arm, arm.search, study), 0
    else:
        points, trials = _tpe_runs(arm, arm.search, study, store)
        left = (arm.search.trials - trials) * study.tuning_seeds
    tried, failures, candidates = [], [], []
    for values, runs in points.items():
        results = [store.result(run) for run in runs]
        failed = [
            f["error"] for r, run in zip(results, runs, strict=True) if r is None and (f := store.files(run).failure())
        ]
        left += results.count(None) - len(failed)
        failures += failed
        scores = tuple(arm.run.metric.of(r, "validation") for r in results if r is not None)
        tried.append(Tried(values, scores, len(failed), runs[0].steps))
        if len(scores) == len(runs) and runs[0].steps == runs[0].schedule.steps:
            candidates.append(Candidate(values, scores))
    ended = left == 0
    return Progress(choose(candidates, arm.run.metric) if ended else None, tuple(tried), ended, left, tuple(failures))


def tuning_runs(arm: Arm, study: Study, store: Store) -> list[Run]:
    """The runs of an arm's search, as far as they are known."""
    points: dict[Values, list[Run]] = {}
    if isinstance(arm.search, Grid):
        points = _grid_runs(arm, arm.search, study)
    elif isinstance(arm.search, Tpe):
        points, _ = _tpe_runs(arm, arm.search, study, store)
    return [run for runs in points.values() for run in runs]


def rung_runs(arm: Arm, study: Study, store: Store) -> list[Run]:
    """The shorter runs of an arm's search by successive halving, whose states the longer ones go on from."""
    if not isinstance(arm.search, Tpe) or (opened := _read(arm, study, store)) is None:
        return []
    early = rungs(arm.run.schedule.steps, arm.search.halving)[:-1]
    return [run for t in opened.trials for until in early for run in _trial_runs(arm, study, _values(t), until)]


def _grid_runs(arm: Arm, grid: Grid, study: Study) -> dict[Values, list[Run]]:
    return {
        values: [tuning_run(arm.run, values, seed) for seed in range(study.tuning_seeds)] for values in grid.points()
    }


# --- Optuna -----------------------------------------------------------------------------------------------------------


def journal(arm: Arm, study: Study, store: Store) -> Path:
    """The journal of an arm's search: named by what is searched, so that another search never reads it."""
    assert isinstance(arm.search, Tpe)
    paths = {path: 0.0 for path, _ in arm.search.ranges}
    auto = [AUTO_MEANING] if arm.run.technique.auto_weight or "technique.auto_weight" in paths else []
    what = [MEANING, meaning(put(arm.run, paths)), meaning(arm.search), study.tuning_seeds, *auto]
    return store.directory / "searches" / f"{digest(what)}.journal"


def rungs(steps: int, halving: int) -> list[int]:
    """The steps at which a trial is judged, the last being all of them."""
    if halving == 0:
        return [steps]
    early = [steps // halving**2, steps // halving]
    return [*dict.fromkeys(rung for rung in early if 0 < rung < steps), steps]


def _tpe(arm: Arm, tpe: Tpe, study: Study, store: Store) -> Searching:
    opened = _open(arm, study, store)
    for begin in range(0, tpe.trials, tpe.batch):
        numbers = range(begin, min(begin + tpe.batch, tpe.trials))
        while len(opened.trials) < numbers.stop:
            _ask(opened, arm, tpe, study, store)
        if all(opened.trials[number].state.is_finished() for number in numbers):
            if lost := _lost(opened, numbers, arm, study, store):
                yield lost
            continue
        scores = yield from _judge(opened, numbers, arm, tpe, study, store)
        _tell(opened, scores, rungs(arm.run.schedule.steps, tpe.halving))


def _ask(opened: Any, arm: Arm, tpe: Tpe, study: Study, store: Store) -> None:
    """Adds the next trial, in one line of the journal: a trial is there with all its values or not at all."""
    import optuna

    trials = opened.trials
    # A sampler for each trial: what it draws does not depend on where a search was broken off.
    sampler = optuna.samplers.TPESampler(
        seed=int(digest([journal(arm, study, store).stem, len(trials)]), 16) % 2**32,
        n_startup_trials=max(tpe.batch, tpe.trials // 4),
    )
    beside = optuna.create_study(sampler=sampler, direction="maximize")
    beside.add_trials(trials)
    drawn = beside.ask(_distributions(arm, tpe))
    opened.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=drawn.params, distributions=drawn.distributions
        )
    )


def _judge(
    opened: Any, numbers: Sequence[int], arm: Arm, tpe: Tpe, study: Study, store: Store
) -> Generator[list[Task], Mapping[Run, Answer], dict[int, list[float]]]:
    """Trains a batch of trials from rung to rung, and returns the score of each at the rungs that it reached."""
    steps = rungs(arm.run.schedule.steps, tpe.halving)
    trials = opened.trials
    scores: dict[int, list[float]] = {number: [] for number in numbers}
    alive = list(numbers)
    for rung in range(len(steps)):
        if not alive:
            break
        runs = {n: _trial_runs(arm, study, _values(trials[n]), steps[rung]) for n in alive}
        tasks = [task for n in alive for task in _tasks(trials[n], rung, arm, study, store)]
        # Where two trials have the same values, their runs are the same.
        answers = yield list(dict.fromkeys(tasks))
        for n in alive:
            scores[n].append(_score([answers[run] for run in runs[n]], arm.run.metric))
        if rung < len(steps) - 1:
            earlier = [t.intermediate_values for t in trials[: numbers[0]]]
            seen = [values[steps[rung]] for values in earlier if steps[rung] in values]
            alive = _promoted({n: scores[n][rung] for n in alive}, seen, tpe.halving)
    return scores


def _tasks(trial: Any, rung: int, arm: Arm, study: Study, store: Store) -> list[Task]:
    """The runs of a trial up to a rung, each going on from the one before."""
    assert isinstance(arm.search, Tpe)
    steps = rungs(arm.run.schedule.steps, arm.search.halving)
    runs = _trial_runs(arm, study, _values(trial), steps[rung])
    before = [run.key for run in _trial_runs(arm, study, _values(trial), steps[rung - 1])] if rung else [""] * len(runs)
    return [
        Task(run, store.directory, start=start, keep_checkpoint=rung < len(steps) - 1)
        for run, start in zip(runs, before, strict=True)
    ]


def _promoted(scores: Mapping[int, float], earlier: Sequence[float], halving: int) -> list[int]:
    """The trials of a batch that are among the best 1/halving of all that were judged at a rung so far."""
    seen = [*earlier, *scores.values()]
    if not seen:
        return []
    bar = sorted(seen, reverse=True)[math.ceil(len(seen) / halving) - 1]
    return [n for n, score in scores.items() if score >= bar and score > 0]


def _tell(opened: Any, scores: Mapping[int, Sequence[float]], steps: Sequence[int]) -> None:
    """Notes the scores of a batch, or what is left of it to note."""
    import optuna

    for number, reached in scores.items():
        known = opened.trials[number]
        if known.state.is_finished():
            continue
        trial = optuna.Trial(opened, known._trial_id)
        for until, score in zip(steps, reached, strict=False):
            if until not in known.intermediate_values:
                trial.report(score, until)
        whole = len(reached) == len(steps)
        state = optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.PRUNED
        opened.tell(number, reached[-1] if whole else None, state)


def _lost(opened: Any, numbers: Sequence[int], arm: Arm, study: Study, store: Store) -> list[Task]:
    """Runs of trials that were told, whose results are gone since: they are done again, and change no choice."""
    trials = [opened.trials[number] for number in numbers]
    tasks = [task for t in trials for task in _tasks(t, max(0, len(t.intermediate_values) - 1), arm, study, store)]
    missing = [t for t in tasks if store.result(t.run) is None and store.files(t.run).failure() is None]
    return list(dict.fromkeys(missing))


def _tpe_runs(arm: Arm, tpe: Tpe, study: Study, store: Store) -> tuple[dict[Values, list[Run]], int]:
    """The longest runs of each trial in the journal, as far as they are known; and the number of trials."""
    opened = _read(arm, study, store)
    if opened is None:
        return {}, 0
    steps = rungs(arm.run.schedule.steps, tpe.halving)
    found: dict[Values, list[Run]] = {}
    trials = opened.trials
    for trial in trials:
        values = _values(trial)
        judged = len(trial.intermediate_values)
        until = steps[max(0, judged - 1)] if trial.state.is_finished() else steps[-1]
        runs = _trial_runs(arm, study, values, until)
        if values not in found or found[values][0].steps < runs[0].steps:
            found[values] = runs
    return found, len(trials)


def _open(arm: Arm, study: Study, store: Store) -> Any:
    """The journal, to be written to."""
    import optuna

    path = journal(arm, study, store)
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        whole = path.read_bytes()
        if not whole.endswith(b"\n"):  # a line that a crash, or a full disk, has cut short
            with path.open("r+b") as file:
                file.truncate(whole.rfind(b"\n") + 1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = _storage(path)
        return optuna.create_study(storage=storage, study_name="search", direction="maximize", load_if_exists=True)
    except ValueError as error:
        raise _damaged(path, error) from error


def _read(arm: Arm, study: Study, store: Store) -> Any:
    """The journal, to be read; None where there is none."""
    path = journal(arm, study, store)
    if not path.exists():
        return None
    import optuna

    try:
        return optuna.load_study(storage=_storage(path), study_name="search")
    except KeyError:  # not begun
        return None
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StudyError:
    return StudyError(
        f"the journal of a search, {path}, is damaged ({error}). Delete it and give the study's command again: its "
        "runs are kept, and the search is made anew from them."
    )


def _storage(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def _distributions(arm: Arm, tpe: Tpe) -> dict[str, Any]:
    from optuna.distributions import FloatDistribution, IntDistribution

    found = {}
    for path, r in tpe.ranges:
        declared = kind(arm.run, path)
        if declared is int:
            found[path] = IntDistribution(math.ceil(r.low), math.floor(r.high), log=r.log)
        elif declared is float:
            found[path] = FloatDistribution(r.low, r.high, log=r.log)
        else:
            raise StudyError(f"{path!r} got a range, but is no number; expected a grid with its values.")
    return found


def _values(trial: Any) -> Values:
    """Six digits are more than a weight needs, and read well."""
    return tuple((path, float(f"{v:.6g}") if isinstance(v, float) else v) for path, v in trial.params.items())


def _trial_runs(arm: Arm, study: Study, values: Values, until: int) -> list[Run]:
    return [tuning_run(arm.run, values, seed, until) for seed in range(study.tuning_seeds)]


def _score(answers: Sequence[Answer], metric: Metric) -> float:
    """How good the validation points' mean is; 0 where a run failed, which keeps the search away from there."""
    for answer in answers:
        if answer.state not in ("done", "failed"):
            raise ValueError(f"a search was told of a run that is {answer.state!r}; expected 'done' or 'failed'.")
    scores = [metric.of(answer.result, "validation") for answer in answers if answer.result is not None]
    return metric.goodness(sum(scores) / len(scores)) if len(scores) == len(answers) else 0.0
