"""The figures: well-formed, in the page's colours, with every seed; and the PNG."""

import re
import xml.etree.ElementTree as ET
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from summaries_for_tests import WEIGHTS, arm, errors, found, grouped, study, summary

from gradreg.study import figures
from gradreg.study.axes import log_ticks
from gradreg.study.figures import Picture, numbered
from gradreg.study.function_figures import close_ups, functions, save_functions, shown
from gradreg.study.grid import Range, Reported, Tpe
from gradreg.study.plot import save_plot
from gradreg.study.search_figures import searches
from gradreg.study.summary import Summary, Tried, summarize
from gradreg.study.svg import MARKERS, SERIES, VARIABLES, color, marker

BASELINE = [90.0, 91.0, 92.0, 91.0]
SPECTREG = [93.0, 92.0, 94.0, 95.0]
SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("Baseline", "DoubleBack", "SpectReg", "FrobReg", "JacReg", "ConfidencePenalty")
TWO = summary({"Baseline": BASELINE, "SpectReg": SPECTREG}, curves=True)
CASES = {
    "two": TWO,
    "six": summary(dict.fromkeys(NAMES, BASELINE), curves=True),
    "one-seed": summary({"Baseline": [90.0], "SpectReg": [95.0]}, curves=True),
    "alone": summary({"Baseline": BASELINE}, curves=True),
    "equal": summary({"Baseline": [90.0, 90.0], "SpectReg": [90.0, 90.0]}, curves=True),
    "holes": summary({"Baseline": BASELINE, "SpectReg": [91.0, None, None, None], "FrobReg": [None] * 4}, curves=True),
    "nothing": summary({"Baseline": [None, None], "SpectReg": [None, None]}),
    "paper": summary({"Baseline": BASELINE, "SpectReg": SPECTREG}, reported={"SpectReg": Reported(94.0, 0.5)}),
    "names": summary({"Baseline": BASELINE, '<b>&"$x_1$ ' + 40 * "long": SPECTREG}, curves=True),
    "groups": grouped(
        {
            "train_size 500": {"Baseline": BASELINE, "SpectReg": SPECTREG},
            "train_size 1000": {"Baseline": SPECTREG, "SpectReg": [96.0, 95.0, None, 97.0]},
        },
        reported={"train_size 500": {"SpectReg": Reported(94.0)}},
        curves=True,
    ),
}
CASES |= {
    "errors": errors({"Baseline": [6.0, 7.0, 8.0], "FrobReg": [3.0, 3.5, 4.5], "JacReg": [450.0, 451.0, None]}),
    "errors-groups": errors({"Baseline": [6.0, 7.0], "FrobReg": [6.0, 7.5]}, groups=("SIN", "SIN doubled")),
}
every_case = pytest.mark.parametrize("case", CASES)


@cache
def drawings(name: str) -> tuple[str, ...]:
    """All figures of a case."""
    case = CASES[name]
    pictures: list[Picture] = [
        *figures.scores(case),
        *searches(case),
        *figures.norms(case),
        *figures.curves(case),
        *figures.trend(case),
        *functions(case),
        *close_ups(case),
    ]
    return tuple(svg for picture in pictures for svg in (picture.svg, picture.narrow) if svg)


def dots(svg: str, variable: str) -> int:
    """How many markers are filled with a colour."""
    return len(re.findall(rf"<use [^>]*fill: var\({variable}\)", svg))


@every_case
def test_figures_are_well_formed_and_say_what_they_show(case: str) -> None:
    for svg in drawings(case):
        root = ET.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert root.get("role") == "img"
        assert root.get("width") == "100%"
        assert root.get("height") is None
        assert len((root.get("viewBox") or "").split()) == 4
        title = root.find(f"{SVG}title")
        assert title is not None
        assert title.text == root.get("aria-label")


