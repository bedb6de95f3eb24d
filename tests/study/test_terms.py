"""Penalties of a run by their names and plain options."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from runs_for_tests import BASELINE, SIN

import gradreg as gr
from gradreg.study.config import Penalty, StudyError
from gradreg.study.grid import put
from gradreg.study.terms import SLOTS, build_penalties, build_penalty
from gradreg.study.train import Training, dataset, divide


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (Penalty("SpektReg", 0.1), "no penalty of that name: 'SpektReg' is not known; did you mean 'SpectReg'"),
        (Penalty("Penalty", 0.1), "'Penalty' is not known"),
        (Penalty("PenaltySum", 0.1), "'PenaltySum' is not known"),
        (Penalty("Objective", 0.1), "'Objective' is not known"),
        (Penalty("JacReg", 0.1, (("draws", 2),)), r"JacReg\(0.1, draws=2\) cannot be made: .*draws"),
        (Penalty("SpectReg", -1.0), r"SpectReg\(-1\) cannot be made"),
        (
            Penalty("SpectReg", 0.1, (("engine", "auto"),)),
            "engine='auto' lets each run choose, so that its name would ",
        ),
        (Penalty("Sobolev", 1.0), r"Sobolev\(1\) cannot be made: Sobolev needs either a teacher or an oracle"),
        (
            Penalty("JacobianPenalty", 0.1, (("projection", "TopJ"),)),
            "projection='TopJ': 'TopJ' is not known; did you mean 'TopK'",
        ),
        (Penalty("JacobianPenalty", 0.1, (("magnitude", "L2"),)), "magnitude='L2': 'L2' is not known"),
        (Penalty("JacobianPenalty", 0.1, (("projection", "TopK"), ("k", 0))), "TopK got k=0; expected a whole number"),
        (Penalty("JacobianPenalty", 0.1, (("k", 2),)), "unexpected keyword argument 'k'"),
        (Penalty("SpectReg", 0.1, (("site", "a,"),)), "site='a,'; expected names of the network's submodules, such as"),
        (Penalty("SpectReg", 0.1, (("site", 3),)), "site=3; expected names of the network's submodules"),
        (Penalty("SpectReg", 0.1, (("site", "a,a"),)), "Hidden got 'a' 2 times"),
        (Penalty("ConfidencePenalty", 0.1, (("site", "a"),)), "unexpected keyword argument 'site'"),
        (Penalty("SpectReg", 0.1, (("projection", "TopK"),)), "unexpected keyword argument 'projection'"),
    ],
)
def test_penalties_that_cannot_be_made_are_named(penalty: Penalty, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        build_penalty(penalty)


def test_every_preset_can_be_named() -> None:
    presets = [value for name in gr.__all__ if isinstance(value := getattr(gr, name), type)]
    names = [kind.__name__ for kind in presets if issubclass(kind, gr.Penalty)]
    assert len(names) >= 17
    for name in set(names) - {"Penalty", "PenaltySum", "Sobolev"}:  # which need more than a weight
        assert build_penalty(Penalty(name, 0.25)).weight == 0.25


@pytest.mark.parametrize(
    ("options", "slot", "expected"),
    [
        ((("projection", "TopK"), ("k", 2)), "projection", gr.TopK(2)),
        ((("projection", "Sphere"), ("samples", 3), ("per", "batch")), "projection", gr.Sphere(3, "batch")),
        ((("magnitude", "TargetNorm"), ("norm", 2.0), ("one_sided", True)), "magnitude", gr.TargetNorm(2.0, True)),
        ((("target", "Probabilities"),), "target", gr.Probabilities()),
        ((("engine", "FiniteDifference"), ("step", 0.1)), "engine", gr.FiniteDifference(0.1)),
    ],
)
def test_slots_are_filled_by_name(options: Any, slot: str, expected: object) -> None:
    assert getattr(build_penalty(Penalty("JacobianPenalty", 0.5, options)), slot) == expected


def test_several_slots_are_filled_at_once() -> None:
    options = (("engine", "ForwardMode"), ("every", 2), ("magnitude", "L1"), ("projection", "RandomClass"))
    found = build_penalty(Penalty("JacobianPenalty", 0.5, options))
    assert repr(found) == "JacobianPenalty(0.5, projection=RandomClass(samples=1), engine=ForwardMode(), " + (
        "magnitude=L1(), every=2)"
    )


@pytest.mark.parametrize(("names", "expected"), [("a.1", ("a.1",)), ("a.1, b", ("a.1", "b"))])
def test_site_names_submodules(names: str, expected: tuple[str, ...]) -> None:
    penalty = Penalty("SpectReg", 0.5, (("site", names),))
    found = build_penalty(penalty)
    assert isinstance(found, gr.SpectReg)
    assert found.site == gr.Hidden(*expected)
    assert str(penalty) == f"SpectReg(0.5, site={names})"


def test_penalty_at_a_site_is_that_of_the_activations_there() -> None:
    """A run's step against the library's own penalty; a name that the network lacks is told with those that it has."""
    run = replace(BASELINE, penalties=(Penalty("FrobReg", 0.5, (("site", "layers.4"),)),))
    training = Training(run, divide(run, dataset("digits")), 10)
    model, x = copy.deepcopy(training.model), training.x[:20]
    rows = gr.dense.jacobian(model.double(), x.double(), site=gr.Hidden("layers.4"))
    found = training.advance(torch.arange(20)).terms["frobreg"].item()
    assert found == pytest.approx(0.5 * rows.square().sum((1, 2)).mean().item(), rel=1e-5)
    wrong = put(run, {"penalties.0.options": (("site", "layers.44"),)})
    with pytest.raises(ValueError, match=r"'layers\.44'"):
        Training(wrong, divide(wrong, dataset("digits")), 10).advance(torch.arange(20))


def test_the_slots_hold_all_that_needs_nothing_but_plain_arguments() -> None:
    """What is missing takes functions, tensors or other objects."""
    kinds = {"engine": gr.Engine, "target": gr.Target, "projection": gr.Projection, "magnitude": gr.Magnitude}
    public = [getattr(gr, name) for name in gr.__all__]
    for slot, kind in kinds.items():
        known = {p.__name__ for p in public if isinstance(p, type) and issubclass(p, kind) and p is not kind}
        missing = known - {k.__name__ for k in SLOTS[slot]}
        assert missing <= {"FunctionOf", "Loss", "Tangents", "DistanceToGradients", "DistanceToTeacher", "Masked"}


@pytest.mark.parametrize(
    ("penalties", "message"),
    [
        ((), r"split.unlabelled=50 asks for unlabelled inputs, but there is no penalty, and nothing would look at"),
        ((Penalty("DoubleBack", 3.0),), r"but DoubleBack\(3\) cannot do without labels, .*; use SpectReg, FrobReg or"),
    ],
    ids=["none", "DoubleBack"],
)
def test_unlabelled_inputs_that_no_penalty_looks_at_are_refused(penalties: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        build_penalties(put(replace(BASELINE, penalties=penalties), {"split.unlabelled": 50}))


def test_one_penalty_that_needs_no_labels_is_enough_for_unlabelled_inputs() -> None:
    both = replace(BASELINE, penalties=(Penalty("DoubleBack", 3.0), Penalty("SpectReg", 0.1)))
    assert [p.needs_labels for p in build_penalties(put(both, {"split.unlabelled": 50}))] == [True, False]


@pytest.mark.parametrize("preset", ["JacReg", "ConfidencePenalty", "LabelSmoothing", "RightReasons"])
def test_penalties_on_probabilities_are_refused_for_a_regression(preset: str) -> None:
    with pytest.raises(StudyError, match=f"{preset} measures the probabilities of classes, but the labels of sin"):
        build_penalties(replace(SIN, penalties=(Penalty(preset, 0.1),)))
