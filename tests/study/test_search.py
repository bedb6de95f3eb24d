"""Searches on accuracies that are made up: what they ask for, what they choose, and that no interruption shows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs_for_tests import BASELINE, SIN, SPECTREG, Pretender, arm, spoil, study

from gradreg.study import config
from gradreg.study import search as module
from gradreg.study.config import Optimizer, Penalty, Run, StudyError
from gradreg.study.grid import TUNING_SEED, Grid, Range, Tpe, get, put
from gradreg.study.search import journal, progress, rungs, search
from gradreg.study.store import Store
from gradreg.study.work import Answer

GRID = arm(Grid((("weight", (0.01, 0.03, 0.1)), ("optimizer.learning_rate", (0.001, 0.003)))))
LONG = replace(SPECTREG, schedule=replace(SPECTREG.schedule, steps=90))
RANGES = (("weight", Range(0.001, 1.0)), ("optimizer.learning_rate", Range(0.0005, 0.05)))
SEARCH = Tpe(RANGES, trials=10, batch=4, halving=3)
SEARCHED = arm(SEARCH, LONG)
TWO = study(SEARCHED, tuning_seeds=2)


def hill(run: Run) -> float:
    """Highest at a weight of 0.05 and a rate of 0.004; more steps are better, seeds differ."""
    miss = abs(run.penalties[0].weight - 0.05) + 10 * abs(run.optimizer.learning_rate - 0.004)
    return 90 - 20 * miss + run.steps / 30 + (run.seed % 2) / 8


def kept(path: Path) -> list[dict[str, Any]]:
    """The trials of a journal, without times and identifiers."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return [
        {"params": t.params, "state": t.state, "values": t.values, "rungs": t.intermediate_values}
        for t in optuna.load_study(study_name="search", storage=storage).trials
    ]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> Pretender:
    """A search from end to end; read only."""
    trainer = Pretender(Store(tmp_path_factory.mktemp("whole")), hill)
    assert trainer.drive(search(SEARCHED, TWO, trainer.store))
    return trainer


# --- where less is better ---------------------------------------------------------------------------------------------


def test_another_rule_of_weights_that_move_gives_their_runs_and_searches_other_names_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = put(LONG, {"technique.auto_weight": 0.35})
    rate = Tpe((("optimizer.learning_rate", Range(0.0005, 0.05)),))
    ratio = Tpe((("technique.auto_weight", Range(0.1, 0.9)),))

    def named() -> list[str]:
        runs = [replace(run).key for run in (LONG, moving)]  # without the keys that they have
        searched = [arm(rate, LONG), arm(rate, moving), arm(ratio, LONG)]
        return [*runs, *(journal(one, TWO, Store(tmp_path)).name for one in searched)]

    before = named()
    for place in (config, module):
        monkeypatch.setattr(place, "AUTO_MEANING", 99)
    assert [one == other for one, other in zip(before, named(), strict=True)] == [True, False, True, False, False]


@pytest.mark.parametrize("asked", [Grid((("weight", (0.01, 0.05, 0.3)),)), Tpe((("weight", Range(0.001, 1.0)),), 12)])
def test_search_finds_the_smallest_error(asked: Grid | Tpe, tmp_path: Path) -> None:
    """A valley at 0.05; whatever is far from it fails, as the smallest error of all would if failures counted as 0."""
    run = replace(SIN, penalties=(Penalty("FrobReg", 0.1),), schedule=replace(SIN.schedule, steps=90))

    def valley(run: Run) -> float | None:
        weight = run.penalties[0].weight
        return None if weight > 0.5 else 0.01 + abs(weight - 0.05)

    searched = arm(asked, run)
    trainer = Pretender(Store(tmp_path), valley)
    assert trainer.drive(search(searched, study(searched), trainer.store))
    found = progress(searched, study(searched), trainer.store)
    scores = {dict(t.values)["weight"]: t.scores for t in found.tried if t.scores and t.steps == 90}
    best = min(scores, key=lambda weight: scores[weight])
    assert dict(found.values or ())["weight"] == best
    assert scores[best][0] == pytest.approx(10 + 1000 * abs(float(best) - 0.05))  # in 1e-3
    assert abs(float(best) - 0.05) < 0.05


# --- grids ------------------------------------------------------------------------------------------------------------