@every_case
def test_figures_have_the_colours_of_the_page_and_no_others(case: str) -> None:
    for svg in drawings(case):
        assert re.findall(r"(?:fill|stroke|color): ?#", svg) == []
        assert not any(placeholder in svg for placeholder in VARIABLES)
        assert set(re.findall(r"var\((--[a-z0-9]+)\)", svg)) <= set(VARIABLES.values())


@every_case
def test_figures_are_written_in_the_pages_own_letters(case: str) -> None:
    for svg in drawings(case):
        assert set(re.findall(r"font-family: ([^;\"]*)", svg)) == {"inherit"}
        assert not re.search(r"font: [^;\"]", svg)


@every_case
def test_figures_bring_no_date_no_outside_and_no_style_for_the_page(case: str) -> None:
    for svg in drawings(case):
        assert "<metadata" not in svg
        assert "<style" not in svg
        assert "<?xml" not in svg
        assert "<!DOCTYPE" not in svg
        assert set(re.findall(r"https?://[^\"' ]+", svg)) == {"http://www.w3.org/2000/svg"}
        assert all(link.startswith("#") for link in re.findall(r'href="([^"]+)"', svg))


@every_case
def test_ids_are_of_one_figure_only_and_every_reference_is_there(case: str) -> None:
    ids = [name for svg in drawings(case) for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in drawings(case):
        own = set(re.findall(r' id="([^"]+)"', svg))
        assert set(re.findall(r'href="#([^"]+)"', svg)) <= own
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= own


def test_figures_are_the_same_each_time() -> None:
    assert drawings.__wrapped__("groups") == drawings("groups")


def test_accuracy_draws_every_seed_and_the_mean() -> None:
    (picture,) = figures.scores(TWO)
    for svg in (picture.svg, picture.narrow):
        assert dots(svg, "--c0") == len(BASELINE)
        assert dots(svg, "--c1") == len(SPECTREG)
        assert dots(svg, "--ink") == 2
        texts = "".join(ET.fromstring(svg).itertext())
        assert "SpectReg" in texts
        assert "93.50" in texts


def test_accuracy_marks_the_papers_number_and_what_is_missing() -> None:
    (with_paper,), (without,) = figures.scores(CASES["paper"]), figures.scores(CASES["two"])
    hollow = r"<use [^>]*fill-opacity: 0; stroke: var\(--ink\)|<use [^>]*fill: none; stroke: var\(--ink\)"
    assert len(re.findall("<use", with_paper.svg)) == len(re.findall("<use", without.svg)) + 1
    assert len(re.findall(hollow, with_paper.svg)) == 1
    assert re.findall(hollow, without.svg) == []
    (holes,) = figures.scores(CASES["holes"])
    texts = "".join(ET.fromstring(holes.svg).itertext())
    assert "X missing" in texts
    assert "91.00 n=1" in texts


def test_one_seed_is_drawn_as_a_seed_and_not_as_a_mean() -> None:
    (picture,) = figures.scores(CASES["one-seed"])
    assert (dots(picture.svg, "--c0"), dots(picture.svg, "--c1"), dots(picture.svg, "--ink")) == (1, 1, 0)


def test_a_dollar_in_a_name_is_a_dollar() -> None:
    (picture,) = figures.scores(CASES["names"])
    assert "$x_1$" in "".join(ET.fromstring(picture.narrow).itertext()).partition("%")[2]


@pytest.mark.parametrize("case", [name for name in CASES if name != "nothing"])
def test_numbers_of_an_axis_are_there_and_apart(case: str) -> None:
    for svg in drawings(case):
        texts = list(ET.fromstring(svg).iter(f"{SVG}text"))
        places: dict[str, list[float]] = {}
        for text in texts:
            if re.fullmatch(r"[\d.−e]+", text.text or "") and "text-anchor: middle" in (text.get("style") or ""):
                places.setdefault(text.get("y") or "", []).append(float(text.get("x") or "nan"))
        assert places
        for found_places in places.values():
            assert all(b - a > 15 for a, b in pairwise(sorted(found_places)))


def test_norms_draw_every_seed_and_the_mean_of_each_arm() -> None:
    (picture,) = figures.norms(TWO)
    assert dots(picture.svg, "--c0") == len(BASELINE) + 1
    assert dots(picture.svg, "--c1") == len(SPECTREG) + 1


def test_curves_draw_a_thin_line_for_each_seed_and_a_thick_mean() -> None:
    loss, validation = figures.curves(TWO)
    for picture in (loss, validation):
        lines = re.findall(r"<path [^>]*style=\"fill: none; stroke: var\(--c1\)[^\"]*\"", picture.svg)
        thin = [line for line in lines if "stroke-width: 0.7" in line]
        assert (len(thin), len(lines)) == (len(SPECTREG), len(SPECTREG) + 1)


def test_curves_of_different_steps_have_no_mean() -> None:
    one = found(arm("Baseline"), BASELINE, curves=True)
    first, *others = one.curves
    shorter = first.__class__(first.seed, first.steps[:-1], first.loss[:-1], first.validation[:-1])
    items = [one.__class__(**{**one.__dict__, "curves": (shorter, *others)})]
    loss, _ = figures.curves(summarize(study([one.arm], 4), items, command="x"))
    assert "stroke-width: 2.2" not in loss.svg


def test_searches_draw_every_tuning_run_and_the_chosen_value() -> None:
    (picture,) = searches(TWO)
    assert picture.title == "SpectReg"
    # Two runs of each weight, and the ring of the chosen one.
    assert dots(picture.svg, "--c1") == 2 * len(WEIGHTS) + 1
    assert "chosen: 0.1" in "".join(ET.fromstring(picture.svg).itertext())


def test_searches_draw_what_was_given_up_hollow_and_one_panel_for_each_path() -> None:
    search = Tpe((("weight", Range(0.01, 1)), ("optimizer.learning_rate", Range(1e-4, 1e-2))))
    values = [(("weight", 0.02 * 2**i), ("optimizer.learning_rate", 0.001 + 0.0005 * i)) for i in range(5)]
    tried = [Tried(v, (80.0 + i,) if i else (), int(i == 0), 200 if i > 2 else 66) for i, v in enumerate(values)]
    one = arm("SpectReg")
    one = one.__class__(**{**one.__dict__, "search": search})
    items = [found(arm("Baseline"), BASELINE), found(one, SPECTREG, values=values[4], tried=tried)]
    weight, rate = searches(summarize(study([item.arm for item in items], 4), items, command="x"))
    assert (weight.title, rate.title) == ("SpectReg, weight", "SpectReg, learning rate")
    for picture in (weight, rate):
        assert dots(picture.svg, "--c1") == 2 + 1  # two to the end, and the ring
        assert len(re.findall("<use", picture.svg)) >= 4 + 2 + 1  # and the cross of the one that failed


@pytest.mark.parametrize("values", [(0.0, 0.01, 1.0), ("adam", "sgd"), (1.0, 1.5, 2.0), (0.1,), (-1.0, 0.0, 1.0)])
def test_searches_over_any_values(values: tuple[float | str, ...]) -> None:
    tried = [Tried((("weight", v),), (90.0, 91.0), 0, 200) for v in values]
    items = [
        found(arm("Baseline"), BASELINE),
        found(arm("SpectReg"), SPECTREG, values=(("weight", 0.1),), tried=tried),
    ]
    (picture,) = searches(summarize(study([item.arm for item in items], 4), items, command="x"))
    assert ET.fromstring(picture.svg).tag == f"{SVG}svg"


def test_trend_draws_every_seed_every_mean_and_the_papers_number() -> None:
    (picture,) = figures.trend(CASES["groups"])
    assert dots(picture.svg, "--c0") == 2 * 4 + 2
    assert dots(picture.svg, "--c1") == 4 + 3 + 2
    assert "train size" in "".join(ET.fromstring(picture.svg).itertext())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train_size 500", "train_size 1000"), ("train size", [500.0, 1000.0])),
        (("weight 1e-3", "weight 0.1"), ("weight", [0.001, 0.1])),
        (("train_size 500", "steps 1000"), None),
        (("small", "large"), None),
        (("train_size 500",), None),
        (("train_size 5", "train_size 5.0"), None),
        (("train_size nan", "train_size 5"), None),
    ],
)
def test_numbers_of_groups(names: tuple[str, ...], expected: tuple[str, list[float]] | None) -> None:
    groups = [grouped({name: {"Baseline": BASELINE}}).groups[0] for name in names]
    assert numbered(groups) == expected


