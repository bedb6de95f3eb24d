"""The methods of a comparison: names, grids, arms; what a network cannot have; the sizes of a comparison."""

from dataclasses import replace

import pytest

from gradreg.studies import cifar10, digits, mnist
from gradreg.studies._methods import METHODS, USUAL_GRIDS, arms, methods
from gradreg.studies._sizes import sized_methods, sized_run, sized_study
from gradreg.study.config import Model, Penalty, StudyError, Technique
from gradreg.study.grid import Arm, Grid, final_runs, put, tuning_run
from gradreg.study.terms import build_penalty
from gradreg.study.train import dataset, train


def of(*words: str, study: object = digits) -> dict[str, Arm]:
    """The arms of a comparison with these methods."""
    run, grids, more = study.RUN, study.GRIDS, getattr(study, "MORE_GRIDS", None)  # type: ignore[attr-defined]
    return {arm.name: arm for arm in arms(run, methods(words, grids, run, more))}


def test_all_takes_every_method_that_the_network_can_have() -> None:
    names = {kind.name for kind in METHODS.values()}
    assert set(of("all")) == {"Baseline", *names} - {"no dropout"}  # the small network has none to take away
    assert set(of("all", study=mnist)) == {"Baseline", *names} - {"dropout"}  # which LeNet-5 has
    assert set(of("all", study=cifar10)) == {"Baseline", *names} - {"dropout", "no dropout", "batch normalization"}


def test_all_beside_names_takes_the_others() -> None:
    found = of("all", "spectreg=0.07")
    assert set(found) == set(of("all"))
    assert found["SpectReg"].run.penalties == (Penalty("SpectReg", 0.07),)
    assert found["SpectReg"].search is None
    assert found["FrobReg"].search is not None


def test_methods_of_old_comparisons_are_the_same_runs() -> None:
    """But for the measures of final runs: keys, written out; those of tuning runs are as they were, and so are kept."""
    first, third = digits.STUDY.arms[1].run, mnist.STUDY.arms[2].run
    plain = [put(run, {"protocol.profile_points": 0}) for run in (first, third)]
    assert [run.key for run in plain] == ["a4a99c1c3b1bf524", "f19f199414e45bc7"]
    assert [tuning_run(run, (), 0).key for run in (first, third)] == [tuning_run(run, (), 0).key for run in plain]
    assert [arm.name for arm in digits.STUDY.arms] == [
        *("Baseline", "DoubleBack", "SpectReg", "FrobReg", "JacReg", "ConfidencePenalty"),
    ]


def test_unlabelled_inputs_go_to_the_penalties_on_inputs_that_need_no_labels() -> None:
    chosen = methods(("all",), digits.GRIDS, digits.RUN, digits.MORE_GRIDS)
    for method, arm in zip(chosen, arms(digits.RUN, chosen, unlabelled=500)[1:], strict=True):
        kind = method.kind
        free = kind.preset and not build_penalty(replace(arm.run.penalties[0], weight=1.0)).needs_labels
        taken = bool(free) and kind.name != "SpectralNorm"  # which looks at weights alone
        assert arm.run.split.unlabelled == (500 if taken else 0), kind.name
        assert arm.name == kind.name + " + unlabelled" * taken
    assert arms(digits.RUN, chosen)[0] == arms(digits.RUN, chosen, unlabelled=500)[0]


def test_every_method_has_a_grid_and_digits_has_weights_of_its_own() -> None:
    assert set(USUAL_GRIDS) == set(METHODS)
    for name, weights in USUAL_GRIDS.items():
        assert list(weights) == sorted(set(weights)), name
        assert len(weights) == (0 if METHODS[name].network else 4), name
    assert of("tangentprop")["TangentProp"].search == Grid((("weight", (0.01, 0.03, 0.1, 0.3)),))
    assert of("tangentprop", study=mnist)["TangentProp"].search == Grid((("weight", (0.003, 0.01, 0.03, 0.1)),))


