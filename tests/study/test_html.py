"""The page: well-formed, of one piece, the verdict first, everything in it escaped and every command there."""

import base64
import re
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache

import pytest
from summaries_for_tests import arm, errors, found, grouped, measured, study, summary

from gradreg.study.field import field, field_header
from gradreg.study.grid import Reported
from gradreg.study.html import html
from gradreg.study.report import cells, notes
from gradreg.study.summary import Summary, summarize
from gradreg.study.verdict import verdict

BASELINE = [90.0, 91.0, 92.0, 91.0]
SPECTREG = [91.0, 93.0, 95.0, 93.0]
NASTY = '<b>&"'
CASES = {
    "better": summary({"Baseline": BASELINE, "SpectReg": SPECTREG}, curves=True, pairs=True),
    "one-seed": summary({"Baseline": [90.0], "SpectReg": [95.0]}),
    "alone": summary({"Baseline": BASELINE}),
    "holes": summary(
        {"Baseline": BASELINE, "SpectReg": [91.0, None, None, 93.0], "FrobReg": [None] * 4},
        failures={"SpectReg": {2: f"FloatingPointError: {NASTY}\nTraceback: in full"}},
    ),
    "names": summary({"Baseline": BASELINE, NASTY: SPECTREG}, notes=[f"class {NASTY} has 3 images"], curves=True),
    "groups": grouped(
        {
            "train_size 500": {"Baseline": BASELINE, "SpectReg": SPECTREG},
            "train_size 1000": {"Baseline": BASELINE, "SpectReg": BASELINE},
        },
        reported={"train_size 500": {"SpectReg": Reported(94.0)}},
        curves=True,
    ),
}
CASES |= {
    "measures": measured({"Baseline": BASELINE, "SpectReg": SPECTREG, "FrobReg": [None, 91.0, None, None]}),
    "errors": errors(
        {"Baseline": [6.0, 7.0, 8.0, 7.0], "FrobReg": [3.0, 3.5, 4.5, 3.0], "JacReg": [450.0, 451, 449, 450]}
    ),
    "errors-groups": errors({"Baseline": [6.0, 7.0], "FrobReg": [6.0, 7.5]}, groups=("SIN", "SIN doubled")),
}
every_case = pytest.mark.parametrize("name", CASES)


@cache
def page(name: str) -> str:
    return html(CASES[name], created="2026-11-25 09:00")


def tree(name: str) -> ET.Element:
    """The page as XML, which is stricter than a browser."""
    return ET.fromstring(page(name).partition("<!DOCTYPE html>")[2])


def text(name: str) -> str:
    return " ".join(" ".join(tree(name).itertext()).replace("\u00a0", " ").split())


def typeset(words: str) -> str:
    """A sentence with the signs that the page has for what is typed as - and ||."""
    words = re.sub(r"(?<![\w-])-(?=\d)", "−", words).replace("||", "‖")
    return " ".join(re.sub(r"‖_(\w)([:;,]?)", r"‖ \1 \2 ", words).split())


def codes(name: str) -> list[str]:
    return ["".join(code.itertext()) for code in tree(name).iter("code")]


def row_of(summary_: Summary, name: str) -> tuple[str, ...]:
    group = summary_.groups[0]
    return next(cells(summary_, group, row) for row in group.rows if row.arm.name == name)