def test_the_first_forty_nine_arms_have_a_look_of_their_own() -> None:
    assert len({(color(i), marker(i)) for i in range(50)}) == 50
    assert len(SERIES) == len(MARKERS) == len(set(MARKERS)) == 8


@pytest.mark.parametrize(("low", "high"), [(0.01, 1), (1e-6, 1e6), (2.3, 2.7), (0.5, 60), (1, 10)])
def test_logarithmic_ticks_are_few_and_within(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)


@pytest.mark.parametrize("name", CASES)
def test_plot_is_a_png_that_grows_with_the_methods(name: str, tmp_path: Path) -> None:
    case, file = CASES[name], tmp_path / "plot.png"
    save_plot(case, file)
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    height, width, _ = imread(file).shape
    assert width == 8 * 150
    assert height == pytest.approx((0.62 * len(case.groups[0].rows) + 1.7) * 150, abs=1)


def test_plot_shows_the_point_of_each_seed(tmp_path: Path) -> None:
    def pixels(case: Summary) -> np.ndarray:
        save_plot(case, tmp_path / "plot.png")
        return imread(tmp_path / "plot.png")

    moved = summary({"Baseline": BASELINE, "SpectReg": [93.0, 94.0, 92.0, 95.0]})  # the same mean and interval
    assert np.array_equal(pixels(TWO), pixels(TWO))
    assert not np.array_equal(pixels(TWO), pixels(moved))


