"""Each cell of the table in docs/compatibility.md, and the page itself."""

import warnings
from importlib.util import find_spec

import pytest
import torch
from cases_for_tests import CASES, COLUMNS, DIFFERENCE, EXACT, Case, Equal

CELLS = [
    pytest.param(case, column, id=f"{part}-{number}-{case.name}-{name}")
    for part, cases in CASES.items()
    for number, case in enumerate(cases)
    for column, name in enumerate(COLUMNS)
]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
@pytest.mark.parametrize(("case", "column"), CELLS)
def test_cell(case: Case, column: int) -> None:
    if case.needs and find_spec(case.needs) is None:
        pytest.skip(f"needs {case.needs}")
    with warnings.catch_warnings():
        if case.needs:
            warnings.simplefilter("ignore")  # of a library's own
        built = case.build()
    outcome = case.outcomes[column]
    if not isinstance(outcome, Equal):
        with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
            case.found(built, column)
        message = " ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
        assert outcome.cause in message
        assert outcome.remedy in message.partition(outcome.cause)[2]
        return
    value, gradient = case.found(built, column)
    expected, truth = case.expected(built, column)
    relative = outcome.within or (DIFFERENCE if COLUMNS[column] == "FiniteDifference" else EXACT)
    torch.testing.assert_close(value, expected, rtol=relative, atol=0)
    assert truth.norm() > 0
    assert (gradient - truth).norm() <= relative * truth.norm()
