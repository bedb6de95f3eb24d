"""Each cell of the table in docs/compatibility.md, and the page itself."""

import warnings
from importlib.util import find_spec

import pytest
import torch
from cases_for_tests import CASES, COLUMNS, DIFFERENCE, EXACT, PAGE, Built, Case, Equal, written

from gradreg import UnsupportedOperationError

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
    compare(case, built, column, outcome)


def compare(case: Case, built: Built, column: int, outcome: Equal) -> None:
    value, gradient = case.found(built, column)
    expected, truth = case.expected(built, column)
    relative = outcome.within or (DIFFERENCE if COLUMNS[column] == "FiniteDifference" else EXACT)
    torch.testing.assert_close(value, expected, rtol=relative, atol=0)
    assert truth.norm() > 0
    assert (gradient - truth).norm() <= relative * truth.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.filterwarnings(
    "ignore:Attempting to run cuBLAS, but there was no current CUDA context"
)  # in autograd's thread
@pytest.mark.parametrize("case", CASES["Models"], ids=lambda case: case.name)
@pytest.mark.parametrize("column", range(3), ids=COLUMNS)
def test_a_model_on_a_gpu_is_right_or_refused_in_our_words(case: Case, column: int) -> None:
    """Which kernels there are is another matter than on a CPU; none may be wrong."""
    if case.needs and find_spec(case.needs) is None:
        pytest.skip(f"needs {case.needs}")
    outcome = next((outcome for outcome in case.outcomes if isinstance(outcome, Equal)), Equal())
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # recurrent layers take TF32 as well
            compare(case, case.build().on("cuda"), column, outcome)
    except (UnsupportedOperationError, TypeError) as error:
        message = str(error)
    else:
        return
    assert "gr." in message or "target=" in message  # the remedy


def test_the_page_has_the_tables_as_they_are() -> None:
    page = PAGE.read_text()
    assert page.count("| equal |") > 50
    assert written(page) == page, "run python tests/cases_for_tests.py"
