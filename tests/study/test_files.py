"""Studies by name and by file: Python, TOML, JSON; what is put in; mistakes, with the line or the place."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sweeps_for_tests import toml

from gradreg.study.config import StudyError
from gradreg.study.files import load_study, names, save_study
from gradreg.study.grid import Grid
from gradreg.study.store import Store

PYTHON = """
from gradreg.study.config import Data, Model, Optimizer, Penalty, Run, Schedule, Split
from gradreg.study.grid import Arm, Grid, Study

RUN = Run(Data("{data}"), Split(100, 400, 797), Model("small-cnn"), Optimizer(0.003), Schedule(20, 20))


def study(scale="quick"):
    spectreg = Run(RUN.data, RUN.split, RUN.model, RUN.optimizer, RUN.schedule, (Penalty("SpectReg", 0.1),))
    arms = Arm("Baseline", RUN), Arm("SpectReg", spectreg, Grid((("weight", {weights}),)))
    return Study("mine", "Mine", arms, seeds={{"quick": 2, "paper": 10}}[scale])
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def written(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def python(folder: Path, data: str = "digits", weights: str = "(0.01, 0.1)", more: str = "") -> str:
    return written(folder, PYTHON.format(data=data, weights=weights) + more)


def mistake(reference: str, store: Store, **options: object) -> str:
    with pytest.raises(StudyError) as caught:
        load_study(reference, store, **options)  # type: ignore[arg-type]
    return str(caught.value)


# --- where from -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_built_in_studies_load_by_name(name: str, store: Store) -> None:
    study = load_study(name, store).study
    assert (study.arms[0].run.penalties == ()) == (name not in ("table6", "combination"))
    assert len({arm.id for arm in study.arms}) == len(study.arms)


def test_python_file_is_run_with_its_scale(tmp_path: Path, store: Store) -> None:
    path = python(tmp_path)
    assert load_study(path, store).study.seeds == 2
    assert load_study(path, store, scale="paper").study.seeds == 10
    assert "line 11 cannot be read: KeyError: 'huge'" in mistake(path, store, scale="huge")


def test_scale_of_a_study_that_has_none_is_refused(tmp_path: Path, store: Store) -> None:
    said = "--scale got 'paper', but the study digits has one scale only; leave it out."
    assert mistake("digits", store, scale="paper") == said
    assert "has one scale only" in mistake(str(toml(tmp_path)), store, scale="paper")
    assert "has one scale only" in mistake(python(tmp_path, more="\nSTUDY = study()\n"), store, scale="paper")


def test_protocol_is_handed_to_studies_that_take_one(tmp_path: Path, store: Store) -> None:
    assert load_study("table6", store, scale="smoke", protocol="scripts").study.name == "table6-scripts-smoke"
    assert load_study("table6", store, protocol="paper").study.name == "table6"
    said = "--protocol got 'scripts', but the study {} has one protocol only; leave it out."
    assert mistake("digits", store, protocol="scripts") == said.format("digits")
    for path in (python(tmp_path), str(toml(tmp_path))):
        assert mistake(path, store, protocol="scripts") == said.format(path)
    assert load_study(python(tmp_path), store, scale="paper").study.seeds == 10


def test_file_in_its_own_folder_may_import_a_neighbour(tmp_path: Path, store: Store) -> None:
    written(tmp_path, "SEEDS = 7\n", "neighbour_of_mine.py")
    path = python(tmp_path, more="\nfrom dataclasses import replace\nfrom neighbour_of_mine import SEEDS\n")
    Path(path).write_text(Path(path).read_text() + "STUDY = replace(study(), seeds=SEEDS)\n")
    assert load_study(path, store).study.seeds == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ny = x / 0\n", "line 2 cannot be read: ZeroDivisionError: division by zero"),
        ("x = 1\n\ny = (\n", "line 3 cannot be read: SyntaxError: '(' was never closed"),
        ("import nothing_of_that_name\n", "line 1 cannot be read: ModuleNotFoundError"),
        ("def study():\n    return [][0]\n", "line 2 cannot be read: IndexError: list index out of range"),
        ("x = 1\n", "has NoneType; expected STUDY = "),
        ("STUDY = 3\n", "has int; expected STUDY = "),
        (
            "from gradreg.study.grid import Study\nSTUDY = Study('a b', '', ())\n",
            "has no arms; expected one",
        ),
    ],
)
def test_python_file_that_goes_wrong_is_told_with_its_line(
    text: str, expected: str, tmp_path: Path, store: Store
) -> None:
    path = written(tmp_path, text)
    said = mistake(path, store)
    assert said.startswith(f"the study {path}")
    assert expected in said


