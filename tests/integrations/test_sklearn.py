"""The scikit-learn estimators: scikit-learn's own checks, the plain loop step for step, what penalties do, errors."""

import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from torch import nn
from torch.nn.functional import cross_entropy

import gradreg as gr
from gradreg._random import generator_for
from gradreg.integrations.sklearn import GradientRegularizedClassifier, GradientRegularizedRegressor

X, Y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)
ROWS = torch.as_tensor(X, dtype=torch.float32)
FAST: dict[str, Any] = {"epochs": 12, "learning_rate": 0.02, "hidden_layer_sizes": (16,), "random_state": 0}


@pytest.mark.parametrize("kind", [GradientRegularizedClassifier, GradientRegularizedRegressor])
def test_scikit_learns_checks_pass(kind: Any) -> None:
    """All that it has for such estimators, but two that need pandas and an environment variable."""
    quick = {**FAST, "epochs": 6, "learning_rate": 0.05, "batch_size": 100}
    found = check_estimator(kind(**quick), on_fail=None, on_skip=None)
    assert len(found) > 50
    assert [(r["check_name"], r["exception"]) for r in found if r["status"] not in ("passed", "skipped")] == []
    skipped = {r["check_name"].replace("regressor", "classifier") for r in found if r["status"] == "skipped"}
    assert skipped <= {"check_classifier_data_not_an_array", "check_array_api_input"}


def test_training_is_the_plain_loop() -> None:
    """Bit for bit: the network that the same seed gives a loop of one's own."""
    fitted = GradientRegularizedClassifier(0.1, **FAST, batch_size=40).fit(X, Y)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    objective = gr.Objective(cross_entropy, gr.SpectReg(0.1), generator=generator_for(seed, "penalty"))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x, y, order = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(Y), generator_for(seed, "batches")
    for _ in range(12):
        for index in torch.randperm(150, generator=order).split(40):
            optimizer.zero_grad()
            objective(model, x[index], y[index]).total.backward()
            optimizer.step()
    for ours, plain in zip(fitted.module_.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, plain)


def test_the_loss_and_the_penalty_fall_and_the_network_is_flatter() -> None:
    steep, flat = (GradientRegularizedClassifier(weight, **FAST).fit(X, Y) for weight in (0, 0.3))
    assert steep.history_[-1]["task"] < 0.3 * steep.history_[0]["task"]
    assert flat.history_[-1]["task"] < 0.7 * flat.history_[0]["task"]
    # At the start the network is flat by its initialization, and grows steep as it learns.
    assert flat.history_[-1]["spectreg"] < max(h["spectreg"] for h in flat.history_)
    norms = [gr.metrics.jacobian_norms(e.module_, ROWS).mean() for e in (steep, flat)]
    assert norms[1] < 0.5 * norms[0]
    assert flat.score(X, Y) > 0.9
    assert not flat.module_.training


def test_a_seed_gives_the_same_network_and_leaves_torchs_random_state_alone() -> None:
    before = torch.get_rng_state()
    one, two = (GradientRegularizedClassifier(**{**FAST, "random_state": s}).fit(X, Y) for s in (1, 1))
    other = GradientRegularizedClassifier(**{**FAST, "random_state": 2}).fit(X, Y)
    assert np.array_equal(one.predict_proba(X), two.predict_proba(X))
    assert not np.array_equal(one.predict_proba(X), other.predict_proba(X))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(pickle.loads(pickle.dumps(one)).predict_proba(X), one.predict_proba(X))


def test_weight_and_penalty_are_searched_like_other_parameters() -> None:
    net = make_pipeline(StandardScaler(), GradientRegularizedClassifier(**{**FAST, "epochs": 3}))
    name = "gradientregularizedclassifier__"
    grid = {"weight": [0.0, 0.03], "penalty": [gr.SpectReg, gr.DoubleBack], "epochs": np.array([3])}
    search = GridSearchCV(net, {name + key: values for key, values in grid.items()}, cv=2).fit(X, Y)
    assert len(search.cv_results_["params"]) == 4
    best: Any = clone(search.best_estimator_)
    assert best.get_params()[f"{name}penalty"] in (gr.SpectReg, gr.DoubleBack)


def test_labels_may_be_words() -> None:
    words = np.array(["setosa", "versicolor", "virginica"])[Y]
    fitted = GradientRegularizedClassifier(**FAST).fit(X, words)
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert (fitted.predict(X) == words).mean() > 0.9
    assert np.allclose(fitted.predict_proba(X).sum(1), 1)


def test_a_network_of_ones_own() -> None:
    def module(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, outputs))

    fitted = GradientRegularizedClassifier(0.01, module=module, **{**FAST, "epochs": 3}).fit(X, Y)
    assert isinstance(fitted.module_[1], nn.Dropout)  # type: ignore[index]
    assert np.array_equal(fitted.predict_proba(X), fitted.predict_proba(X))


def test_the_regressor_learns_and_its_penalty_flattens() -> None:
    target = np.sin(2 * X[:, 0]) + X[:, 1]
    steep, flat = (GradientRegularizedRegressor(weight, **{**FAST, "epochs": 40}).fit(X, target) for weight in (0, 0.3))
    assert steep.score(X, target) > 0.9
    assert steep.score(X, target) > flat.score(X, target) > 0.3
    norms = [gr.metrics.jacobian_norms(e.module_, ROWS).mean() for e in (steep, flat)]
    assert norms[1] < 0.7 * norms[0]
    assert cross_val_score(GradientRegularizedRegressor(**FAST), X, target, cv=2).shape == (2,)


def test_several_targets_keep_their_shape() -> None:
    fitted = GradientRegularizedRegressor(**{**FAST, "epochs": 1}).fit(X, X[:, :2])
    assert fitted.predict(X).shape == (150, 2)
    assert fitted.fit(X, X[:, 0]).predict(X).shape == (150,)


@pytest.mark.parametrize(
    ("parameters", "kind", "words"),
    [
        ({"weight": -1}, ValueError, "SpectReg got weight=-1; a negative weight"),
        ({"penalty": lambda w: w}, TypeError, r"penalty\(weight\) got 0.03; expected a gradreg Penalty"),
        ({"epochs": 0}, ValueError, "GradientRegularizedClassifier got epochs=0; expected a whole number >= 1"),
        ({"batch_size": 2.5}, ValueError, "got batch_size=2.5; expected a whole number"),
        ({"epochs": True}, ValueError, "got epochs=True"),
        ({"module": nn.Linear(4, 3)}, TypeError, "module got the network Linear; expected a function that makes one"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        GradientRegularizedClassifier(**parameters).fit(X, Y)


def test_continuous_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        GradientRegularizedClassifier().fit(X, X[:, 0])


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gradreg.integrations.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs sklearn.base: pip install 'gradreg\[sklearn\]'"):
        __import__("gradreg.integrations.sklearn")