def test_arms_say_what_each_method_changes() -> None:
    found = of("mixup", "sam", "adamw", "weightdecay=0.01", "topk=0.5", "l1doubleback", "batchnorm", "dropout")
    assert found["Mixup"].run == replace(digits.RUN, technique=Technique(mixup=0.1))
    assert found["Mixup"].search == Grid((("technique.mixup", (0.1, 0.2, 0.4, 1.0)),))
    assert found["SAM"].run.technique.sam == 0.02
    assert found["AdamW"].run.optimizer.name == "adamw"
    assert found["weight decay"].run == put(digits.RUN, {"optimizer.weight_decay": 0.01})
    assert found["top 2 classes"].run.penalties == (
        Penalty("JacobianPenalty", 0.5, (("projection", "TopK"), ("k", 2))),
    )
    (ramped,) = found["L1DoubleBack"].run.penalties
    assert ramped.options == (("ramp", 50),)  # a quarter of 200 steps
    assert found["batch normalization"].run == replace(digits.RUN, model=Model("small-cnn-batchnorm"))
    assert found["dropout"].search is None


def test_weights_that_move_stand_beside_those_that_are_searched() -> None:
    found = of("spectreg", "spectreg=auto", "spectreg4=auto")
    assert list(found) == ["Baseline", "SpectReg", "SpectReg(auto)", "SpectReg, 4 rows (auto)"]
    moving = found["SpectReg(auto)"]
    assert moving.search is None
    assert moving.run == replace(
        digits.RUN, penalties=(Penalty("SpectReg", 1.0),), technique=Technique(auto_weight=0.35)
    )
    everything = of("all", "spectreg=auto", "doubleback=7")
    assert {"SpectReg", "SpectReg(auto)"} < set(everything)
    assert everything["DoubleBack"].search is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mixupp",), "--methods: 'mixupp' is not known; did you mean 'mixup'"),
        (("all", "mixupp"), "--methods: 'mixupp' is not known; did you mean 'mixup'"),
        (("sam", "sam=0.1"), "--methods names SAM 2 times"),
        (("dropout=0.5",), "--methods got 'dropout=0.5', but dropout has no weight; write dropout"),
        (("mixup=auto",), "--methods got 'mixup=auto', but mixup is no penalty; write mixup for a search"),
        (("spectreg=auto", "spectreg=auto"), r"--methods names SpectReg\(auto\) 2 times"),
        (("mixup=0",), "--methods got 'mixup=0'; expected a weight > 0, as in mixup=0.03"),
        (("nodropout",), r"nodropout is a variant of the network, which small-cnn does not have; lenet5 \(nodropout"),
    ],
)
def test_wrong_words_are_answered(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        of(*words)


def test_images_are_not_moved_where_there_are_none() -> None:
    run = replace(digits.RUN, model=Model("mlp"))
    assert "TangentProp" not in {method.kind.name for method in methods(("all",), digits.GRIDS, run)}


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if name not in digits.GRIDS])
def test_every_method_trains(name: str) -> None:
    """Three steps in both ends of its grid, on digits or, where these have it not, LeNet-5's variants by name alone."""
    if name == "nodropout":
        assert of(name, study=mnist)["no dropout"].run.model.name == "lenet5-plain"
        return
    (arm,) = [arm for arm in of(name).values() if arm.name != "Baseline"]
    points = arm.search.points() if isinstance(arm.search, Grid) else [()]
    for values in (points[0], points[-1]):
        run = put(tuning_run(arm.run, values, 0), {"schedule.steps": 3, "split.validation_size": 50})
        assert train(run, dataset("digits"))[0]["steps"] == 3


def test_sizes() -> None:
    chosen = methods((), digits.GRIDS)
    quick, smoke = sized_run(digits.RUN, "quick"), sized_run(digits.RUN, "smoke")
    assert (quick.schedule.steps, smoke.schedule.steps) == (100, 5)
    assert quick == put(digits.RUN, {"schedule.steps": 100})
    assert (smoke.protocol.norm_points, smoke.split.validation_size) == (20, 400)
    assert (quick.protocol.profile_points, smoke.protocol.profile_points) == (250, 50)
    assert sized_run(digits.RUN, "paper") == digits.RUN
    assert sized_study(digits.STUDY, "paper") == digits.STUDY
    assert [m.weights for m in sized_methods(chosen, "smoke")][:2] == [(3, 100), (0.01, 0.3)]
    assert sized_methods(chosen, "quick") == sized_methods(chosen, "paper") == chosen
    for scale, seeds in (("quick", 3), ("smoke", 2)):
        study = sized_study(digits.STUDY, scale)
        assert (study.name, study.seeds, study.tuning_seeds) == (f"digits-{scale}", seeds, 1)
    assert len(final_runs(of("all")["SAM"], (("technique.sam", 0.1),), 2)) == 2
