"""The studies on SIN: the paper's setting in both readings, runs that are shared, and each one done in small."""

from dataclasses import replace
from pathlib import Path

import pytest
from sweeps_for_tests import Here

from gradreg.studies import _sin, figure2, figure3, sinstrong, stepfunction, table7
from gradreg.study.collect import collect
from gradreg.study.config import Run, StudyError
from gradreg.study.files import load_study
from gradreg.study.grid import Grid, Study, final_runs, put
from gradreg.study.report import slopes
from gradreg.study.store import Store
from gradreg.study.sweep import Sweep

STUDIES = {
    "table7": table7,
    "figure2": figure2,
    "figure3": figure3,
    "stepfunction": stepfunction,
    "sinstrong": sinstrong,
}


def runs(study: Study) -> set[Run]:
    """The final runs, for every weight that a search may select."""
    found: set[Run] = set()
    for arm in study.arms:
        points = arm.search.points() if isinstance(arm.search, Grid) else [()]
        found |= {run for values in points for run in final_runs(arm, values, study.seeds)}
    return found


def test_table_7_has_the_papers_setting_weights_and_numbers() -> None:
    study = table7.study()
    assert (study.name, study.seeds, len(study.arms)) == ("table7", 10, 10)
    run = study.arms[0].run
    assert (run.schedule.steps, run.schedule.batch_size, run.schedule.milestones) == (10000, 50, (0.5, 0.75))
    assert (run.optimizer.name, run.optimizer.learning_rate, run.optimizer.weight_decay) == ("adam", 0.01, 0)
    assert (run.data.name, run.split.train_size, run.model.name) == ("sin", 100, "mlp-5x64")
    weights = [0.0 if not arm.run.penalties else arm.run.penalties[0].weight for arm in study.arms]
    assert weights == [0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]
    assert study.arms[4].reported is not None
    assert study.arms[4].reported.mean == pytest.approx(1.6e-5 / 1e-3)


def test_readings_differ_in_the_scale_of_the_loss_and_in_the_projection() -> None:
    """The scripts: half the squared error summed over 50, and the mean squared slope. The paper: MSE, and SpectReg."""
    scripts, paper = (table7.study(protocol=protocol).arms[3].run for protocol in ("scripts", "paper"))
    assert (scripts.loss_factor, paper.loss_factor) == (25, 1)
    assert str(scripts.penalties[0]) == "FrobReg(0.01)"
    assert str(paper.penalties[0]) == "SpectReg(0.01, per=batch)"
    assert replace(scripts, penalties=paper.penalties, loss_factor=1.0) == paper


@pytest.mark.parametrize("protocol", ["scripts", "paper"])
def test_figures_take_the_runs_of_the_table(protocol: str) -> None:
    table = runs(table7.study("quick", protocol))
    assert runs(figure2.study("quick", protocol)) < table
    assert runs(figure3.study("quick", protocol)) == table
    check = runs(stepfunction.study("quick", protocol))
    assert {run for run in check if run.data.name == "sin"} < table


@pytest.mark.parametrize("name", STUDIES)
def test_names_say_scale_and_protocol(name: str) -> None:
    study = STUDIES[name].study
    names = [study(scale, protocol).name for scale in _sin.SCALES for protocol in ("scripts", "paper")]
    assert names[0] == name
    assert names[1:4] == [f"{name}-paper", f"{name}-quick", f"{name}-quick-paper"]
    assert len(set(names)) == 6


@pytest.mark.parametrize("name", STUDIES)
def test_wrong_scale_or_protocol_is_told(name: str) -> None:
    with pytest.raises(StudyError, match="--scale got 'huge'; expected one of paper, quick, smoke"):
        STUDIES[name].study("huge")
    with pytest.raises(StudyError, match="--protocol got 'script'; expected paper or scripts"):
        STUDIES[name].study("smoke", "script")


def test_strong_weights_go_on_where_the_table_ends() -> None:
    table, strong = (
        {run.penalties[0].weight: run for run in runs(m.study()) if run.penalties} for m in (table7, sinstrong)
    )
    assert max(strong) == 1000 * max(table)
    assert [weight for weight in strong if weight <= max(table)] == [w for w in strong if w in table]
    assert len({replace(run, penalties=(), seed=0) for run in strong.values()}) == 1
    shared = {run for run in runs(sinstrong.study()) if run in runs(table7.study())}
    assert len(shared) == 10 * 5  # weights 0 to 10


def test_step_function_check_asks_both_sets() -> None:
    groups = stepfunction.study().groups()
    assert {name: {arm.run.data.name for arm in arms} for name, arms in groups.items()} == {
        "SIN": {"sin"},
        "SIN doubled": {"sin-doubled"},
    }


@pytest.mark.parametrize("protocol", ["scripts", "paper"])
@pytest.mark.parametrize("name", STUDIES)
def test_each_study_is_done_in_small(name: str, protocol: str, tmp_path: Path) -> None:
    """From the first tuning run to the summary, in five steps a run."""
    store = Store(tmp_path)
    study = (
        load_study(name, store, scale="smoke").study if protocol == "scripts" else STUDIES[name].study("smoke", "paper")
    )
    arms = tuple(replace(arm, run=put(arm.run, {"schedule.steps": 5})) for arm in study.arms)
    study = replace(study, arms=arms, seeds=2)
    Sweep(study, store, seconds={}).go(Here())
    found = collect(study, store, command="")
    for row in found.rows:
        assert None not in row.points
        assert len(row.functions) == 2
        assert {len(f.x) for f in row.functions} == {200 if row.arm.run.data.name == "sin-doubled" else 100}
    assert [len(slopes(group)) for group in found.groups] == [len(group.rows) for group in found.groups]
