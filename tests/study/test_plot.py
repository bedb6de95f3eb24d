"""The picture: a PNG of the right size that shows what it was given."""

from pathlib import Path

import numpy as np
import pytest
from comparisons_for_tests import comparison
from matplotlib.image import imread

from gradreg.study.compare import Comparison
from gradreg.study.plot import save_plot

BASELINE = [90.0, 91.0, 92.0, 91.0]
CASES = {
    "two-methods": comparison({"baseline": BASELINE, "spectreg": [93.0, 92.0, 94.0, 95.0]}),
    "six-methods": comparison(
        dict.fromkeys(("baseline", "doubleback", "spectreg", "frobreg", "jacreg", "confidencepenalty"), BASELINE)
    ),
    "one-seed": comparison({"baseline": [90.0], "spectreg": [95.0]}),
    "baseline-alone": comparison({"baseline": BASELINE}),
    "equal-points": comparison({"baseline": [90.0, 90.0], "spectreg": [90.0, 90.0]}),
}


@pytest.mark.parametrize("name", CASES)
def test_plot_is_a_png_that_grows_with_the_methods(name: str, tmp_path: Path) -> None:
    found = CASES[name]
    file = tmp_path / "plot.png"
    save_plot(found, file)
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    height, width, _ = imread(file).shape
    assert width == 8 * 150
    assert height == pytest.approx((0.62 * len(found.rows) + 1.5) * 150, abs=1)


def test_plot_shows_the_point_of_each_seed(tmp_path: Path) -> None:
    def pixels(found: Comparison) -> np.ndarray:
        save_plot(found, tmp_path / "plot.png")
        return imread(tmp_path / "plot.png")

    moved = comparison({"baseline": BASELINE, "spectreg": [93.0, 94.0, 92.0, 95.0]})  # the same mean and interval
    assert np.array_equal(pixels(CASES["two-methods"]), pixels(CASES["two-methods"]))
    assert not np.array_equal(pixels(CASES["two-methods"]), pixels(moved))