@every_case
def test_page_is_well_formed_with_its_language_title_and_viewport(name: str) -> None:
    root = tree(name)
    assert root.tag == "html"
    assert root.get("lang") == "en"
    start = f"{CASES[name].study.title}: "
    assert root.findtext("head/title") == start + "".join(root.itertext()).partition(start)[2].splitlines()[0]
    metas = {meta.get("name"): meta.get("content") for meta in root.iter("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert metas["color-scheme"] == "light dark"
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    links = [a.get("href", "") for a in root.iter("a")]
    assert {link.removeprefix("#") for link in links} <= set(ids)


@every_case
def test_page_asks_for_nothing_outside(name: str) -> None:
    content = page(name)
    assert set(re.findall(r"https?://[^\"'% )]+", content)) == {"http://www.w3.org/2000/svg"}
    root = tree(name)
    assert [e for e in root.iter() if e.tag.rpartition("}")[2] in {"script", "img", "iframe", "image", "object"}] == []
    assert [e for e in root.iter() if "src" in e.attrib] == []
    targets = [e.get("href", "") for e in root.iter() if "href" in e.attrib]
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert [link.get("rel") for link in root.iter("link")] == ["icon"]
    assert "@import" not in content
    assert not re.search(r"url\((?!#)", content)
    policy = [m.get("content", "") for m in root.iter("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")


@every_case
def test_the_verdict_comes_before_every_figure_and_table(name: str) -> None:
    root = tree(name)
    (heading,) = root.iter("h1")
    header = next(element for element in root.iter() if element.tag == "header")
    words = "".join(header.itertext()).replace("\u00a0", " ")
    assert " ".join(typeset(verdict(CASES[name])).split()) in " ".join(words.split())
    order = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert order.index(heading.tag) < min(order.index("svg"), order.index("table"))


@every_case
def test_every_cell_note_and_command_is_there(name: str) -> None:
    case, words, commands = CASES[name], text(name), codes(name)
    for group in case.groups:
        for row in group.rows:
            for cell in cells(case, group, row):
                shown = "–" if cell == "-" else re.sub(r"(?<![\w])-(?=\d)", "−", cell)
                assert all(part in words for part in shown.split(" "))
            for run, point in zip(row.runs, row.points, strict=True):
                assert f"gradreg train {run.key}{'' if point is None else ' --again'}" in commands
    assert {case.command, "gradreg train", "--again", "gradreg show"} <= set(commands)
    flat = words.lower()
    for note in notes(case):
        if not note.startswith("failed:"):
            assert typeset(note).lower() in flat
    assert "gradreg 0.1.0, 2026-11-25 09:00" in words
    assert case.environments[0]["commit"] in words


def test_measures_have_a_table_of_their_own() -> None:
    (table,) = [e for e in tree("measures").iter("table") if "measures" in (e.get("class") or "")]
    lines = [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in table.iter("tr")]
    names = [f"{name} ({better})" if better else name for name, better in field_header(CASES["measures"])]
    assert lines[0] == [name.replace("||J||_2", "‖J‖2") for name in names]
    (group,) = CASES["measures"].groups
    assert lines[1:] == [["–" if cell == "-" else cell for cell in row] for row in field(CASES["measures"], group)]
    assert not [e for e in tree("better").iter("table") if "measures" in (e.get("class") or "")]


def test_picture_of_gradients_is_within_the_page() -> None:
    content = html(CASES["measures"], created="now", saliency=b"a picture")
    root = ET.fromstring(content.partition("<!DOCTYPE html>")[2])
    (image,) = root.iter("img")
    assert image.get("src") == f"data:image/png;base64,{base64.b64encode(b'a picture').decode()}"
    policy = next(m.get("content", "") for m in root.iter("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "img-src data:" in policy


def test_what_is_beyond_chance_is_marked_by_more_than_a_colour() -> None:
    rows = [e for e in tree("better").iter("tr") if e.get("class") == "better"]
    assert len(rows) == 1
    (mark,) = [e for e in rows[0].iter("span") if e.get("role") == "img"]
    assert (mark.text, mark.get("aria-label")) == ("▲", "better than the baseline beyond chance")
    assert [e for e in tree("alone").iter("tr") if e.get("class") in {"better", "worse"}] == []


def test_missing_and_failed_runs_are_shown_with_the_command_that_runs_them() -> None:
    root = tree("holes")
    (section,) = [e for e in root.iter("section") if e.get("id") == "missing"]
    words = " ".join("".join(section.itertext()).split())
    commands = ["".join(code.itertext()) for code in section.iter("code")]
    assert commands[0] == "gradreg run a-study"
    lacking = [run for row in CASES["holes"].rows for run, point in zip(row.runs, row.points, strict=True)
               if point is None and not (row.arm.name == "SpectReg" and run.seed == 2)]  # fmt: skip
    failed = CASES["holes"].rows[1].runs[2]
    expected = [*(f"gradreg train {run.key}" for run in lacking), f"gradreg train {failed.key}"]
    assert [c for c in commands if c.startswith("gradreg train")] == expected
    assert f"gradreg show {failed.key}" in commands
    assert f"SpectReg, seed 2: FloatingPointError: {NASTY}" in words
    assert "Traceback: in full" in words
    missing = [e for e in root.iter("td") if e.get("class") == "missing"]
    assert len(missing) >= row_of(CASES["holes"], "FrobReg").count("X")
    assert [e for e in tree("better").iter("section") if e.get("id") == "missing"] == []


def test_an_arm_of_which_nothing_is_selected_is_named_with_the_studys_command() -> None:
    one, two = arm("Baseline"), arm("SpectReg")
    items = [found(one, BASELINE), replace(found(two, [], cost=None), values=None)]
    content = html(summarize(study([one, two], 4), items, command="gradreg run a-study"), created="now")
    assert "tuning, then all 4 seeds" in content
    assert "nothing selected" in content


def test_names_are_escaped() -> None:
    assert NASTY not in page("names")
    assert "<b>" not in page("names")
    words = text("names")
    assert f"class {NASTY} has 3 images" in words.replace("Class", "class")
    assert [e for e in tree("names").iter("th") if e.text == NASTY]


@every_case
def test_page_has_a_dark_a_narrow_and_a_printed_form_with_every_colour(name: str) -> None:
    style = "".join(tree(name).find("head/style").itertext())  # pyright: ignore[reportOptionalMemberAccess]
    assert "@media (prefers-color-scheme: dark)" in style
    assert "@media (max-width: 640px)" in style
    assert "@media print" in style
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", page(name)))
    light, dark, printed = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    for block in (light, dark, printed):
        assert used <= set(re.findall(r"(--[a-z0-9-]+):", block))


def test_the_key_of_one_seed_names_no_mean() -> None:
    def key(name: str) -> str:
        (found_key,) = [e for e in tree(name).iter("ul") if e.get("class") == "key items"]
        return " ".join("".join(found_key.itertext()).split())

    assert key("better") == "one seed mean with its 95 % interval the baseline’s mean"
    assert key("one-seed") == "one seed the baseline"


def contrast(one: str, two: str) -> float:
    """WCAG's ratio of two colours."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1, 2])
def test_text_and_marks_stand_out_from_what_is_behind_them(theme: int) -> None:
    style = "".join(tree("alone").find("head/style").itertext())  # pyright: ignore[reportOptionalMemberAccess]
    block = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)[theme]
    colors = dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6})", block))
    for behind in ("--paper", "--page", "--good-wash", "--warn-wash"):
        for front in ("--ink", "--muted", "--good", "--accent"):
            assert contrast(colors[front], colors[behind]) >= 4.5, (front, behind)
    for series in range(8):
        assert contrast(colors[f"--c{series}"], colors["--paper"]) >= 3, series


def test_a_page_of_45_arms_and_900_runs_takes_seconds() -> None:
    """Four on an idle machine with two cores; processor time, with room for one that is busy."""
    points = [90.0 + 0.1 * i for i in range(20)]
    names = ("Baseline", "DoubleBack", "SpectReg", "FrobReg", "JacReg")
    case = grouped({f"train_size {100 * (i + 1)}": dict.fromkeys(names, points) for i in range(9)}, curves=True)
    start = time.process_time()
    content = html(case, created="now")
    assert time.process_time() - start < 9
    assert len(set(re.findall(r"gradreg train ([0-9a-f]{16})", content))) == 900