# --- errors, and learned functions ------------------------------------------------------------------------------------


def test_errors_that_differ_widely_are_on_a_logarithmic_axis_with_every_seed() -> None:
    (picture,) = figures.scores(CASES["errors"])
    assert dots(picture.svg, "--c1") == 3
    assert dots(picture.svg, "--c2") == 2
    assert {"10", "100"} <= set(re.findall(r">(\d+)</text>", picture.svg))
    assert "test MSE, 1e-3" in picture.svg


def test_functions_are_drawn_for_each_arm_with_every_seed() -> None:
    case = CASES["errors"]
    pictures = functions(case)
    assert [picture.title for picture in pictures] == ["Baseline", "FrobReg(0.1)", "JacReg(0.1)"]
    for index, picture in enumerate(pictures):
        seeds = len(case.rows[index].functions)
        # The thick one, the thin ones, nothing else in the arm's colour.
        assert picture.svg.count(f"stroke: var(--c{index})") == seeds
        assert picture.svg.count("stroke-dasharray") == 1  # the target
    assert functions(TWO) == close_ups(TWO) == []


def test_close_up_shows_the_baseline_and_the_arm_with_the_least_error() -> None:
    case = CASES["errors"]
    assert [row.arm.name for row in shown(case.groups[0])] == ["Baseline", "FrobReg"]
    (picture,) = close_ups(case)
    assert picture.svg.count("stroke: var(--c0)") == picture.svg.count("stroke: var(--c1)") == 1
    assert "stroke: var(--c2)" not in picture.svg
    assert [p.title for p in close_ups(CASES["errors-groups"])] == ["SIN", "SIN doubled"]
    # In that one the baseline itself is best.
    assert [row.arm.name for row in shown(CASES["errors-groups"].groups[0])] == ["Baseline"]


@pytest.mark.parametrize("name", ["errors", "errors-groups"])
def test_functions_as_a_png(name: str, tmp_path: Path) -> None:
    save_functions(CASES[name], tmp_path / "functions.png")
    _, width, _ = imread(tmp_path / "functions.png").shape
    assert width == round(2.6 * len(CASES[name].rows) * 150)
