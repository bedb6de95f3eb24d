"""The table of measures: each with its unit and which is better; none where a study has none."""

from rich.console import Console
from summaries_for_tests import errors, measured, summary

from gradreg.study.field import field, field_header, measures
from gradreg.study.profile import MEASURES
from gradreg.study.report import field_table, markdown, notes, plain

BASELINE = [90.0, 91.0, 92.0, 91.0]
SPECTREG = [91.0, 93.0, 95.0, 93.0]
CASE = measured({"Baseline": BASELINE, "SpectReg": SPECTREG, "FrobReg": [None] * 4}, lost="SpectReg")
PLAIN = summary({"Baseline": BASELINE, "SpectReg": SPECTREG})


def test_columns_are_named_with_unit_and_direction() -> None:
    assert field_header(CASE) == (
        ("method", ""),
        ("accuracy, %", "higher"),
        ("Holm p", ""),
        ("ECE, %", "lower"),
        ("NLL, nats", "lower"),
        ("||J||_2", "lower"),
        ("margin, input", "higher"),
        ("noise 0.3, %", "higher"),
        ("FGSM 0.1, %", "higher"),
        ("PGD 0.1, %", "higher"),
        ("cost", "lower"),
    )


def test_rows_are_means_with_deviations_over_the_seeds() -> None:
    baseline, spectreg, missing = field(CASE, CASE.groups[0])
    three = ("0.12 (0.01)", "0.12 (0.01) n=3")
    assert baseline[:4] == ("Baseline", "91.00 (0.82)", "-", "11.5 (1.3)")
    assert baseline[4:7] == ("0.115 (0.013)", "0.12 (0.01)", three[0])
    assert baseline[-2:] == ("0.1 (0.0)", "1.00x")
    assert (spectreg[2], spectreg[6], spectreg[-1]) == ("0.016", three[1], "2.00x")
    assert missing == ("FrobReg", *["X"] * 9, "2.00x")
    assert field(CASE, CASE.groups[0], spread=False)[0][:4] == ("Baseline", "91.00", "-", "11.5")


def test_table_leaves_deviations_out_where_it_would_be_too_wide() -> None:
    def drawn(width: int | None) -> str:
        table = field_table(CASE, width)
        assert table is not None
        console = Console(width=1000)
        with console.capture() as text:
            console.print(table)
        return text.get()

    assert "11.5 (1.3)" in drawn(None)
    assert "11.5 (1.3)" not in drawn(80)
    assert "standard deviations: report.md" in drawn(80)
    assert max(len(line.rstrip()) for line in drawn(80).splitlines()) <= 80


def test_report_holds_them_in_every_form() -> None:
    assert "| ECE, % (lower) |" in markdown(CASE)
    assert "![Gradients of the label's score with respect to test images](saliency.png)" in markdown(
        CASE, "saliency.png"
    )
    (note,) = measures(CASE)
    assert note in notes(CASE)
    assert "on the first 250 test points" in note
    kept = plain(CASE)["groups"][0]["rows"][1]["measures"]
    assert set(kept) == {measure.key for measure in MEASURES}
    assert kept["input_margin"] == [None, *(0.1 + 0.01 * seed for seed in (1, 2, 3))]


def test_results_without_measures_have_no_table() -> None:
    for case in (PLAIN, errors({"Baseline": [6.0, 7.0], "FrobReg": [3.0, 3.5]})):
        assert field_header(case) == ()
        assert field_table(case) is None
        assert measures(case) == []
        assert "ECE" not in markdown(case)
        assert plain(case)["groups"][0]["rows"][0]["measures"] == {}
