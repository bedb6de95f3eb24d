"""Figures against the weight of a penalty: which groups have them, and what they show."""

import re
from dataclasses import replace

import pytest
from runs_for_tests import SIN
from summaries_for_tests import BASE, arm, found, study

from gradreg.study.config import Penalty, Technique
from gradreg.study.grid import Arm, Grid
from gradreg.study.html import html
from gradreg.study.summary import Found, Summary, summarize
from gradreg.study.weight_figures import by_weight, swept

WEIGHTS = (1.0, 10.0, 100.0, 1000.0)


def arms(group: str = "") -> list[Arm]:
    given = [replace(BASE, penalties=(Penalty("DoubleBack", weight),)) for weight in WEIGHTS]
    return [arm("Baseline", group=group), *(Arm(str(run.penalties[0]), run, group=group) for run in given)]


def summary(*made: Arm, missing: int = 0) -> Summary:
    points = {one.id: [] if i >= len(made) - missing else [90.0 + i, 91.0 + i] for i, one in enumerate(made)}
    items: list[Found] = [found(one, points[one.id]) for one in made]
    return summarize(study(made, 2), items, command="")


def test_group_of_one_penalty_in_several_weights_is_drawn_twice() -> None:
    of = summary(*arms("no weight decay"), *arms("weight decay 0.1"))
    pictures = by_weight(of)
    assert [picture.title for picture in pictures] == ["no weight decay"] * 2 + ["weight decay 0.1"] * 2
    titles = [re.findall(r"<title>(.*?)</title>", picture.svg)[0] for picture in pictures[:2]]
    assert titles == [
        "Test accuracy, % against the weight of DoubleBack, no weight decay",
        "Half the squared norm of the weights against the weight of DoubleBack, no weight decay",
    ]
    for picture in pictures:
        assert {"1", "10", "100", "1000", "weight of DoubleBack"} <= set(re.findall(r">([^<>]+)<", picture.svg))
    page = html(of, created="today")
    assert "by the weight of the penalty" in page
    assert all(picture.svg in page for picture in pictures)


def test_every_mean_that_is_there_has_its_place() -> None:
    whole, part = (by_weight(summary(*arms(), missing=missing))[0].svg for missing in (0, 1))
    drawn = [svg.count("<use ") for svg in (whole, part)]
    assert drawn[0] - drawn[1] == 3  # two seeds and their mean


@pytest.mark.parametrize("why", ["few", "searched", "options", "two", "same", "baseline", "moving"])
def test_other_groups_have_no_such_figures(why: str) -> None:
    made = arms()
    run = made[1].run
    match why:
        case "few":
            made = made[:3]
        case "searched":
            made[1] = replace(made[1], search=Grid((("weight", (1.0, 2.0)),)))
        case "options":
            made[1] = replace(made[1], run=replace(run, penalties=(Penalty("DoubleBack", 1.0, (("every", 2),)),)))
        case "moving":
            made[1] = replace(made[1], run=replace(run, technique=Technique(auto_weight=0.35)))
        case "two":
            made[1] = replace(made[1], run=replace(run, penalties=(*run.penalties, Penalty("SpectReg", 1.0))))
        case "same":
            made[1] = replace(made[1], run=made[2].run)
        case "baseline":
            made[0] = replace(made[0], run=replace(run, penalties=(Penalty("DoubleBack", 0.5),)))
    of = summary(*made)
    assert swept(of.groups[0]) == ""
    assert by_weight(of) == []
    assert "by the weight of the penalty" not in html(of, created="today")


def test_errors_are_drawn_as_errors() -> None:
    """Of a regression: in their unit, on a logarithmic scale where they are far apart."""
    runs = [replace(SIN, penalties=(Penalty("FrobReg", weight),)) for weight in WEIGHTS]
    made = [Arm("Baseline", SIN), *(Arm(str(run.penalties[0]), run) for run in runs)]
    items = [found(one, [10.0**i, 2 * 10.0**i]) for i, one in enumerate(made)]
    of = summarize(study(made, 2), items, command="")
    first, second = (re.findall(r"<title>(.*?)</title>", picture.svg)[0] for picture in by_weight(of))
    assert first == "Test MSE, 1e-3 against the weight of FrobReg"
    assert second.startswith("Half the squared norm")
    assert {"1", "10", "100", "1000"} <= set(re.findall(r">([^<>]+)<", by_weight(of)[0].svg))
    page = html(of, created="today")
    assert "MSE and weights of the network, by the weight of the penalty" in page
    assert "ccuracy" not in page
