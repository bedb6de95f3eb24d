"""CSV that reads back as the numbers it was made from, and LaTeX that is escaped and marks the highest mean."""

import csv
import io
import re

import pytest
from summaries_for_tests import errors, grouped, measured, summary

from gradreg.study.grid import Reported
from gradreg.study.metric import ACCURACY
from gradreg.study.profile import MEASURES
from gradreg.study.report import header
from gradreg.study.tables import arm_columns, csv_runs, csv_text, escape, latex, run_columns

BASELINE = [90.0, 91.0, 92.0, 91.0]
HOLES = summary(
    {"Baseline": BASELINE, "SpectReg": [91.0, 93.0, 95.0, None], "A_b & 50 %": [None] * 4},
    reported={"SpectReg": Reported(94.0, 0.5)},
)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_line_for_each_arm_and_empty_cells_for_what_is_unknown() -> None:
    lines = read(csv_text(HOLES))
    assert tuple(lines[0]) == arm_columns(ACCURACY)
    assert [line["arm"] for line in lines] == ["Baseline", "SpectReg", "A_b & 50 %"]
    baseline, spectreg, missing = lines
    assert (baseline["difference_mean"], baseline["p"], baseline["paper_mean"]) == ("", "", "")
    assert float(spectreg["accuracy_mean"]) == 93.0
    assert float(spectreg["accuracy_sd"]) == 2.0
    assert float(spectreg["difference_mean"]) == 2.0
    assert (spectreg["seeds"], spectreg["values"], spectreg["paper_mean"]) == ("3", "weight=0.1", "94.0")
    assert (missing["seeds"], missing["accuracy_mean"]) == ("0", "")
    assert "nan" not in csv_text(HOLES)


def test_measures_are_columns_of_their_own() -> None:
    case = measured({"Baseline": [90.0, 91.0, 92.0], "SpectReg": [91.0, 93.0, None]}, lost="SpectReg")
    baseline, spectreg = read(csv_text(case))
    assert tuple(baseline) == arm_columns(ACCURACY, MEASURES)
    assert float(baseline["calibration_error_mean"]) == pytest.approx(0.11)
    assert float(baseline["calibration_error_sd"]) == pytest.approx(0.01)
    assert (float(spectreg["input_margin_mean"]), spectreg["input_margin_sd"]) == (pytest.approx(0.11), "")
    lines = read(csv_runs(case))
    assert tuple(lines[0]) == run_columns(ACCURACY, MEASURES)
    assert [line["input_margin"] for line in lines[:3]] == ["0.1", "0.11", str(0.1 + 0.02)]
    assert [line["input_margin"] for line in lines[3:]] == ["", "0.11", ""]
    assert [line["pgd_accuracy"] for line in lines[3:]] == ["0.1", "0.11", ""]


def test_csv_of_runs_has_a_line_for_each_seed_with_its_key() -> None:
    lines = read(csv_runs(HOLES))
    assert tuple(lines[0]) == run_columns(ACCURACY)
    runs = [run for row in HOLES.rows for run in row.runs]
    assert [line["key"] for line in lines] == [run.key for run in runs]
    points = [point for row in HOLES.rows for point in row.points]
    assert {line["half_squared_norm"] for line, point in zip(lines, points, strict=True) if point} == {"7.5"}
    assert [line["test_accuracy"] for line in lines] == ["" if point is None else str(point) for point in points]


@pytest.mark.parametrize(
    ("text", "safe"),
    [("a_b & 50 %", r"a\_b \& 50 \%"), ("\\x{y}", r"\textbackslash{}x\{y\}"), ("#1 ~ $", r"\#1 \textasciitilde{} \$")],
)
def test_latex_is_escaped(text: str, safe: str) -> None:
    assert escape(text) == safe


def test_latex_marks_the_highest_mean_of_each_group_and_says_so() -> None:
    better = {"Baseline": BASELINE, "SpectReg": [91.0, 93.0, 95.0, 93.0]}
    worse = {"Baseline": BASELINE, "SpectReg": [80.0, 81.0, 82.0, 83.0]}
    text = latex(grouped({"train_size 500": better, "train_size 1000": worse}))
    assert re.findall(r"\\textbf\{([^}]*)\}", text) == ["93.00", "91.00"]
    assert text.startswith("% Needs \\usepackage{booktabs}. In bold: the highest mean of each group")
    (caption,) = [line for line in text.splitlines() if "caption" in line]
    assert "mean (sample standard deviation) over 4 seeds" in caption
    assert "Bold: the highest mean of each group." in caption
    assert r"\emph{train\_size 500}" in text


def test_latex_lines_have_one_cell_for_each_column() -> None:
    text = latex(HOLES)
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.split(r"(?<!\\)&", line)) for line in lines] == [len(header(HOLES))] * 4
    assert text.count("{") == text.count("}")
    assert sum(line.count("$") for line in lines) % 2 == 0
    assert r"A\_b \& 50 \%" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


def test_errors_have_columns_of_their_own_and_the_lowest_mean_in_bold() -> None:
    case = errors({"Baseline": [6.0, 7.0, 8.0], "FrobReg": [3.0, 3.5, 4.5]})
    assert "mse_mean" in read(csv_text(case))[0]
    assert float(read(csv_runs(case))[0]["test_mse"]) == pytest.approx(6.0)
    assert re.findall(r"textbf\{([^}]*)\}", latex(case)) == ["3.667"]
    assert "the lowest mean" in latex(case)
