"""skorch: nets whose training step adds penalties."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gradreg import _checks
from gradreg._tree import Args
from gradreg.integrations._extras import missing
from gradreg.objective import Objective
from gradreg.penalties.base import Penalty

try:
    from skorch import NeuralNetClassifier, NeuralNetRegressor
    from skorch.dataset import unpack_data
    from skorch.hf import AccelerateMixin
    from skorch.utils import to_tensor
except ImportError as error:
    raise missing(error, "skorch") from error


class GradientRegularized:
    """A mixin for skorch's nets: ``class Net(GradientRegularized, skorch.NeuralNet): ...``

    The training step is skorch's with penalties on the same forward pass; validation and predictions are untouched.
    "train_loss" is the loss with its penalties; the loss alone, "task", and what each penalty adds, by name, are in the
    history of batches, for ``skorch.callbacks.PassthroughScoring("spectreg", on_train=True)`` to average and print.

    Args:
        module: as in skorch. It returns logits: with `NeuralNetClassifier` write ``criterion=CrossEntropyLoss``, since
            the usual one expects probabilities.
        penalties: a list of them.
        kwargs: of the net.

    Raises:
        TypeError: a penalty that is none; a class that is an `AccelerateMixin` too.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, AccelerateMixin):
            raise TypeError(
                f"{cls.__name__} is an AccelerateMixin, whose training step takes the place of the one with penalties. "
                "Leave it out, or use accelerate in a loop of your own: see docs/integrations/accelerate.md."
            )

    def __init__(self, module: Any, *args: Any, penalties: Sequence[Penalty] = (), **kwargs: Any):
        self.penalties = penalties
        super().__init__(module, *args, **kwargs)  # type: ignore[call-arg]

    def initialize(self) -> Any:
        """As in skorch; penalties begin at step 0."""
        objective = self._made()
        found = super().initialize()  # type: ignore[misc]
        self.objective_ = objective
        return found

    def set_params(self: Any, **kwargs: Any) -> Any:
        """As in skorch; new penalties of an initialized net count from its next step on, in the place of the old."""
        found = super().set_params(**kwargs)  # type: ignore[misc]
        if "penalties" in kwargs and self.initialized_:
            step = self.objective_.step
            self.objective_ = self._made()
            self.objective_.step = step
        return found

    def _made(self) -> Objective:
        penalties = [self.penalties] if isinstance(self.penalties, Penalty) else self.penalties
        for penalty in penalties:
            _checks.instance(penalty, Penalty, "penalties", "[gr.SpectReg(0.03)]")
        return Objective(_nothing, *penalties)

    def train_step_single(self: Any, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """One forward pass, loss, penalties and the backward pass; what `train_step` calls."""
        self._set_training(True)
        inputs, labels = unpack_data(batch)
        x = to_tensor(inputs, device=self.device)
        if isinstance(x, Mapping):
            x = Args(**self._merge_x_and_fit_params(x, fit_params))
        elif fit_params:
            x = Args(x, **fit_params)

        def loss(outputs: Any, y: Any, reduction: str | None = None) -> Tensor:
            """skorch's, which may be overridden; for the losses of examples its criterion is asked not to average."""
            usual = getattr(self.criterion_, "reduction", None)
            if reduction is None or usual is None:
                return self.get_loss(outputs, y, X=inputs, training=True)
            self.criterion_.reduction = reduction
            try:
                return self.get_loss(outputs, y, X=inputs, training=True)
            finally:
                self.criterion_.reduction = usual

        self.objective_.loss = loss
        try:
            result = self.objective_(self.module_, x, to_tensor(labels, device=self.device))
        finally:
            self.objective_.loss = _nothing  # so that the net can be pickled
        result.total.backward()
        for name, term in {"task": result.task, **result.terms}.items():
            self.history.record_batch(name, float(term.detach()))
        return {"loss": result.total, "y_pred": result.outputs}


class GradientRegularizedNetClassifier(GradientRegularized, NeuralNetClassifier):
    """skorch's `NeuralNetClassifier` with penalties; see `GradientRegularized`.

    Example:
        >>> net = GradientRegularizedNetClassifier(
        ...     torch.nn.Linear(4, 3), criterion=torch.nn.CrossEntropyLoss, penalties=[gr.SpectReg(0.03)], verbose=0
        ... )
        >>> net.fit(x, y).predict(x).shape
        (150,)
    """


class GradientRegularizedNetRegressor(GradientRegularized, NeuralNetRegressor):
    """skorch's `NeuralNetRegressor` with penalties; see `GradientRegularized`.

    Example:
        >>> net = GradientRegularizedNetRegressor(torch.nn.Linear(4, 1), penalties=[gr.FrobReg(0.01)], verbose=0)
        >>> net.fit(x, x[:, :1]).predict(x).shape
        (150, 1)
    """


def _nothing(outputs: Any, y: Any) -> Tensor:
    raise AssertionError("the loss is skorch's, set at each step")
