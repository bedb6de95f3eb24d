"""Finds a study by what the user writes: a name, a Python, TOML or JSON file; and puts what the user overrides in."""

import importlib
import importlib.util
import inspect
import json
import math
import pkgutil
import sys
import tomllib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

from gradreg.data.known import NOTES
from gradreg.study.config import Model, Run, StudyError, out_of_range
from gradreg.study.forms import DataForm, study_of
from gradreg.study.grid import Arm, Grid, Range, Study, Tpe, kind, paths, put
from gradreg.study.own_data import Facts, own_data, with_content
from gradreg.study.source import code_hash
from gradreg.study.store import Store, write_atomically
from gradreg.study.structure import checked, structure
from gradreg.study.suggest import unknown

BUILT_IN = "gradreg.studies"
_KEPT = "gradreg study 1"
# Fields of a study that can be set from outside.
_SETTABLE = ("name", "title", "seeds", "tuning_seeds", "correction", "pairs")

_ONLY_ONE = "--{option} got {value!r}, but the study {what} has one {option} only; leave it out."
# Fields of a run that follow from the study.
_DERIVED = ("seed", "protocol.measure", "data.content", "model.code", "penalties")


@dataclass(frozen=True)
class Loaded:
    """A study that is ready to run.

    Attributes:
        study: with the hashes of the user's own data and networks.
        notes: what was decided while the user's own data was read.
        command: what the study in the store was last run by; "" for one that comes from elsewhere.
    """

    study: Study
    notes: tuple[str, ...] = ()
    command: str = ""


def load_study(
    reference: str,
    store: Store,
    *,
    scale: str | None = None,
    protocol: str | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    kept: bool = False,
) -> Loaded:
    """A study from what the user writes.

    Args:
        reference: a file that ends in .py, .toml or .json; or the name of a built-in study, or of one in the store.
        store: where the user's own data is kept.
        scale: handed to a study that is a function of it, such as "paper", "quick" or "smoke".
        protocol: likewise, "paper" or "scripts": the paper's text, or what its published scripts do.
        overrides: "path=value", of the study ("seeds=3") or of every run that has the path ("schedule.steps=100").
        only: patterns of arms to keep, by their names or by "group/name"; the baselines of their groups stay.
        kept: take the study as it was last run, where the store has one of that name and nothing is put in.

    Raises:
        StudyError, DataError: the study cannot be read, and why.
    """
    path = Path(reference).expanduser()
    known = store.directory / "studies" / reference / "study.json"
    options = {name: value for name, value in (("scale", scale), ("protocol", protocol)) if value is not None}
    if kept and not options and not overrides and not only and known.is_file():
        return _kept(known)
    is_python = path.suffix == ".py" or reference in names()
    data: dict[str, DataForm] = {}
    notes: tuple[str, ...] = ()
    if path.suffix in (".py", ".toml", ".json"):
        if not path.is_file():
            raise StudyError(f"the study {reference} is not there; expected a file, or one of {', '.join(names())}.")
        if path.suffix == ".py":
            study, data = _of_module(_module(path), reference, options)
        elif path.suffix == ".toml":
            study, data = study_of(_parsed(path, tomllib.loads), f"the study {reference}")
        else:
            study, notes = _of_json(path)
    elif reference in names():
        study, data = _of_module(importlib.import_module(f"{BUILT_IN}.{reference}"), reference, options)
    elif known.is_file():
        study, notes = _of_json(known)
    else:
        raise StudyError(
            f"there is no study of that name: {unknown(reference, names())} (Or a file: mine.py, mine.toml.)"
        )
    if not is_python:
        _refuse(options, reference)
    study = _chosen(_checked(overridden(study, overrides), reference), only)
    base = path.parent if path.suffix else Path()
    facts = {name: own_data(base / form.path, store, image_size=form.image_size) for name, form in data.items()}
    notes = (*notes, *(f"{n}: {note}" for n, f in facts.items() for note in f.notes))
    return Loaded(_hashed(study, facts), tuple(dict.fromkeys((*notes, *data_notes(study)))))