def test_values_of_a_python_study_are_checked_too(tmp_path: Path, store: Store) -> None:
    said = mistake(python(tmp_path, weights="(0.1, 'much')"), store)
    assert "SpectReg, search: a value has a mistake: penalties[0].weight: got 'much'; expected a number" in said
    more = "\nfrom dataclasses import replace\nSTUDY = replace(study(), seeds=2.5)\n"
    assert mistake(python(tmp_path, more=more), store).endswith("seeds: got 2.5; expected a whole number")


def test_what_is_no_study_is_answered_with_what_is(tmp_path: Path, store: Store) -> None:
    assert "'digit' is not known; did you mean 'digits'? (Or a file: mine.py" in mistake("digit", store)
    said = mistake(str(tmp_path / "none.toml"), store)
    assert "none.toml is not there; expected a file, or one of " in said
    assert all(f" {name}, " in said for name in ("digits", "mnist", "table4"))
    assert "is no TOML: " in mistake(written(tmp_path, "name = ", "bad.toml"), store)
    assert "is no JSON: " in mistake(written(tmp_path, "{", "bad.json"), store)
    assert "is not a study as gradreg keeps it" in mistake(written(tmp_path, "[1]", "list.json"), store)


@pytest.mark.parametrize("kind", ["py", "toml"])
def test_saved_study_is_the_same_by_its_name_and_as_a_file(kind: str, tmp_path: Path, store: Store) -> None:
    path = python(tmp_path) if kind == "py" else str(toml(tmp_path))
    loaded = load_study(path, store)
    save_study(replace(loaded, notes=("a note",)), store, "gradreg run mine")
    again = load_study("mine", store)
    assert again.study == loaded.study
    assert [arm.run.key for arm in again.study.arms] == [arm.run.key for arm in loaded.study.arms]
    assert again.notes == ("a note",)
    file = store.study("mine") / "study.json"
    assert load_study(str(file), store) == again
    value = json.loads(file.read_text())
    value["study"]["arms"][1]["run"]["seed"] = "x"
    file.write_text(json.dumps(value))
    assert "arms[1].run.seed: got 'x'; expected a whole number" in mistake("mine", store)


def test_saved_search_by_optuna_is_the_same(tmp_path: Path, store: Store) -> None:
    loaded = load_study(str(toml(tmp_path, search="{ weight = { low = 0.1, high = 2 }, trials = 5 }")), store)
    save_study(loaded, store, "gradreg run mine")
    assert load_study("mine", store).study == loaded.study


# --- one's own data ---------------------------------------------------------------------------------------------------


def own_npz(folder: Path, seed: int = 0) -> Path:
    draw = np.random.default_rng(seed)
    path = folder / "sensors.npz"
    np.savez(path, X=draw.normal(size=(60, 5)).astype("float32"), y=np.arange(60) % 3)
    return path


def test_data_of_a_python_file_is_read_relative_to_it(tmp_path: Path, store: Store) -> None:
    own_npz(tmp_path)
    loaded = load_study(python(tmp_path, data="sensors", more="\nDATA = {'sensors': 'sensors.npz'}\n"), store)
    (content,) = {arm.run.data.content for arm in loaded.study.arms}
    assert store.pack(content).exists()
    assert all(note.startswith("sensors: ") for note in loaded.notes)
    key = loaded.study.arms[0].run.key
    own_npz(tmp_path, seed=1)
    other = load_study(python(tmp_path, data="sensors", more="\nDATA = {'sensors': 'sensors.npz'}\n"), store)
    assert other.study.arms[0].run.key != key
    assert "has DATA=3; expected a dict" in mistake(python(tmp_path, more="\nDATA = 3\n"), store)


