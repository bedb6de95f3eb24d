"""The loss of an objective whose task's loss a framework takes."""

from typing import Any

from torch import Tensor

from gradreg._types import LossFunction
from gradreg.jacobian.target import loss_name, reduction_of, unreduced
from gradreg.penalties.base import zero_like


class TakenElsewhere:
    """For the task nothing; for penalties that ask, the losses of examples.

    Args:
        loss: as `DoubleBack` takes it.
    """

    def __init__(self, loss: LossFunction):
        self.loss = loss
        self.reduction = reduction_of(loss)
        self.__name__ = loss_name(loss)

    def __call__(self, outputs: Any, y: Any, reduction: str = "mean") -> Tensor:
        """0, or one loss for each term."""
        return zero_like(outputs) if reduction == "mean" else unreduced(self.loss)(outputs, y)