def test_grid_asks_once_for_every_combination_on_every_tuning_seed(tmp_path: Path) -> None:
    trainer = Pretender(Store(tmp_path), hill)
    asked = study(GRID, tuning_seeds=2)
    assert trainer.drive(search(GRID, asked, trainer.store))
    (tasks,) = trainer.batches
    found = [(t.run.penalties[0].weight, t.run.optimizer.learning_rate, t.run.seed) for t in tasks]
    assert found == [(w, r, TUNING_SEED + s) for w in (0.01, 0.03, 0.1) for r in (0.001, 0.003) for s in (0, 1)]
    assert all((t.start, t.keep_checkpoint, t.run.steps) == ("", False, 60) for t in tasks)
    ended = progress(GRID, asked, trainer.store)
    assert (ended.ended, ended.left) == (True, 0)
    assert ended.values == (("weight", 0.03), ("optimizer.learning_rate", 0.003))
    assert [len(t.scores) for t in ended.tried] == [2] * 6


def test_grid_says_how_much_is_left_and_chooses_nothing_before_the_end(tmp_path: Path) -> None:
    trainer = Pretender(Store(tmp_path), hill)
    asked = study(GRID)
    (tasks,) = list(search(GRID, asked, trainer.store))
    for number, task in enumerate(tasks):
        found = progress(GRID, asked, trainer.store)
        assert (found.values, found.ended, found.left) == (None, False, 6 - number)
        trainer.answer(task)
    assert progress(GRID, asked, trainer.store).ended


def test_failed_run_is_never_chosen_though_its_other_seed_is_the_best(tmp_path: Path) -> None:
    def score(run: Run) -> float | None:
        if run.penalties[0].weight == 0.03:
            return 99.0 if run.seed == TUNING_SEED else None
        return hill(run)

    trainer = Pretender(Store(tmp_path), score)
    asked = study(GRID, tuning_seeds=2)
    assert trainer.drive(search(GRID, asked, trainer.store))
    found = progress(GRID, asked, trainer.store)
    assert found.ended
    assert found.values == (("weight", 0.01), ("optimizer.learning_rate", 0.003))
    assert [(t.failed, t.scores) for t in found.tried if ("weight", 0.03) in t.values] == [(1, (99.0,))] * 2
    assert found.failures == ("the loss became nan by step 20",) * 2


def test_nothing_is_chosen_where_all_failed(tmp_path: Path) -> None:
    trainer = Pretender(Store(tmp_path), lambda run: None)
    for one in (GRID, SEARCHED):
        asked = study(one)
        assert trainer.drive(search(one, asked, trainer.store))
        found = progress(one, asked, trainer.store)
        assert (found.ended, found.values) == (True, None)
        assert len(found.failures) == len(found.tried) > 0
    # Failures at the first rung are as good as each other, and none of them goes on.
    assert {run.steps for run in trainer.trained if run.schedule.steps == 90} == {10}


def test_arm_without_a_search_wants_nothing(tmp_path: Path) -> None:
    given = arm(None)
    assert list(search(given, study(given), Store(tmp_path))) == []
    found = progress(given, study(given), Store(tmp_path))
    assert (found.values, found.ended, found.left, found.tried) == ((), True, 0, ())


# --- Optuna -----------------------------------------------------------------------------------------------------------


def test_no_run_of_a_search_sees_a_test_point_or_a_seed_of_the_final_runs(whole: Pretender) -> None:
    runs = [task.run for batch in whole.batches for task in batch]
    assert {run.protocol.measure for run in runs} == {"validation"}
    assert {run.seed for run in runs} == {TUNING_SEED, TUNING_SEED + 1}