def data_notes(study: Study) -> tuple[str, ...]:
    """What has to be said beside numbers from the built-in data sets of a study."""
    names = dict.fromkeys(arm.run.data.name for arm in study.arms if not arm.run.data.content)
    return tuple(NOTES[name] for name in names if name in NOTES)


def names() -> list[str]:
    """The names of the built-in studies."""
    package = importlib.import_module(BUILT_IN)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def save_study(loaded: Loaded, store: Store, command: str) -> None:
    """Keeps a study in the store, by whose name it is found from then on."""
    value = {"format": _KEPT, "study": asdict(loaded.study), "notes": list(loaded.notes), "command": command}
    write_atomically(store.study(loaded.study.name) / "study.json", json.dumps(value, indent=1))


def _kept(path: Path) -> Loaded:
    study, notes = _of_json(path)
    return Loaded(study, notes, str(_parsed(path, json.loads).get("command", "")))


def kept_studies(store: Store) -> Iterator[Study]:
    """The studies in a store, as they were last run; one that cannot be read is passed over."""
    for path in sorted((store.directory / "studies").glob("*/study.json")):
        with suppress(StudyError):
            yield _of_json(path)[0]


# --- forms ------------------------------------------------------------------------------------------------------------


def _of_module(module: ModuleType, what: str, options: Mapping[str, str]) -> tuple[Study, dict[str, DataForm]]:
    """``STUDY``, or ``study()`` with those of ``scale`` and ``protocol`` that it names; with ``DATA``, the paths of the
    user's own data by name."""
    found = getattr(module, "STUDY", None) or getattr(module, "study", None)
    if callable(found):
        taken = inspect.signature(found).parameters
        _refuse({name: value for name, value in options.items() if name not in taken}, what)
        with _explained(what, Path(module.__file__ or "")):
            found = found(**options)
    else:
        _refuse(options, what)
    if not isinstance(found, Study):
        raise StudyError(
            f"the study {what} has {type(found).__name__}; expected STUDY = gradreg.study.grid.Study(...), or a "
            "function study() that returns one."
        )
    paths = getattr(module, "DATA", {})
    if not isinstance(paths, Mapping):
        raise StudyError(f"the study {what} has DATA={paths!r}; expected a dict of paths by name.")
    return found, {str(name): DataForm(str(path)) for name, path in paths.items()}


def _refuse(options: Mapping[str, str], what: str) -> None:
    """Options of a study that does not take them."""
    for option, value in options.items():
        raise StudyError(_ONLY_ONE.format(option=option, value=value, what=what))


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gradreg_study_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # for what it imports from its own folder, as python FILE does
    try:
        with _explained(str(path), path):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


@contextmanager
def _explained(what: str, path: Path) -> Iterator[None]:
    """What a user's study file raises, in one line that names the file's."""
    try:
        yield
    except StudyError as error:
        raise StudyError(f"the study {what}: {error}") from error
    except Exception as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.filename == str(path) else ""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
        line = f", line {frames[-1].lineno}" if frames else line
        raise StudyError(f"the study {what}{line} cannot be read: {type(error).__name__}: {error}") from error


def _of_json(path: Path) -> tuple[Study, tuple[str, ...]]:
    value = _parsed(path, json.loads)
    if not isinstance(value, dict) or value.get("format") != _KEPT or "study" not in value:
        raise StudyError(f"{path} is not a study as gradreg keeps it; expected studies/NAME/study.json of a store.")
    study = structure(value["study"], Study, f"the study {path}")
    return study, tuple(map(str, value.get("notes", ())))


def _parsed(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text())
    except OSError as error:
        raise StudyError(f"the study {path} cannot be read: {error}.") from error
    except ValueError as error:
        raise StudyError(f"the study {path} is no {path.suffix[1:].upper()}: {error}.") from error


