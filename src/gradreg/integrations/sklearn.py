"""scikit-learn estimators: a small network trained with a penalty, for tables of numbers."""

from collections.abc import Callable
from itertools import pairwise
from numbers import Integral
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from gradreg import _checks
from gradreg._random import generator_for
from gradreg._types import LossFunction
from gradreg.integrations._extras import missing
from gradreg.objective import Objective
from gradreg.penalties.base import Penalty
from gradreg.penalties.presets import SpectReg

try:
    import numpy as np
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise missing(error, "sklearn") from error

_AT_ONCE = 4096  # rows that predictions run through the network at one time


class _Regularized(BaseEstimator):
    """What the classifier and the regressor share: parameters, the training loop, outputs of the network."""

    def __init__(
        self,
        weight: float = 0.03,
        *,
        penalty: Callable[[float], Penalty] = SpectReg,
        module: Callable[[int, int], nn.Module] | None = None,
        hidden_layer_sizes: tuple[int, ...] = (100,),
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 0.001,
        random_state: Any = None,
        device: str = "cpu",
    ):
        self.weight = weight
        self.penalty = penalty
        self.module = module
        self.hidden_layer_sizes = hidden_layer_sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device

    def _train(self, x: Any, y: Tensor, outputs: int, loss: LossFunction) -> None:
        """Adam on shuffled batches. All random numbers come from ``random_state``; torch's global state is kept."""
        epochs, size = self._count("epochs"), self._count("batch_size")
        penalty = self.penalty(self.weight)
        _checks.instance(penalty, Penalty, "penalty(weight)", "gr.SpectReg(weight)")
        device = torch.device(self.device)
        x, y = torch.as_tensor(x, device=device), y.to(device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        batches = generator_for(seed, "batches")
        self.history_: list[dict[str, float]] = []
        with torch.random.fork_rng([] if device.type == "cpu" else [device]), torch.enable_grad():
            torch.manual_seed(seed)
            self.module_ = self._network(x.shape[1], outputs).to(device).train()
            objective = Objective(loss, penalty, generator=generator_for(seed, "penalty"))
            optimizer = torch.optim.Adam(self.module_.parameters(), lr=self.learning_rate)
            for _ in range(epochs):
                sums = dict.fromkeys(["task", *objective.penalties], 0.0)
                for index in torch.randperm(len(x), generator=batches).to(device).split(size):
                    result = objective(self.module_, x[index], y[index])
                    optimizer.zero_grad()
                    result.total.backward()
                    optimizer.step()
                    for name, value in {"task": result.task, **result.terms}.items():
                        sums[name] += float(value.detach()) * len(index) / len(x)
                self.history_.append(sums)
        self.module_.eval()

    def _network(self, inputs: int, outputs: int) -> nn.Module:
        if self.module is not None:
            if isinstance(self.module, nn.Module):
                raise TypeError(
                    f"module got the network {type(self.module).__name__}; expected a function that makes one: "
                    "module=lambda n_features, n_outputs: torch.nn.Linear(n_features, n_outputs)."
                )
            return self.module(inputs, outputs)
        widths = [inputs, *self.hidden_layer_sizes]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def _count(self, name: str) -> int:
        value = getattr(self, name)
        value = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
        _checks.positive_integer(value, name, type(self).__name__)
        return value

    def _outputs(self, X: Any) -> Tensor:
        check_is_fitted(self)
        x = torch.as_tensor(validate_data(self, X, reset=False, dtype=np.float32), device=self.device)
        with torch.no_grad():
            return torch.cat([self.module_(part) for part in x.split(_AT_ONCE)]).double().cpu()


class GradientRegularizedClassifier(ClassifierMixin, _Regularized):
    """A neural network for tables, trained with ``cross-entropy + penalty``, as a scikit-learn classifier.

    Weights are for standardized features: put a `StandardScaler` before it.

    Args:
        weight: of the penalty; 0 trains without.
        penalty: a preset, or any function of the weight that returns a `Penalty`.
        module: ``module(n_features, n_outputs)`` returns the network, whose outputs are logits. None: linear layers
            with ReLU between them.
        hidden_layer_sizes: widths of these layers.
        epochs: how often each row is seen.
        batch_size: rows in a step.
        learning_rate: of Adam.
        random_state: an integer, a `numpy.random.RandomState`, or None; see scikit-learn's glossary.
        device: where the network is.

    Attributes:
        classes_: the labels (C,), in the order of the outputs.
        module_: the trained network, in evaluation mode.
        history_: for each epoch the means of the task's loss, "task", and of what each penalty adds, by name.
        n_features_in_: number of features.

    Raises:
        TypeError, ValueError: parameters of the wrong kind; data that scikit-learn's validation refuses.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> X, y = load_iris(return_X_y=True)
        >>> net = make_pipeline(StandardScaler(), GradientRegularizedClassifier(0.03, epochs=20, random_state=0))
        >>> net.fit(X, y).predict_proba(X).shape
        (150, 3)

    Source: the paper's section 2.1.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Trains on rows X (N, n_features) and their labels y (N,)."""
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        self._train(X, torch.as_tensor(index), len(self.classes_), cross_entropy)
        return self

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, (N, C)."""
        return torch.softmax(self._outputs(X), 1).numpy()

    def predict(self, X: Any) -> Any:
        """The most probable labels, (N,)."""
        outputs = self._outputs(X)
        return self.classes_[outputs.argmax(1).numpy()]


class GradientRegularizedRegressor(RegressorMixin, _Regularized):
    """A neural network for tables, trained with ``mean squared error + penalty``, as a scikit-learn regressor.

    Standardize features and targets: see `sklearn.compose.TransformedTargetRegressor`.

    Args:
        weight, penalty, module, hidden_layer_sizes, epochs, batch_size, learning_rate, random_state, device: see
            `GradientRegularizedClassifier`.

    Attributes:
        module_, history_, n_features_in_: see `GradientRegularizedClassifier`.

    Example:
        >>> from sklearn.datasets import make_friedman1
        >>> X, y = make_friedman1(80, random_state=0)
        >>> net = GradientRegularizedRegressor(0.01, epochs=20, random_state=0).fit(X - 0.5, y - y.mean())
        >>> net.predict(X - 0.5).shape
        (80,)

    Source: the paper's section 2.1.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Trains on rows X (N, n_features) and their values y, (N,) or (N, n_targets)."""
        X, y = validate_data(self, X, y, dtype=np.float32, multi_output=True, y_numeric=True)
        self._one_target = y.ndim == 1
        y = torch.as_tensor(np.asarray(y, np.float32)).reshape(len(y), -1)
        self._train(X, y, y.shape[1], mse_loss)
        return self

    def predict(self, X: Any) -> Any:
        """Values, shaped as those that it was trained on."""
        outputs = self._outputs(X).numpy()
        return outputs[:, 0] if self._one_target else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
