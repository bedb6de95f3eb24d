"""The page of what came out says what the kept numbers give."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "claims", raising=False)
    return __import__("claims")


def test_page_has_the_table_that_the_numbers_of_each_seed_give(
    claims: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["claims.py", str(ROOT / "docs" / "results" / "mnist.csv")])
    claims.main()
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "reproduction.md").read_text()


def test_every_claim_is_of_arms_that_have_been_measured(claims: ModuleType) -> None:
    measured = claims.read(ROOT / "docs" / "results" / "mnist.csv")
    for listed in claims.claims().values():
        for claim in listed:
            assert len(measured[claim.higher]) == len(measured[claim.lower]) == 10, claim


def test_difference_and_its_test_are_those_of_students_t(claims: ModuleType) -> None:
    """Differences 1, 2 and 6: mean 3, standard error sqrt(7 / 3); p = 1 - t / sqrt(t^2 + 2) at 2 degrees of freedom."""
    mean, half, p, count = claims.paired({"0": 2.0, "1": 4.0, "2": 9.0, "3": 5.0}, {"0": 1.0, "1": 2.0, "2": 3.0})
    assert (mean, count) == (pytest.approx(3), 3)
    assert half == pytest.approx(4.302653 * (7 / 3) ** 0.5, rel=1e-6)
    t = 3 / (7 / 3) ** 0.5
    assert p == pytest.approx(1 - t / (t**2 + 2) ** 0.5, rel=1e-6)


def test_holm_multiplies_the_smallest_by_their_number(claims: ModuleType) -> None:
    assert claims.holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])


def test_claims_of_no_difference_stay_out_of_the_correction(claims: ModuleType) -> None:
    place = ("table1", "", "")
    listed = [claims.Claim("", place, place, differ) for differ in (True, False, True)]
    assert claims.corrected(listed, [0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.03, 0.04])


@pytest.mark.parametrize(
    ("differ", "mean", "p", "said"),
    [
        (True, 1.0, 0.01, "yes"),
        (True, -1.0, 0.01, "the opposite"),
        (True, 1.0, 0.2, "no difference found"),
        (False, 1.0, 0.2, "not contradicted"),
        (False, 1.0, 0.01, "no: they differ"),
    ],
)
def test_verdicts(claims: ModuleType, differ: bool, mean: float, p: float, said: str) -> None:
    place = ("table1", "", "")
    assert claims.verdict(claims.Claim("", place, place, differ), mean, p) == said
