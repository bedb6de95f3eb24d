"""The sentence in each of its forms, and the table, Markdown and JSON around it.

Differences to the baseline by seed are 1, 2, 3, 2 points where a method is better: mean 2, standard error 0.408,
t = 4.90 with 3 degrees of freedom, so p = 0.0163 and an interval of 3.182 standard errors.
"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from summaries_for_tests import BASE, arm, errors, found, grouped, study, summary

from gradreg.study.config import Penalty, Technique
from gradreg.study.grid import Arm, Grid, Range, Reported, Tpe
from gradreg.study.report import PAIRS_HEADER, cells, header, markdown, notes, pairs_table, plain, slopes, table
from gradreg.study.summary import Row, Summary, Tried, summarize
from gradreg.study.verdict import call, counts, number, p_text, verdict, verdicts

BASELINE = [90.0, 91.0, 92.0, 91.0]


def plus(*differences: float) -> list[float]:
    return [a + b for a, b in zip(BASELINE, differences, strict=True)]


BETTER = summary({"Baseline": BASELINE, "SpectReg": plus(1, 2, 3, 2)})
SIX = {
    "Baseline": BASELINE,
    "DoubleBack": plus(0.5, 1, 0.25, 0),
    "SpectReg": plus(1, 2, 3, 2),
    "FrobReg": plus(-3, 1, 2, 2),
    "JacReg": plus(-1, -2, -1.5, -1),
    "ConfidencePenalty": plus(0, 0, 0, 0),
}
ALL = summary(SIX)
# Of which the paper says what weight it selected; nothing is selected yet of the last.
WEIGHED = summarize(
    study([arm("Baseline"), *(replace(arm(name), reported_weight=0.3) for name in ("SpectReg", "FrobReg"))], 4),
    [
        found(arm("Baseline"), BASELINE),
        found(replace(arm("SpectReg"), reported_weight=0.3), BASELINE),
        replace(found(replace(arm("FrobReg"), reported_weight=0.3), []), values=None),
    ],
    command="",
)
ONE_SEED = summary({"Baseline": [90.0], "SpectReg": [95.0], "ConfidencePenalty": [91.0]})
ALONE = summary({"Baseline": BASELINE})
PAPER = summary(SIX, reported={"Baseline": Reported(90.0, 0.4), "SpectReg": Reported(93.5)})
PAIRS = summary(SIX, pairs=True, correction="bonferroni")
HOLES = summary(
    {"Baseline": BASELINE, "SpectReg": [91.0, 93.0, None, None], "FrobReg": [None, None, None, None]},
    failures={"SpectReg": {3: "FloatingPointError: the loss was not finite at step 31\nTraceback"}},
    costs={"FrobReg": None},
)
GROUPS = grouped(
    {
        "train_size 500": {"Baseline": BASELINE, "SpectReg": plus(1, 2, 3, 2)},
        "train_size 1000": {"Baseline": BASELINE, "SpectReg": plus(1, -1, 3, -2)},
    }
)
CASES = {
    "better": BETTER,
    "all": ALL,
    "one-seed": ONE_SEED,
    "alone": ALONE,
    "paper": PAPER,
    "pairs": PAIRS,
    "holes": HOLES,
    "groups": GROUPS,
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def lines_of(case: Summary, number: int = 0) -> list[tuple[str, ...]]:
    group = case.groups[number]
    return [cells(case, group, row) for row in group.rows]


# --- the sentence -----------------------------------------------------------------------------------------------------


def test_verdict_names_what_is_better_with_interval_p_and_cost() -> None:
    assert verdict(BETTER) == (
        "With 100 labels of digits, use SpectReg(0.1): +2.00 points (95 % interval +0.70 to +3.30) over the "
        "baseline's 91.00 %, Holm-corrected p 0.016, at 2.0x the time per step."
    )


def test_verdict_names_the_correction_and_no_cost_that_was_not_measured() -> None:
    unmeasured = {"Baseline": None, "SpectReg": None}
    case = summary({"Baseline": BASELINE, "SpectReg": plus(1, 2, 3, 2)}, correction="bonferroni", costs=unmeasured)
    assert verdict(case).endswith("over the baseline's 91.00 %, Bonferroni-corrected p 0.016.")


def test_verdict_keeps_the_baseline_where_nothing_is_better_beyond_chance() -> None:
    case = summary({"Baseline": BASELINE, "DoubleBack": plus(-1, -2, -3, -2), "SpectReg": plus(4, -1, 2, -1)})
    assert verdict(case) == (
        "With 100 labels of digits, no method beats the baseline beyond chance over 4 seeds (the best, SpectReg(0.1), "
        "by +1.00 points (95 % interval -2.90 to +4.90)): keep the baseline, or run more seeds."
    )


def test_verdict_corrects_for_the_number_of_methods() -> None:
    """p = 0.0163 alone; times 5 methods it is no evidence."""
    assert verdict(ALL).startswith("With 100 labels of digits, no method beats the baseline beyond chance")


def test_verdict_of_one_seed_is_none() -> None:
    assert verdict(ONE_SEED) == "One seed says nothing about which is better; ask for more with --seeds."


def test_verdict_without_methods_only_states_the_baseline() -> None:
    assert verdict(ALONE) == (
        "The baseline reaches 91.00 % with 100 labels of digits; there was nothing to compare it with."
    )


@pytest.mark.parametrize(
    ("cheap", "cost", "named"),
    [
        # Between the two: 0, 0, 0.25, -0.05, so 0.05 points on average, p = 0.51.
        (plus(2, 2, 2.75, 2.05), 1.5, "; SpectReg(0.1), at 1.5x, cannot be told from it (0.05 points less)"),
        (plus(2, 2, 2.75, 2.05), 2.8, ""),  # saves less than a tenth
        (plus(1, 1, 2, 1), 1.5, ""),  # one point worse on every seed
        (plus(2, -2, 3, 2), 1.5, ""),  # not better than the baseline itself
    ],
)
def test_verdict_names_a_cheaper_method_that_cannot_be_told_from_the_best(
    cheap: list[float], cost: float, named: str
) -> None:
    case = summary(
        {"Baseline": BASELINE, "DoubleBack": plus(2, 2, 3, 2), "SpectReg": cheap},
        costs={"Baseline": 1.0, "DoubleBack": 3.0, "SpectReg": cost},
    )
    sentence = verdict(case)
    assert sentence.startswith("With 100 labels of digits, use DoubleBack(0.1): +2.25 points")
    assert sentence.endswith(f", at 3.0x the time per step{named}.")


def test_verdict_says_first_what_is_missing_and_what_failed() -> None:
    """FrobReg lacks 4 runs, SpectReg one; another of SpectReg failed. Two seeds are not enough: +1, +2, p = 0.20."""
    assert counts(HOLES) == (12, 5, 1)
    assert verdict(HOLES) == (
        "5 of 12 runs are missing and 1 failed; so far, with 100 labels of digits, no method beats the baseline beyond "
        "chance over 4 seeds (the best, SpectReg(0.1), by +1.50 points (95 % interval -4.85 to +7.85)): keep the "
        "baseline, or run more seeds."
    )


@pytest.mark.parametrize("points", [[99.0, None, None, None], [None, None, None, None]])
def test_verdict_claims_nothing_on_fewer_than_two_seeds(points: list[float | None]) -> None:
    sentence = verdict(summary({"Baseline": BASELINE, "SpectReg": points}))
    assert "no method has two seeds in common with the baseline" in sentence
    assert "use " not in sentence


def test_verdict_without_a_baseline_compares_nothing() -> None:
    sentence = verdict(summary({"Baseline": [None] * 4, "SpectReg": BASELINE}))
    assert sentence == "4 of 8 runs are missing. Nothing can be compared while the baseline has no result."


def test_a_norm_that_networks_do_not_have_is_not_missing() -> None:
    first = found(arm("Baseline"), BASELINE)
    results = tuple({"test_accuracy": result["test_accuracy"]} for result in first.results if result)
    case = summarize(study([first.arm], 4), [replace(first, results=results)], command="gradreg run a-study")
    assert lines_of(case)[0][-2:] == ("-", "1.00x")
    assert any("(-: a network that normalizes by the batch there too has none)" in note for note in notes(case))
    assert not any("normalizes by the batch" in note for note in notes(summary({"Baseline": BASELINE})))


def test_an_arm_of_which_nothing_is_selected_lacks_all_of_its_runs() -> None:
    arms = [arm("Baseline"), arm("SpectReg"), arm("FrobReg")]
    waiting = replace(found(arms[1], [], cost=None), values=None)
    failed = replace(found(arms[2], [], failures={None: "every configuration failed"}), values=None)
    case = summarize(study(arms, 4), [found(arms[0], BASELINE), waiting, failed], command="gradreg run a-study")
    assert counts(case) == (12, 4, 4)
    assert lines_of(case)[1] == ("SpectReg", "X", "X", "X", "X", "X", "X")
    assert any("failed: FrobReg, tuning: every configuration failed" in note for note in notes(case))


def test_verdict_of_groups_leads_with_how_many_and_says_one_sentence_for_each() -> None:
    assert verdicts(GROUPS) == [
        "A method beats the baseline beyond chance in 1 of 2 groups.",
        "train_size 500: use SpectReg(0.1): +2.00 points (95 % interval +0.70 to +3.30) over the baseline's 91.00 %, "
        "Holm-corrected p 0.016, at 2.0x the time per step.",
        "train_size 1000: no method beats the baseline beyond chance over 4 seeds (the best, SpectReg(0.1), by +0.25 "
        "points (95 % interval -3.28 to +3.78)): keep the baseline, or run more seeds.",
    ]
    assert verdict(GROUPS) == " ".join(verdicts(GROUPS))


def test_verdict_of_groups_that_agree_is_one_sentence() -> None:
    better = {"Baseline": BASELINE, "SpectReg": plus(1, 2, 3, 2)}
    more = {"Baseline": BASELINE, "SpectReg": plus(2, 3, 4, 3)}
    assert verdicts(grouped({"a": better, "b": more})) == [
        "SpectReg is the best in each of the 2 groups: by +2.00 to +3.00 points over the baseline, Holm-corrected p at "
        "most 0.016 in each."
    ]
    alike = {"Baseline": BASELINE, "SpectReg": BASELINE}
    assert verdicts(grouped({"a": alike, "b": alike})) == [
        "No method beats the baseline beyond chance in any of the 2 groups, over 4 seeds: keep the baseline, or run "
        "more seeds."
    ]


def test_a_report_needs_neither_torch_nor_a_plotting_library() -> None:
    heavy = "'torch', 'matplotlib', 'jinja2', 'scipy.stats'"
    code = f"import sys, gradreg.study.report, gradreg.study.tables; print([m for m in ({heavy}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


# --- numbers and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (0.0125, "0.0125"), (0.00998796, "0.00999"), (1e-6, "1e-06"), (3, "3"), ("adam", "adam")],
)
def test_numbers_are_as_written_or_of_three_digits(value: float | str, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("p", "text"), [(None, "-"), (float("nan"), "-"), (0.0004, "< 0.001"), (0.0163, "0.016"), (0.0496, "0.0496")]
)
def test_p_below_the_threshold_never_reads_as_at_it(p: float | None, text: str) -> None:
    assert p_text(p) == text


def test_names_hold_what_was_selected_beside_the_weight() -> None:
    values = (("weight", 0.0312345), ("optimizer.learning_rate", 0.002))
    search = Tpe((("weight", Range(0.01, 1)), ("optimizer.learning_rate", Range(1e-4, 1e-2))))
    one, two = arm("Baseline"), replace(arm("SpectReg"), search=search)
    items = [found(one, BASELINE), found(two, plus(1, 2, 3, 2), values=values, tried=[Tried(values, (90.0,), 0, 200)])]
    case = summarize(study([one, two], 4), items, command="gradreg run a-study")
    assert call(case.rows[1]) == "SpectReg(0.0312), learning_rate=0.002"
    assert lines_of(case)[1][1] == "0.0312, learning_rate=0.002"
    assert any("Optuna's TPE and chosen on 300 validation points with 1 other seed:" in note for note in notes(case))


@pytest.mark.parametrize("searched", [True, False])
def test_names_hold_techniques_like_penalties(searched: bool) -> None:
    run = replace(BASE, technique=Technique(mixup=0.2))
    search, values = (Grid((("technique.mixup", (0.1, 0.2)),)), (("technique.mixup", 0.2),)) if searched else (None, ())
    one, two = arm("Baseline"), Arm("Mixup", run, search)
    items = [found(one, BASELINE), found(two, plus(1, 2, 3, 2), values=values, tried=[])]
    case = summarize(study([one, two], 4), items, command="gradreg run a-study")
    assert call(case.rows[1]) == case.rows[1].label == "Mixup(0.2)"
    assert lines_of(case)[1][1] == "0.2"
    both = replace(case.rows[1], runs=(replace(run, penalties=(Penalty("SpectReg", 0.1),)),))
    assert call(both) == "Mixup (SpectReg(0.1) + Mixup(0.2))"


def test_cells_state_every_number_with_its_spread() -> None:
    baseline, spectreg = lines_of(BETTER)
    assert baseline == ("Baseline", "-", "91.00 (0.82)", "-", "-", "2.50", "1.00x")
    assert spectreg == ("SpectReg", "0.1", "93.00 (1.63)", "+2.00 [+0.70, +3.30]", "0.016", "2.50", "2.00x")


def test_cells_of_one_seed_have_no_spread() -> None:
    assert lines_of(ONE_SEED)[1] == ("SpectReg", "0.1", "95.00", "+5.00", "-", "2.50", "2.00x")


def test_cells_of_fewer_seeds_say_how_many_and_missing_ones_are_marked() -> None:
    _, spectreg, frobreg = lines_of(HOLES)
    assert spectreg == ("SpectReg", "0.1", "92.00 (1.41) n=2", "+1.50 [-4.85, +7.85]", "0.205", "2.50", "2.00x")
    assert frobreg == ("FrobReg", "0.1", "X", "X", "X", "X", "X")


def test_cells_hold_the_papers_number_and_the_difference_to_it() -> None:
    assert header(PAPER)[-2:] == ("paper", "ours - paper")
    assert [line[-2:] for line in lines_of(PAPER)][:3] == [("90.00 (0.40)", "+1.00"), ("-", "-"), ("93.50", "-0.50")]


# --- the table --------------------------------------------------------------------------------------------------------


def printed(drawn: Table) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(drawn, crop=False)
    return capture.get().splitlines()


@pytest.mark.parametrize("case", [ALL, PAIRS], ids=["holm", "bonferroni"])
def test_table_fits_80_columns_and_shows_every_cell(case: Summary) -> None:
    lines = printed(table(case))
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line.strip()}
    for line in lines_of(case):
        assert rows[line[0]] == " ".join(line)
    assert " ".join(header(case)) == rows["method"]
    assert "digits: 100 labels, small-cnn, 200 steps, 4 seeds" in lines[0]


def test_table_of_differences_beyond_ten_points_still_fits() -> None:
    case = summary({"Baseline": BASELINE, "ConfidencePenalty": plus(-10, -12, -10.2, -11.8)})
    assert lines_of(case)[1][3:5] == ("-11.00 [-12.66, -9.34]", "< 0.001")
    assert max(map(len, printed(table(case)))) <= 80


def test_table_of_wide_numbers_is_wider_rather_than_cut() -> None:
    case = summary({"Baseline": BASELINE, "ConfidencePenalty": [8.0, 95.0, 91.0, 20.0]}, weight=0.0125)
    (line,) = [line for line in printed(table(case)) if "ConfidencePenalty" in line]
    assert line.split() == " ".join(lines_of(case)[1]).split()


def test_table_of_groups_names_each_and_prints_brackets_as_they_are() -> None:
    case = grouped({"[bold] 1": {"Baseline": BASELINE, "SpectReg": BASELINE}, "[bold] 2": {"Baseline": BASELINE}})
    lines = [line.strip() for line in printed(table(case))]
    assert lines.count("[bold] 1") == lines.count("[bold] 2") == 1


def test_pairs_have_a_table_of_their_own() -> None:
    drawn = pairs_table(PAIRS)
    assert drawn is not None
    lines = printed(drawn)
    assert max(map(len, lines)) <= 80
    assert lines[0].strip() == "Every pair (Bonferroni-corrected p)"
    rows = [line.split() for line in lines if line.startswith(("Baseline", "SpectReg", "FrobReg", "DoubleBack"))]
    assert len(rows) == 14  # of 15: JacReg comes first in one
    # 15 times 0.0163.
    assert ["Baseline", "SpectReg", "-2.00", "[-3.30,", "-0.70]", "0.244"] in rows
    assert pairs_table(ALL) is None


# --- Markdown, JSON and notes -----------------------------------------------------------------------------------------


@every_case
def test_markdown_holds_the_sentence_and_tables_of_equal_columns(case: Summary) -> None:
    lines = markdown(case).splitlines()
    assert lines[0].startswith("# digits: ")
    assert verdict(case) in lines
    rows = [line for line in lines if line.startswith("|")]
    # A pipe within a cell is escaped; the others divide the columns.
    columns = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    expected = []
    for position, group in enumerate(case.groups):
        expected += [list(header(case)), [], *map(list, lines_of(case, position))]
        if group.pairs:
            expected += [list(PAIRS_HEADER), [], *[[] for _ in group.pairs]]
    assert len(columns) == len(expected)
    for found_line, line in zip(columns, expected, strict=True):
        assert not line or [cell.replace("\\|", "|") for cell in found_line] == line
    assert [line for line in lines if line.startswith("- ")] == [f"- {note}" for note in notes(case)]


@every_case
def test_json_has_no_nan_every_point_and_every_key(case: Summary) -> None:
    data: dict[str, Any] = json.loads(json.dumps(plain(case), allow_nan=False))
    assert data["verdict"] == verdict(case)
    rows = [row for group in data["groups"] for row in group["rows"]]
    assert [tuple(row["points"]) for row in rows] == [row.points for row in case.rows]
    assert [[run["key"] for run in row["runs"]] for row in rows] == [[run.key for run in row.runs] for row in case.rows]
    assert data["command"] == "gradreg run a-study"


def test_json_of_one_seed_has_null_for_what_is_unknown() -> None:
    difference = plain(ONE_SEED)["groups"][0]["rows"][1]["difference"]
    assert difference == {"mean": 5.0, "sd": None, "low": None, "high": None, "p": None}


@every_case
def test_notes_name_the_rule_the_validation_points_and_the_tuning_seeds(case: Summary) -> None:
    (note,) = [note for note in notes(case) if note.startswith("weight:")]
    if any(row.arm.search for row in case.rows):
        assert "on 300 validation points with 2 other seeds: " in note
        assert note.endswith(case.rule)


@every_case
def test_notes_say_where_steps_were_timed(case: Summary) -> None:
    told = "median time of a training step over the baseline's, on {}, interleaved"
    assert told.format("one thread") in " ".join(notes(case))
    assert told.format("a GPU, not compiled") in " ".join(notes(replace(case, timed_on="cuda")))


def test_notes_name_missing_failed_and_fewer() -> None:
    found_notes = notes(HOLES)
    assert "failed: SpectReg, seed 3: FloatingPointError: the loss was not finite at step 31" in found_notes
    (missing,) = [note for note in found_notes if note.startswith("5 of 12 final runs")]
    assert "X marks" in missing
    assert missing.endswith("gradreg run a-study goes on with them")
    (fewer,) = [note for note in found_notes if note.startswith("fewer seeds")]
    assert fewer.endswith(": SpectReg")
    assert "images were skipped" in notes(summary({"Baseline": BASELINE}, notes=["images were skipped"]))


def test_notes_warn_of_weights_at_the_edge_of_what_was_tried() -> None:
    def warned(weight: float) -> list[str]:
        case = summary({"Baseline": BASELINE, "SpectReg": plus(1, 2, 3, 2)}, weight=weight)
        return [note for note in notes(case) if "edge" in note]

    assert warned(0.03) == warned(0.1) == []
    assert warned(0.01) == warned(0.3)
    assert warned(0.3)[0].endswith("SpectReg")


@every_case
def test_summaries_made_by_hand_have_a_row_for_each_arm(case: Summary) -> None:
    rows: list[Row] = case.rows
    assert [row.arm for row in rows] == list(case.study.arms)


def test_weight_that_the_paper_selected_stands_beside_ours() -> None:
    (group,) = WEIGHED.groups
    assert [cells(WEIGHED, group, row)[1] for row in group.rows] == ["-", "0.1, paper 0.3", "X, paper 0.3"]
    said = "beside a weight: the one that the paper selected, in the same unit"
    assert said in notes(WEIGHED)
    assert said not in notes(BETTER)


# --- where less is better ---------------------------------------------------------------------------------------------

ERRORS = errors({"Baseline": [6.0, 7.0, 8.0, 7.0], "FrobReg": [3.0, 3.5, 4.5, 3.0], "JacReg": [450.0, 451, 449, 450]})


def test_the_smallest_error_is_recommended() -> None:
    assert verdict(ERRORS) == (
        "With 100 points of sin, use FrobReg(0.1): -3.500e-3 MSE (95 % interval -4.150e-3 to -2.850e-3) against the "
        f"baseline's 7.000e-3, Holm-corrected p {p_text(ERRORS.rows[1].p)}, at 2.0x the time per step."
    )


def test_errors_of_several_groups() -> None:
    values = {"Baseline": [6.0, 7.0, 8.0, 7.0], "FrobReg": [3.0, 3.5, 4.5, 3.0]}
    found = verdict(errors(values, groups=("one", "two")))
    assert "FrobReg is the best in each of the 2 groups: by -3.500e-3 to -3.500e-3 MSE over the baseline" in found
    assert verdict(errors({"Baseline": [6.0, 8.0]})).startswith("The baseline reaches MSE 7.000e-3 with 100 points of")
    worse = errors({"Baseline": [6.0, 7.0, 8.0], "FrobReg": [7.0, 8.1, 9.0]})
    assert "no method beats the baseline beyond chance" in verdict(worse)


def test_a_cheaper_method_that_is_a_little_worse_has_more_error() -> None:
    case = errors({"Baseline": [6.0, 7.0, 8.0, 7.0], "FrobReg": [3.0, 3.5, 4.5, 3.0], "SpectReg": [3.1, 3.4, 4.6, 3.1]})
    group = case.groups[0]
    rows = (*group.rows[:2], replace(group.rows[2], cost=1.2))
    assert "SpectReg(0.1), at 1.2x, cannot be told from it (0.050e-3 MSE more)" in verdict(
        replace(case, groups=(replace(group, rows=rows),))
    )


def test_table_of_errors_has_their_unit_the_papers_number_and_slopes() -> None:
    assert header(ERRORS)[2] == "MSE, 1e-3"
    shown = dict(zip(header(ERRORS), cells(ERRORS, ERRORS.groups[0], ERRORS.rows[1]), strict=True))
    assert shown["MSE, 1e-3"] == "3.500 (0.707)"
    assert shown["difference"] == "-3.500 [-4.150, -2.850]"
    assert (shown["paper"], shown["ours - paper"]) == ("1.500", "+2.000")
    assert slopes(ERRORS.groups[0])[0] == ("Baseline", "2.5 (1.3)", "5 (2.6)", "2 (0)")
    assert slopes(summary({"Baseline": [90.0]}).groups[0]) == []
    page = markdown(ERRORS)
    assert "| slope at the points | between them |" in page
    assert "accuracy" not in page
    assert "labels" not in page


def test_functions_without_slope_have_no_ratio_of_slopes() -> None:
    row = ERRORS.groups[0].rows[0]
    flat = replace(row.functions[0], slope_at_points=0.0, slope_between=0.0)
    group = replace(ERRORS.groups[0], rows=(replace(row, functions=(flat, *row.functions[1:])),))
    assert slopes(group)[0][-1] == f"2 (0) n={len(row.functions) - 1}"
    group = replace(ERRORS.groups[0], rows=(replace(row, functions=(flat,)),))
    assert slopes(group)[0] == ("Baseline", "0", "0", "-")
    step = replace(flat, slope_between=3.0)
    group = replace(ERRORS.groups[0], rows=(replace(row, functions=(step, *row.functions[1:])),))
    assert slopes(group)[0][-1] == "inf"


def test_errors_as_plain_data_say_their_metric_and_leave_functions_out() -> None:
    found = json.loads(json.dumps(plain(ERRORS)))
    assert (found["metric"]["name"], found["metric"]["unit"]) == ("MSE", "1e-3")
    row = found["groups"][0]["rows"][0]
    assert row["points"] == pytest.approx([6.0, 7.0, 8.0, 7.0])
    assert row["functions"][1] == {"seed": 1, "slope_at_points": 2.0, "slope_between": 4.0}
