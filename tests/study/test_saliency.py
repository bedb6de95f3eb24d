"""The picture of input gradients: there for trained networks of images, and else no picture and no failure."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from runs_for_tests import BASELINE, spoil
from sweeps_for_tests import Here

from gradreg.commands.common import keep_report
from gradreg.study.collect import collect
from gradreg.study.config import Model, Penalty, Run, Split
from gradreg.study.grid import Arm, Study, put
from gradreg.study.own_data import own_data, with_content
from gradreg.study.saliency import saliency
from gradreg.study.statistics import estimate
from gradreg.study.store import Store
from gradreg.study.summary import Row, Summary
from gradreg.study.sweep import Sweep

RUN = put(BASELINE, {"schedule.steps": 2, "protocol.profile_points": 10, "protocol.norm_points": 2})


def done(store: Store, run: Run) -> Summary:
    """A comparison of two methods with the baseline that has been run."""
    arms = [Arm("Baseline", run)]
    arms += [Arm(name, replace(run, penalties=(Penalty(name, 0.01),))) for name in ("SpectReg", "DoubleBack")]
    study = Study("a-study", "A study", tuple(arms), seeds=1)
    Sweep(study, store, seconds={}).go(Here())
    return collect(study, store, command="gradreg run a-study")


@pytest.fixture(name="digits", scope="module")
def _digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Summary]:
    store = Store(tmp_path_factory.mktemp("store"))
    return store, done(store, RUN)


def test_picture_is_in_the_report(digits: tuple[Store, Summary], tmp_path: Path) -> None:
    store, summary = digits
    keep_report(summary, tmp_path, store)
    picture = imread(tmp_path / "saliency.png")
    assert picture.shape[1] > 3 * picture.shape[0] > 300  # ten images in each of three lines
    assert len(np.unique(picture[..., 0])) > 50
    assert "(saliency.png)" in (tmp_path / "report.md").read_text()
    assert 'src="data:image/png;base64,' in (tmp_path / "report.html").read_text()


def test_picture_follows_the_networks(digits: tuple[Store, Summary]) -> None:
    store, summary = digits
    whole = saliency(summary, store)
    assert whole is not None
    assert whole == saliency(summary, store)
    group = summary.groups[0]
    best = max(group.rows[1:], key=lambda row: row.score.mean if row.score else 0.0)
    alone = replace(summary, groups=(replace(group, rows=(group.rows[0], best)),))
    assert saliency(alone, store) == whole
    (other,) = [row for row in group.rows[1:] if row is not best]
    assert saliency(replace(summary, groups=(replace(group, rows=(group.rows[0], other)),)), store) != whole


def test_picture_of_every_method_has_a_line_for_each_from_the_best_on(digits: tuple[Store, Summary]) -> None:
    store, summary = digits
    group = summary.groups[0]

    def picture(*rows: Row) -> bytes:
        found = saliency(replace(summary, groups=(replace(group, rows=rows),)), store, every=True)
        assert found is not None
        return found

    one, other = group.rows[1:]
    # The means that decide the order are put in: those of the two methods may be equal.
    worse, better = (replace(row, score=estimate([mean, mean + 1])) for row, mean in ((one, 50.0), (other, 60.0)))
    whole = picture(group.rows[0], worse, better)
    assert whole == picture(group.rows[0], better, worse)
    assert imread(io.BytesIO(whole)).shape[0] > imread(io.BytesIO(picture(group.rows[0], better))).shape[0] + 50


@pytest.mark.parametrize("harm", ["no network", "a damaged network", "no measures", "no second method", "no result"])
def test_without_what_it_needs_there_is_no_picture_and_no_failure(
    harm: str, digits: tuple[Store, Summary], tmp_path: Path
) -> None:
    store, summary = digits
    group = summary.groups[0]
    file = store.files(group.rows[0].runs[0]).folder / "model.pt"
    content = file.read_bytes()
    rows = group.rows
    if harm == "no network":
        file.unlink()
    elif harm == "a damaged network":
        spoil(file, "truncated")
    elif harm == "no measures":
        rows = tuple(replace(row, measures={}) for row in rows)
    elif harm == "no second method":
        rows = rows[:1]
    else:
        rows = (replace(rows[0], points=(None,)), *rows[1:])
    lacking = replace(summary, groups=(replace(group, rows=rows),))
    (tmp_path / "saliency.png").write_bytes(b"of an older report")
    try:
        assert saliency(lacking, store) is None
        keep_report(lacking, tmp_path, store)
    finally:
        file.write_bytes(content)
    assert not (tmp_path / "saliency.png").exists()
    assert "saliency" not in (tmp_path / "report.md").read_text()


def test_own_colour_images_have_one_and_features_have_none(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    y = np.arange(60) % 3
    shapes = {"photos": (60, 3, 8, 8), "sensors": (60, 5)}
    for name, shape in shapes.items():
        np.savez(tmp_path / f"{name}.npz", X=torch.rand(shape, generator=draw).numpy(), y=y)
        store = Store(tmp_path / name)
        facts = own_data(tmp_path / f"{name}.npz", store)
        run = replace(with_content(put(RUN, {"data.name": facts.name}), {facts.name: facts}), split=Split(15, 10, 20))
        found = saliency(done(store, replace(run, model=Model("mlp"))), store)
        assert (found is not None) == (name == "photos")
        if found is not None:
            assert imread(io.BytesIO(found)).shape[0] > 100
