"""The TOML form of a study, for those who do not program: what it may say, and the study that it means.

name = "mine"
seeds = 5

[run]
data = "digits"
model = "small-cnn"
split = { train_size = 100, validation_size = 400, test_size = 797 }
optimizer = { learning_rate = 0.003, weight_decay = 0.0005 }
schedule = { steps = 200, batch_size = 20 }

[[arms]]
name = "Baseline"

[[arms]]
name = "SpectReg"
penalties = [{ preset = "SpectReg", weight = 0.03 }]
search = { weight = [0.01, 0.03, 0.1] }
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gradreg.study.config import Data, Model, Optimizer, Penalty, Protocol, Run, Scalar, Schedule, Split, StudyError
from gradreg.study.grid import Arm, Grid, Range, Reported, Search, Study, Tpe, expand, put
from gradreg.study.grid import paths as known_paths
from gradreg.study.structure import checked, structure
from gradreg.study.suggest import unknown

_TPE = ("trials", "batch", "halving")


@dataclass(frozen=True)
class DataForm:
    """One's own data: where it is, relative to the study's file, and the side of the squares images are made to."""

    path: str
    image_size: int | None = None


@dataclass(frozen=True)
class RunForm:
    """What all arms have in common. data: of `gradreg.data.known.KNOWN`, or a name in the table ``data``."""

    data: str
    model: str
    split: Split
    optimizer: Optimizer
    schedule: Schedule
    norm_points: int = 500
    profile_points: int = 0


@dataclass(frozen=True)
class ArmForm:
    """One arm.

    Attributes:
        penalties: each a preset, a weight, and its other plain arguments.
        set: values of the run that differ from what is common, by path: ``{"optimizer.learning_rate" = 0.001}``.
        search: for each path a list of values; or a range ``{low, high, log}``, with ``trials``, ``batch`` and
            ``halving`` beside the paths.
        reported: the paper's ``{mean, sd}``; of a study with a grid, a table of these by group.
    """

    name: str
    penalties: tuple[dict[str, Scalar], ...] = ()
    set: dict[str, Scalar] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    reported: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyForm:
    """A study as a TOML file says it. grid: values that each make a group of all arms, by path."""

    name: str
    run: RunForm
    arms: tuple[ArmForm, ...]
    title: str = ""
    about: str = ""
    seeds: int = 5
    tuning_seeds: int = 1
    correction: Literal["holm", "bonferroni"] = "holm"
    pairs: bool = False
    grid: dict[str, tuple[Scalar, ...]] = field(default_factory=dict)
    data: dict[str, DataForm] = field(default_factory=dict)


def study_of(value: Mapping[str, Any], what: str) -> tuple[Study, dict[str, DataForm]]:
    """The study that a TOML file means, and the user's own data by name.

    Args:
        value: the file's content.
        what: the file is called in messages.

    Raises:
        StudyError: names everything that is wrong, at once.
    """
    form = structure(dict(value), StudyForm, what)
    common = Run(
        Data(form.run.data),
        form.run.split,
        Model(form.run.model),
        form.run.optimizer,
        form.run.schedule,
        protocol=Protocol(norm_points=form.run.norm_points, profile_points=form.run.profile_points),
    )
    problems: list[str] = []
    arms: list[Arm] = []
    for index, arm in enumerate(form.arms):
        try:
            arms.append(_arm(arm, common, by_group=bool(form.grid)))
        except StudyError as error:
            problems.append(f"arms[{index}] ({arm.name}): {error}")
    if problems:
        raise StudyError(f"{what} has mistakes:\n" + "\n".join(f"  - {problem}" for problem in problems))
    try:
        whole = _in_groups(form, arms) if form.grid else tuple(arms)
        study = Study(
            name=form.name,
            title=form.title or form.name,
            arms=whole,
            seeds=form.seeds,
            tuning_seeds=form.tuning_seeds,
            correction=form.correction,
            pairs=form.pairs,
            about=form.about,
        )
    except StudyError as error:
        raise StudyError(f"{what}: {error}") from error
    return study, form.data


def _arm(form: ArmForm, common: Run, *, by_group: bool) -> Arm:
    run = put(common, form.set)
    run = replace(checked(run, "set"), penalties=tuple(map(_penalty, form.penalties)))
    reported = None if by_group or not form.reported else structure(form.reported, Reported, "reported")
    return Arm(form.name, run, _search(form.search, run), reported=reported)


def _in_groups(form: StudyForm, arms: list[Arm]) -> tuple[Arm, ...]:
    """Every arm in every group of the grid, with the paper's number there."""
    whole = expand(arms, form.grid)
    groups = list(dict.fromkeys(arm.group for arm in whole))
    reported = {arm.name: arm.reported for arm in form.arms}
    wrong = [unknown(g, groups) for by_group in reported.values() for g in by_group if g not in groups]
    if wrong:
        raise StudyError("reported: " + "; ".join(wrong))
    return tuple(
        replace(arm, reported=structure(reported[arm.name][arm.group], Reported, f"reported of {arm.id}"))
        if arm.group in reported[arm.name]
        else arm
        for arm in whole
    )


def _penalty(form: Mapping[str, Scalar]) -> Penalty:
    options = tuple(sorted((k, v) for k, v in form.items() if k not in ("preset", "weight")))
    given = {k: v for k, v in form.items() if k in ("preset", "weight")}
    return structure({**given, "options": [list(item) for item in options]}, Penalty, "a penalty")


def _search(form: Mapping[str, Any], run: Run) -> Search | None:
    """A grid where all values are lists, Optuna's search where all are ranges."""
    if not form:
        return None
    paths = {path: value for path, value in form.items() if path not in _TPE}
    known = known_paths(run)
    if wrong := [unknown(path, known) for path in paths if path not in known]:
        raise StudyError("; ".join(wrong))
    kinds = {isinstance(value, Mapping) for value in paths.values()}
    if kinds == {True}:
        ranges = tuple((path, structure(value, Range, path)) for path, value in paths.items())
        options = {name: form[name] for name in _TPE if name in form}
        return structure(
            {**options, "ranges": [[p, {"low": r.low, "high": r.high, "log": r.log}] for p, r in ranges]}, Tpe, "search"
        )
    if any(name in form for name in _TPE) or not all(isinstance(value, list) for value in paths.values()):
        raise StudyError(
            f"search got {dict(form)!r}; expected a list of values for each path (a grid), or a table with low and "
            f"high for each path, and {', '.join(_TPE)} if wanted (Optuna)."
        )
    values = [[path, value] for path, value in paths.items()]
    return structure({"values": values}, Grid, "search")
