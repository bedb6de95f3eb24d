"""skorch's nets with penalties: the plain loop step for step, their history, the losses of examples, errors."""

import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import PassthroughScoring
from skorch.hf import AccelerateMixin
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import gradreg as gr
from gradreg.integrations.skorch import (
    GradientRegularized,
    GradientRegularizedNetClassifier,
    GradientRegularizedNetRegressor,
)

X, Y = load_iris(return_X_y=True)
X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
ORDER = np.random.RandomState(0).permutation(150)
X, Y = X[ORDER], Y[ORDER]


class Net(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, outputs)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.last(torch.tanh(self.first(x)))


def classifier(*penalties: gr.Penalty, **changed: Any) -> Any:
    settings: dict[str, Any] = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": torch.optim.SGD,
        "lr": 0.5,
        "batch_size": 50,
        "max_epochs": 8,
        "train_split": None,
        "verbose": 0,
        "penalties": list(penalties),
    }
    return GradientRegularizedNetClassifier(Net, **{**settings, **changed})


@pytest.mark.parametrize("penalty", [gr.SpectReg(0.1), gr.DoubleBack(5)], ids=lambda p: type(p).__name__)
def test_training_is_the_plain_loop(penalty: gr.Penalty) -> None:
    torch.manual_seed(1)
    net = classifier(penalty, max_epochs=2).fit(X, Y)
    torch.manual_seed(1)
    model = Net()
    objective = gr.Objective(cross_entropy, penalty)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        for x, y in DataLoader(TensorDataset(torch.as_tensor(X), torch.as_tensor(Y)), batch_size=50):
            optimizer.zero_grad()
            objective(model, x, y).total.backward()
            optimizer.step()
    for ours, plain in zip(net.module_.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_the_loss_falls_the_penalty_flattens_and_both_are_in_the_history() -> None:
    torch.manual_seed(1)
    steep = classifier(gr.SpectReg(0)).fit(X, Y)
    torch.manual_seed(1)
    watch = PassthroughScoring("spectreg", on_train=True)
    flat = classifier(gr.SpectReg(0.3), callbacks=[("spectreg", watch)]).fit(X, Y)
    assert flat.history[-1, "train_loss"] < 0.8 * flat.history[0, "train_loss"]
    rows = flat.history[:, "batches", :, ("train_loss", "task", "spectreg")]
    assert all(total == pytest.approx(task + term, rel=1e-5) for batches in rows for total, task, term in batches)
    assert flat.history[-1, "spectreg"] == pytest.approx(np.mean([term for _, _, term in rows[-1]]))
    norms = [gr.metrics.jacobian_norms(net.module_, torch.as_tensor(X)).mean() for net in (steep, flat)]
    assert norms[1] < 0.7 * norms[0]
    assert flat.score(X, Y) > 0.8


def test_without_penalties_it_is_skorchs_own_net() -> None:
    settings = {**classifier().get_params(deep=False), "verbose": 0}
    settings.pop("penalties")
    torch.manual_seed(1)
    ours = classifier().fit(X, Y)
    torch.manual_seed(1)
    plain: Any = NeuralNetClassifier(**settings).fit(X, Y)
    assert np.array_equal(ours.predict_proba(X), plain.predict_proba(X))


def test_it_is_cloned_pickled_and_searched() -> None:
    net = classifier(gr.SpectReg(0.1), max_epochs=1).fit(X, Y)
    assert np.array_equal(pickle.loads(pickle.dumps(net)).predict_proba(X), net.predict_proba(X))
    copy: Any = clone(net)
    assert repr(copy.penalties) == "[SpectReg(0.1, projection=Normal(samples=1, per='example', side='output'))]"
    search = GridSearchCV(net, {"penalties": [[], [gr.SpectReg(0.1)]], "max_epochs": [1]}, cv=2).fit(X, Y)
    assert len(search.cv_results_["params"]) == 2


def test_lazy_penalties_count_the_steps_of_one_fit() -> None:
    net = classifier(gr.SpectReg(0.1, every=2), max_epochs=2)
    for _ in range(2):
        net.fit(X, Y)
        terms = [term > 0 for batches in net.history[:, "batches", :, "spectreg"] for term in batches]
        assert terms == [True, False] * 3


def test_inputs_by_name_and_arguments_of_fit() -> None:
    torch.manual_seed(1)
    one = classifier(gr.SpectReg(0.1), max_epochs=1).fit({"x": X}, Y, scale=2.0)
    torch.manual_seed(1)
    other = classifier(gr.SpectReg(0.1), max_epochs=1).fit(X, Y, scale=2.0)
    assert np.array_equal(one.predict_proba(X), other.predict_proba(X))


def test_a_regressor() -> None:
    target = X[:, :1] * X[:, 1:2]
    net: Any = GradientRegularizedNetRegressor(
        Net(1), penalties=[gr.DoubleBack(0.01), gr.FrobReg(0.001)], max_epochs=10, lr=0.1, train_split=None, verbose=0
    ).fit(X, target)
    assert net.history[-1, "train_loss"] < net.history[0, "train_loss"]
    x, y = torch.as_tensor(X), torch.as_tensor(target)
    net.history.new_epoch()
    net.history.new_batch()
    net.train_step_single((x, y))
    expected = gr.DoubleBack(0.01, loss=mse_loss)(net.module_, x, y).item()
    assert net.history[-1]["batches"][-1]["doubleback"] == pytest.approx(expected)


def test_what_is_no_penalty_is_refused() -> None:
    with pytest.raises(TypeError, match=r"penalties got 0.03; expected a gradreg Penalty, as in penalties=\[gr.Sp"):
        classifier(0.03).fit(X, Y)  # type: ignore[arg-type]


def test_new_penalties_of_an_initialized_net_count_from_its_next_step() -> None:
    net = classifier(gr.SpectReg(0.1), max_epochs=1).fit(X, Y)
    net.set_params(penalties=[gr.FrobReg(0.1, every=2)]).partial_fit(X, Y)
    terms = [batch["frobreg"] > 0 for batch in net.history[-1]["batches"]]
    assert terms == [False, True, False]  # steps 3, 4 and 5
    with pytest.raises(TypeError, match=r"penalties got 0.03; expected a gradreg Penalty"):
        net.set_params(penalties=[0.03])
    assert classifier().set_params(penalties=[gr.FrobReg(0.1)]).fit(X, Y).history[-1]["batches"][0]["frobreg"] > 0


@pytest.mark.parametrize(
    "bases", [(GradientRegularized, AccelerateMixin), (AccelerateMixin, GradientRegularized)], ids=["before", "after"]
)
def test_accelerates_mixin_is_refused(bases: tuple[type, ...]) -> None:
    with pytest.raises(TypeError, match=r"Both is an AccelerateMixin, whose training step takes the place"):
        type("Both", (*bases, NeuralNetClassifier), {})


def test_with_accumulation_weights_are_divided_as_the_loss_is() -> None:
    """skorch's recipe, and what the page says of it: two batches make the gradient of the mean of both."""

    class Accumulating(GradientRegularizedNetClassifier):
        def get_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            return super().get_loss(*args, **kwargs) / 2

    half = classifier().get_params(deep=False)
    torch.manual_seed(1)
    net: Any = Accumulating(**{**half, "penalties": [gr.FrobReg(0.5 / 2)]}).initialize()
    x, y = torch.as_tensor(X[:100]), torch.as_tensor(Y[:100])
    objective = gr.Objective(cross_entropy, gr.FrobReg(0.5))
    expected = torch.autograd.grad(objective(net.module_, x, y).total, [*net.module_.parameters()])
    net.history.new_epoch()
    for part in (slice(0, 50), slice(50, 100)):
        net.history.new_batch()
        net.train_step_single((x[part], y[part]))
    for parameter, gradient in zip(net.module_.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_loss_without_a_reduction_needs_one_per_example_from_the_penalty() -> None:
    class Mean(nn.Module):
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(z, y)

    with pytest.raises(ValueError, match=r"expected one loss per example.*gr.DoubleBack\(50, loss="):
        classifier(gr.DoubleBack(1), criterion=Mean).fit(X, Y)


def test_without_skorch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gradreg.integrations.skorch")
    monkeypatch.setitem(sys.modules, "skorch", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs skorch: pip install 'gradreg\[skorch\]'"):
        __import__("gradreg.integrations.skorch")
