"""Trainings of 300 steps under each setting end where those in float32 do."""

import statistics

import pytest
from trainings_for_tests import SETTINGS, ends, train

DIFFERENCE = "FiniteDifference(0.5, central=True)"
PLAIN = {"convolutions, channels last": "convolutions", "the same, `torch.compile(model)`": DIFFERENCE}


@pytest.fixture(scope="module")
def noise() -> float:
    """Two standard deviations over seeds of a training in float32, in percentage points."""
    found = ends(SETTINGS["float32"], 3)
    assert statistics.mean(found) > 85
    return 2 * statistics.stdev(found)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("float32", *PLAIN.values())])
def test_ends_within_noise_of_float32(name: str, noise: float) -> None:
    """The same seed: initialization, batches, and random rows where as many are drawn."""
    plain = train(SETTINGS[PLAIN.get(name, "float32")], 0)
    assert abs(train(SETTINGS[name], 0) - plain) <= noise
    assert noise < 3
