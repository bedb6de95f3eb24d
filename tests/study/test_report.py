"""The sentence in each of its forms, and the table, Markdown and JSON around it.

Differences to the baseline by seed are 1, 2, 3, 2 points where a method is better: mean 2, standard error 0.408,
t = 4.90 with 3 degrees of freedom, so p = 0.0163 and an interval of 3.182 standard errors.
"""

import json
import re
from typing import Any

import pytest
from comparisons_for_tests import comparison
from rich.console import Console

from gradreg.study.compare import Comparison
from gradreg.study.report import HEADER, cells, markdown, notes, plain, table, verdict

BASELINE = [90.0, 91.0, 92.0, 91.0]


def plus(*differences: float) -> list[float]:
    return [a + b for a, b in zip(BASELINE, differences, strict=True)]


BETTER = comparison({"baseline": BASELINE, "spectreg": plus(1, 2, 3, 2)})
ALL = comparison(
    {
        "baseline": BASELINE,
        "doubleback": plus(0.5, 1, 0.25, 0),
        "spectreg": plus(1, 2, 3, 2),
        "frobreg": plus(-3, 1, 2, 2),
        "jacreg": plus(-1, -2, -1.5, -1),
        "confidencepenalty": plus(0, 0, 0, 0),
    }
)
ONE_SEED = comparison({"baseline": [90.0], "spectreg": [95.0], "confidencepenalty": [91.0]})
ALONE = comparison({"baseline": BASELINE})


def test_verdict_names_what_is_better_with_interval_p_and_cost() -> None:
    assert verdict(BETTER) == (
        "With 100 labels of digits, use SpectReg(0.1): +2.00 points (95 % interval +0.70 to +3.30) over the "
        "baseline's 91.00 %, Holm-corrected p 0.016, at 2.0x the time per step."
    )


def test_verdict_keeps_the_baseline_where_nothing_is_better_beyond_chance() -> None:
    found = comparison({"baseline": BASELINE, "doubleback": plus(-1, -2, -3, -2), "spectreg": plus(4, -1, 2, -1)})
    assert verdict(found) == (
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
    found = comparison(
        {"baseline": BASELINE, "doubleback": plus(2, 2, 3, 2), "spectreg": cheap},
        costs={"baseline": 1.0, "doubleback": 3.0, "spectreg": cost},
    )
    sentence = verdict(found)
    assert sentence.startswith("With 100 labels of digits, use DoubleBack(0.1): +2.25 points")
    assert sentence.endswith(f", at 3.0x the time per step{named}.")


def test_cells_state_every_number_with_its_spread() -> None:
    baseline, spectreg = BETTER.rows
    assert cells(baseline) == ("Baseline", "-", "91.00 (0.82)", "-", "-", "2.50", "1.00x")
    assert cells(spectreg) == ("SpectReg", "0.1", "93.00 (1.63)", "+2.00 [+0.70, +3.30]", "0.016", "2.50", "2.00x")


def test_cells_of_one_seed_have_no_spread() -> None:
    assert cells(ONE_SEED.rows[1]) == ("SpectReg", "0.1", "95.00", "+5.00", "-", "2.50", "2.00x")


def test_cells_of_the_smallest_p() -> None:
    found = comparison({"baseline": BASELINE, "spectreg": plus(2, 2.01, 2, 2.01)})
    assert cells(found.rows[1])[4] == "< 0.001"


def printed(found: Comparison) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(found), crop=False)
    return capture.get().splitlines()


def test_table_fits_80_columns_and_shows_every_cell() -> None:
    lines = printed(ALL)
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line.strip()}
    for row in ALL.rows:
        assert rows[row.method.label] == " ".join(cells(row))
    assert " ".join(HEADER) == rows["method"]
    assert "digits: 100 labels, small-cnn, 200 steps, 4 seeds" in lines[0]


def test_table_of_differences_beyond_ten_points_still_fits() -> None:
    found = comparison({"baseline": BASELINE, "confidencepenalty": plus(-10, -12, -10.2, -11.8)})
    assert cells(found.rows[1])[3:5] == ("-11.00 [-12.66, -9.34]", "< 0.001")
    assert max(map(len, printed(found))) <= 80


def test_table_of_wide_numbers_is_wider_rather_than_cut() -> None:
    wild = [8.0, 95.0, 91.0, 20.0]
    found = comparison({"baseline": BASELINE, "confidencepenalty": wild}, weight=0.0125)
    (line,) = [line for line in printed(found) if "ConfidencePenalty" in line]
    assert line.split() == " ".join(cells(found.rows[1])).split()


@pytest.mark.parametrize("found", [BETTER, ALL, ONE_SEED, ALONE])
def test_markdown_holds_the_sentence_and_a_table_of_equal_columns(found: Comparison) -> None:
    lines = markdown(found).splitlines()
    assert lines[0].startswith("# digits: 100 labels")
    assert verdict(found) in lines
    rows = [line for line in lines if line.startswith("|")]
    # A pipe within a cell is escaped; the others divide the columns.
    columns = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert [len(row) for row in columns] == [len(HEADER)] * (2 + len(found.rows))
    assert [cell.replace("\\|", "|") for cell in columns[0]] == list(HEADER)
    assert all(re.fullmatch("-+:?", cell) for cell in columns[1])
    assert columns[2:] == [list(cells(row)) for row in found.rows]
    assert [line for line in lines if line.startswith("- ")] == [f"- {note}" for note in notes(found)]


@pytest.mark.parametrize("found", [BETTER, ALL, ONE_SEED, ALONE])
def test_json_has_no_nan_and_every_point(found: Comparison) -> None:
    data: dict[str, Any] = json.loads(json.dumps(plain(found), allow_nan=False))
    assert data["verdict"] == verdict(found)
    assert [tuple(row["points"]) for row in data["rows"]] == [row.points for row in found.rows]
    assert [row["method"]["name"] for row in data["rows"]] == [row.method.name for row in found.rows]
    assert data["setting"]["train_size"] == 100


def test_json_of_one_seed_has_null_for_what_is_unknown() -> None:
    difference = plain(ONE_SEED)["rows"][1]["difference"]
    assert difference == {"mean": 5.0, "sd": None, "low": None, "high": None, "p": None}


def test_notes_warn_of_weights_at_the_edge_of_their_grid() -> None:
    def warned(weight: float) -> list[str]:
        found = comparison({"baseline": BASELINE, "spectreg": plus(1, 2, 3, 2)}, weight=weight)
        return [note for note in notes(found) if "edge" in note]

    assert warned(0.03) == warned(0.1) == []
    assert warned(0.01) == warned(0.3)
    assert warned(0.3)[0].endswith("SpectReg")