def test_data_of_a_toml_file_is_read_relative_to_it(tmp_path: Path, store: Store) -> None:
    own_npz(tmp_path)
    path = toml(tmp_path)
    path.write_text(path.read_text().replace('"digits"', '"sensors"') + '\n[data.sensors]\npath = "sensors.npz"\n')
    loaded = load_study(str(path), store)
    (content,) = {arm.run.data.content for arm in loaded.study.arms}
    assert store.pack(content).exists()
    save_study(loaded, store, "gradreg run mine")
    (tmp_path / "sensors.npz").unlink()  # the store has it
    assert load_study("mine", store).study == loaded.study


# --- what is put in ---------------------------------------------------------------------------------------------------


def test_values_are_put_into_the_study_and_into_all_runs_that_have_them(tmp_path: Path, store: Store) -> None:
    words = ["seeds=3", "schedule.steps=50", "optimizer.name=sgd", "penalties.0.weight=2", "correction=bonferroni"]
    study = load_study(str(toml(tmp_path)), store, overrides=[*words, 'title="A = B"', "name=other"]).study
    assert (study.seeds, study.correction, study.title, study.name) == (3, "bonferroni", "A = B", "other")
    assert {arm.run.schedule.steps for arm in study.arms} == {50}
    assert {arm.run.optimizer.name for arm in study.arms} == {"sgd"}
    assert study.arms[0].run.penalties == ()
    assert study.arms[1].run.penalties[0].weight == 2.0
    assert study.arms[1].search == Grid((("weight", (0.01, 0.1)),))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["schedule.step=3"], "'schedule.step' is not known; did you mean 'schedule.steps'?"),
        (["steps=3"], "did you mean 'schedule.steps'?"),
        (["seed=3"], "'seed' is not known; did you mean 'seeds'?"),
        (["seeds"], "'seeds' has no value; write seeds=VALUE"),
        (["sedes=3", "schedule.step=1"], "'sedes' is not known; did you mean 'seeds'?; 'schedule.step' is"),
        (["seeds=many"], "seeds: got 'many'; expected a whole number"),
        (["seeds=0"], "seeds=0; expected a whole number >= 1"),
        (["schedule.steps=1.5"], "arms[0].run.schedule.steps: got 1.5; expected a whole number"),
        (["optimizer.name=adan"], "arms[1].run.optimizer.name: 'adan' is not known; did you mean 'adam'?"),
        (["pairs=1"], "pairs: got 1; expected true or false"),
    ],
)
def test_wrong_values_are_all_named(words: list[str], expected: str, tmp_path: Path, store: Store) -> None:
    said = mistake(str(toml(tmp_path)), store, overrides=words)
    assert said.startswith("--set")
    assert expected in said


def test_only_keeps_what_is_named_and_the_baseline(store: Store) -> None:
    kept = load_study("digits", store, only=["*REG"]).study
    assert [arm.name for arm in kept.arms] == ["Baseline", "SpectReg", "FrobReg", "JacReg"]
    groups = load_study("figure1", store, only=["training points 500/*", "training points 2000/spect*"]).study.groups()
    assert {group: [arm.name for arm in arms] for group, arms in groups.items()} == {
        "training points 500": ["Baseline", "DoubleBack", "SpectReg", "JacReg", "ConfidencePenalty"],
        "training points 2000": ["Baseline", "SpectReg"],
    }
    assert len(load_study("figure1", store, only=["SpectReg"]).study.groups()) == 9
    assert "--only: 'SpectRag' is not known; did you mean 'SpectReg'?" in mistake("digits", store, only=["SpectRag"])