def test_batches_hold_new_trials_then_the_promoted_ones_which_go_on_from_their_checkpoints(whole: Pretender) -> None:
    # 10 trials in batches of 4: 4, 4 and 2; each is trained for 10 steps, the best for 30, the best of those for 90.
    sizes = [(batch[0].run.steps, len(batch) // 2) for batch in whole.batches]
    assert [size for size in sizes if size[0] == 10] == [(10, 4), (10, 4), (10, 2)]
    assert sizes[:3] == [(10, 4), (30, 2), (90, 1)]
    keys: set[str] = set()
    for batch in whole.batches:
        for task in batch:
            assert task.keep_checkpoint == (task.run.steps < 90)
            assert (task.start == "") if task.run.steps == 10 else (task.start in keys)
        keys |= {task.run.key for task in batch}
    by_key = {task.run.key: task.run for batch in whole.batches for task in batch}
    for task in (task for batch in whole.batches for task in batch if task.start):
        start = by_key[task.start]
        assert start.steps < task.run.steps
        assert replace(start, schedule=task.run.schedule) == task.run


def test_halving_promotes_the_best_third_of_the_first_batch(whole: Pretender) -> None:
    def means(batch: list[Any]) -> dict[float, float]:
        found: dict[float, list[float]] = {}
        for task in batch:
            found.setdefault(task.run.penalties[0].weight, []).append(hill(task.run))
        return {weight: sum(values) / 2 for weight, values in found.items()}

    first, second, third = map(means, whole.batches[:3])
    assert sorted(second, key=lambda w: second[w]) == sorted(first, key=lambda w: first[w])[-2:]
    assert list(third) == [max(second, key=lambda w: second[w])]


def test_what_is_selected_was_trained_for_all_steps_and_is_the_best_of_those(whole: Pretender) -> None:
    found = progress(SEARCHED, TWO, whole.store)
    assert (found.ended, found.left, len(found.tried)) == (True, 0, 10)
    full = [t for t in found.tried if t.steps == 90]
    assert 1 <= len(full) < 10
    assert {t.steps for t in found.tried} == {10, 30, 90}
    assert found.values == max(full, key=lambda t: sum(t.scores)).values
    assert all(len(t.scores) == 2 for t in found.tried)


@pytest.mark.parametrize("answered", range(9))
def test_search_broken_off_after_any_batch_ends_as_if_it_had_not_been(
    whole: Pretender, tmp_path: Path, answered: int
) -> None:
    trainer = Pretender(Store(tmp_path), hill)
    stopped = not trainer.drive(search(SEARCHED, TWO, trainer.store), answered)
    assert stopped == (answered <= len(whole.batches))
    assert progress(SEARCHED, TWO, trainer.store).ended != stopped or answered == len(whole.batches)
    assert trainer.drive(search(SEARCHED, TWO, trainer.store))
    assert kept(journal(SEARCHED, TWO, trainer.store)) == kept(journal(SEARCHED, TWO, whole.store))
    assert progress(SEARCHED, TWO, trainer.store) == progress(SEARCHED, TWO, whole.store)
    # Nothing was trained twice.
    assert set(trainer.trained) == set(whole.trained)
    assert len(trainer.trained) == len(whole.trained)


def test_search_goes_on_from_any_line_of_its_journal_also_from_a_torn_one(whole: Pretender, tmp_path: Path) -> None:
    """As after a crash between two trials asked for, between two told, or within a line."""
    content = journal(SEARCHED, TWO, whole.store).read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    expected, chosen = kept(journal(SEARCHED, TWO, whole.store)), progress(SEARCHED, TWO, whole.store)
    store = Store(tmp_path)
    path = journal(SEARCHED, TWO, store)
    path.parent.mkdir()
    trainer = Pretender(store, hill)
    cuts = [0, *ends[:-1:2], *(end - 7 for end in ends[::3]), ends[0] // 2]
    assert len(cuts) > 20
    for cut in cuts:
        path.write_bytes(content[:cut])
        assert not progress(SEARCHED, TWO, store).ended
        assert trainer.drive(search(SEARCHED, TWO, store)), cut
        assert kept(path) == expected, cut
        assert progress(SEARCHED, TWO, store) == chosen, cut
    assert len(trainer.trained) == len(set(trainer.trained)) == len(whole.trained)


def test_result_that_is_lost_after_the_search_is_made_again_and_changes_no_choice(
    whole: Pretender, tmp_path: Path
) -> None:
    trainer = Pretender(Store(tmp_path), hill)
    assert trainer.drive(search(SEARCHED, TWO, trainer.store))
    ended = progress(SEARCHED, TWO, trainer.store)
    assert ended.values is not None
    lost = next(run for run in trainer.trained if run.steps == 90)
    spoil(trainer.store.files(lost).folder / "result.json", "truncated")
    found = progress(SEARCHED, TWO, trainer.store)
    assert (found.ended, found.left, found.values) == (False, 1, None)
    trainer.batches.clear()
    assert trainer.drive(search(SEARCHED, TWO, trainer.store))
    (again,) = [task for batch in trainer.batches for task in batch]
    assert again.run == lost
    assert again.start != ""
    assert progress(SEARCHED, TWO, trainer.store) == ended
    assert kept(journal(SEARCHED, TWO, trainer.store)) == kept(journal(SEARCHED, TWO, whole.store))


def test_progress_changes_nothing_at_any_point(tmp_path: Path) -> None:
    trainer = Pretender(Store(tmp_path), hill)
    for answered in (0, 1, 2, 4, None):
        before = snapshot(tmp_path)
        progress(SEARCHED, TWO, trainer.store)
        progress(GRID, TWO, trainer.store)
        assert snapshot(tmp_path) == before
        trainer.drive(search(SEARCHED, TWO, trainer.store), answered)


def test_failed_trials_are_neither_promoted_nor_chosen(tmp_path: Path) -> None:
    def score(run: Run) -> float | None:
        return None if run.penalties[0].weight > 0.05 and run.seed > TUNING_SEED else 50 + run.penalties[0].weight

    trainer = Pretender(Store(tmp_path), score)
    assert trainer.drive(search(SEARCHED, TWO, trainer.store))
    found = progress(SEARCHED, TWO, trainer.store)
    assert found.ended
    assert found.values is not None
    weight = dict(found.values)["weight"]
    assert isinstance(weight, float)
    assert weight <= 0.05
    failed = [t for t in found.tried if t.failed]
    assert failed
    assert {t.steps for t in failed} == {10}


def test_failure_at_the_last_rung_is_never_chosen(tmp_path: Path) -> None:
    def score(run: Run) -> float | None:
        return None if run.steps == 90 and run.penalties[0].weight > 0.05 else 50 + run.penalties[0].weight

    trainer = Pretender(Store(tmp_path), score)
    asked = study(SEARCHED)
    assert trainer.drive(search(SEARCHED, asked, trainer.store))
    found = progress(SEARCHED, asked, trainer.store)
    failed = [t for t in found.tried if t.failed]
    assert failed
    assert {t.steps for t in failed} == {90}
    assert found.values not in [t.values for t in failed]


@pytest.mark.parametrize(
    ("tpe", "batches"),
    [
        (replace(SEARCH, trials=1), [(10, 1), (30, 1), (90, 1)]),
        (replace(SEARCH, trials=1, halving=0), [(90, 1)]),
        (replace(SEARCH, trials=5, batch=2, halving=0), [(90, 2), (90, 2), (90, 1)]),
        (replace(SEARCH, trials=3, batch=8, halving=0), [(90, 3)]),
    ],
)
def test_odd_numbers_of_trials(tmp_path: Path, tpe: Tpe, batches: list[tuple[int, int]]) -> None:
    trainer = Pretender(Store(tmp_path), hill)
    one = arm(tpe, LONG)
    assert trainer.drive(search(one, study(one), trainer.store))
    assert [(batch[0].run.steps, len(batch)) for batch in trainer.batches] == batches
    found = progress(one, study(one), trainer.store)
    assert found.ended
    assert len(found.tried) == tpe.trials
    assert found.values is not None


def test_equal_scores_are_all_promoted_and_the_smaller_values_are_chosen(tmp_path: Path) -> None:
    trainer = Pretender(Store(tmp_path), lambda run: 75.0)
    one = arm(replace(SEARCH, trials=4), LONG)
    assert trainer.drive(search(one, study(one), trainer.store))
    assert [len(batch) for batch in trainer.batches] == [4, 4, 4]
    found = progress(one, study(one), trainer.store)
    assert found.values == min(t.values for t in found.tried)


def test_whole_numbers_stay_whole_and_trials_of_equal_values_share_their_runs(tmp_path: Path) -> None:
    """The search has more trials than there are values."""
    trainer = Pretender(Store(tmp_path), lambda run: 90 + run.schedule.batch_size / 10)
    one = arm(Tpe((("schedule.batch_size", Range(9.5, 12.5)),), trials=9, batch=3, halving=3), LONG)
    assert trainer.drive(search(one, study(one), trainer.store))
    assert {type(run.schedule.batch_size) for run in trainer.trained} == {int}
    assert {run.schedule.batch_size for run in trainer.trained} == {10, 11, 12}
    assert all(len({task.run for task in batch}) == len(batch) for batch in trainer.batches)
    assert len(trainer.trained) == len(set(trainer.trained))
    found = progress(one, study(one), trainer.store)
    assert (found.ended, found.left) == (True, 0)
    assert found.values == (("schedule.batch_size", 12),)
    assert sorted(t.values[0][1] for t in found.tried) == [10, 11, 12]


def test_weight_given_as_a_whole_number_is_searched_as_a_decimal(tmp_path: Path) -> None:
    run = replace(BASELINE, penalties=(Penalty("DoubleBack", 30),))
    one = arm(Tpe((("weight", Range(0.01, 0.9)),), trials=3, halving=0), run)
    trainer = Pretender(Store(tmp_path), lambda run: 90.0)
    assert trainer.drive(search(one, study(one), trainer.store))
    assert all(0.01 <= run.penalties[0].weight <= 0.9 for run in trainer.trained)


def test_values_have_six_digits_and_lie_in_their_ranges(whole: Pretender) -> None:
    assert len({run.penalties[0].weight for run in whole.trained}) == 10
    for run in whole.trained:
        for path, where in RANGES:
            value = get(run, path)
            assert where.low <= value <= where.high
            assert float(f"{value:.6g}") == value


def test_paths_that_do_not_fit_are_named(tmp_path: Path) -> None:
    one = arm(Tpe((("optimizer.name", Range(1, 2)),)))
    with pytest.raises(StudyError, match=r"'optimizer.name' got a range, but is no number"):
        next(search(one, study(one), Store(tmp_path)))
    other = arm(Tpe((("wait", Range(1, 2)),)))
    with pytest.raises(StudyError, match="'wait' is not known; did you mean 'weight'"):
        next(search(other, study(other), Store(tmp_path)))


@pytest.mark.parametrize("state", ["elsewhere", "storage", "stopped"])
def test_search_takes_no_answer_for_a_run_that_has_not_ended(tmp_path: Path, state: Any) -> None:
    searching = search(SEARCHED, TWO, Store(tmp_path))
    tasks = next(searching)
    with pytest.raises(ValueError, match=state):
        searching.send({task.run: Answer(state) for task in tasks})
    assert all(not trial["rungs"] for trial in kept(journal(SEARCHED, TWO, Store(tmp_path))))


def test_journals_are_named_by_what_is_searched(tmp_path: Path) -> None:
    store = Store(tmp_path)
    others = [
        arm(SEARCH, replace(LONG, optimizer=Optimizer(0.003))),
        arm(SEARCH, replace(LONG, schedule=replace(LONG.schedule, steps=91))),
        arm(replace(SEARCH, trials=11), LONG),
        arm(replace(SEARCH, ranges=(("weight", Range(0.001, 1.0)),)), LONG),
    ]
    paths = {journal(one, study(one), store) for one in [*others, SEARCHED]} | {journal(SEARCHED, TWO, store)}
    assert len(paths) == 6
    # What is searched has no value of its own.
    same = replace(LONG, penalties=(Penalty("SpectReg", 0.7),), optimizer=replace(LONG.optimizer, learning_rate=0.1))
    assert journal(arm(SEARCH, same), TWO, store) == journal(SEARCHED, TWO, store)


def test_scores_of_an_older_meaning_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = journal(SEARCHED, TWO, Store(tmp_path))
    monkeypatch.setattr(module, "MEANING", module.MEANING + 1)
    assert journal(SEARCHED, TWO, Store(tmp_path)) != before


def test_journal_is_a_line_for_each_trial_when_asked(tmp_path: Path) -> None:
    """A crash cannot leave a trial with some of its values."""
    one = arm(replace(SEARCH, trials=3), LONG)
    next(search(one, study(one), Store(tmp_path)))
    lines = [json.loads(line) for line in journal(one, study(one), Store(tmp_path)).read_text().splitlines()]
    assert [set(line.get("params", {})) for line in lines[1:]] == [{"weight", "optimizer.learning_rate"}] * 3


@pytest.mark.parametrize(
    ("steps", "halving", "expected"),
    [(90, 3, [10, 30, 90]), (90, 0, [90]), (100, 2, [25, 50, 100]), (8, 3, [2, 8]), (2, 3, [2]), (1, 2, [1])],
)
def test_rungs_rise_to_all_steps(steps: int, halving: int, expected: list[int]) -> None:
    assert rungs(steps, halving) == expected