# --- what is put in ---------------------------------------------------------------------------------------------------


def overridden(study: Study, overrides: Sequence[str]) -> Study:
    """The study with values put in; see `load_study`.

    Raises:
        StudyError: names every path that neither the study nor any of its runs has, and every value of a wrong type.
    """
    known = dict.fromkeys([*_SETTABLE, *(p for arm in study.arms for p in paths(arm.run) if p not in _DERIVED)])
    for_study: dict[str, Any] = {}
    for_runs: dict[str, Any] = {}
    problems: list[str] = []
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals:
            problems.append(f"{text!r} has no value; write {path}=VALUE")
        elif path in _SETTABLE:
            for_study[path] = _value(value)
        elif path in known:
            for_runs[path] = _value(value)
        else:
            problems.append(unknown(path, known))
    if problems:
        raise StudyError("--set has mistakes: " + "; ".join(problems))
    if not for_study and not for_runs:
        return study
    arms = tuple(
        replace(arm, run=put(arm.run, {path: value for path, value in for_runs.items() if path in paths(arm.run)}))
        for arm in study.arms
    )
    value = asdict(replace(study, arms=arms))
    return structure(_plain({**value, **for_study}), Study, "--set: the study")


def _checked(study: Study, what: str) -> Study:
    """The study, if each value has the type of its field, and each value that a search tries."""
    study = structure(_plain(asdict(study)), Study, f"the study {what}")
    problems = [f"{arm.id}: {wrong}" for arm in study.arms for wrong in out_of_range(arm.run)]
    if problems:
        raise StudyError(f"the study {what} has mistakes:\n" + "\n".join(f"  - {p}" for p in dict.fromkeys(problems)))
    for arm in study.arms:
        tried = (
            [(path, v) for path, values in arm.search.values for v in values] if isinstance(arm.search, Grid) else []
        )
        tried += (
            [(path, _low(arm.run, path, r)) for path, r in arm.search.ranges] if isinstance(arm.search, Tpe) else []
        )
        for path, value in tried:
            try:
                checked(put(arm.run, {path: value}), "a value")
            except StudyError as error:
                problems.append(f"{arm.id}, search: {error}")
    if problems:
        raise StudyError(f"the study {what} has mistakes:\n" + "\n".join(f"  - {p}" for p in dict.fromkeys(problems)))
    return study


def _low(run: Run, path: str, values: Range) -> float:
    """The smallest value of a range, whole where the field is."""
    return math.ceil(values.low) if kind(run, path) is int else values.low


def _value(text: str) -> Any:
    """A value as TOML reads it; else a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _chosen(study: Study, only: Sequence[str]) -> Study:
    if not only:
        return study

    def names(arm: Arm, pattern: str) -> bool:
        return any(fnmatch(name.lower(), pattern.lower()) for name in (arm.name, arm.id))

    known = list(dict.fromkeys([*(arm.name for arm in study.arms), *(arm.id for arm in study.arms)]))
    wrong = [unknown(pattern, known) for pattern in only if not any(names(arm, pattern) for arm in study.arms)]
    if wrong:
        raise StudyError("--only: " + "; ".join(wrong))
    kept = [arm for arm in study.arms if any(names(arm, pattern) for pattern in only)]
    baselines = {arms[0].id for group, arms in study.groups().items() if any(arm.group == group for arm in kept)}
    return replace(study, arms=tuple(arm for arm in study.arms if arm in kept or arm.id in baselines))


def _hashed(study: Study, facts: dict[str, Facts]) -> Study:
    """The study with the hashes of the user's own data and of the source of the user's own networks."""

    def hashed(run: Run) -> Run:
        run = with_content(run, facts)
        return replace(run, model=Model(run.model.name, code_hash(run.model.name)))

    return replace(study, arms=tuple(replace(arm, run=hashed(arm.run)) for arm in study.arms))
