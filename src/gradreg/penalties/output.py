"""Penalties on the outputs alone: no derivative with respect to the input."""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from gradreg import _checks
from gradreg.penalties.base import Penalty
from gradreg.penalties.passes import Seen
from gradreg.penalties.schedule import Factor


class _OutputPenalty(Penalty):
    def __init__(self, weight: float, class_dim: int | None = None, ramp: Factor | int | None = None):
        super().__init__(weight, type(self).__name__.lower(), ramp=ramp)
        self.class_dim = class_dim

    def value(self, seen: Seen) -> Tensor:
        """See `Penalty.value`."""
        return self._terms(seen).mean()

    def per_example(self, seen: Seen) -> Tensor:
        """See `Penalty.per_example`."""
        terms = self._terms(seen)
        return terms.reshape(terms.shape[0], -1).mean(1)

    @abstractmethod
    def _terms(self, seen: Seen) -> Tensor:
        """One value for each example and position, (B, ...)."""

    def _log_probabilities(self, seen: Seen) -> tuple[Tensor, int]:
        z = _checks.outputs_tensor(seen.outputs, type(self).__name__)
        _checks.batch_size(z, "outputs")
        dim = _checks.class_dimension(z, self.class_dim, type(self).__name__)
        # Half precision would round the small probabilities away.
        return torch.log_softmax(z.float() if z.dtype.itemsize < 4 else z, dim), dim

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(filter(None, [f'{self.weight:g}', str(self.schedule)]))})"


class ConfidencePenalty(_OutputPenalty):
    """``weight * mean_i sum_k p_ik log p_ik``: the negative entropy of the predicted probabilities.

    Keeps a classifier from being over-sure of its training points. The paper's weight 0.01 multiplies the **sum** over
    a batch of 50, which is 0.5 here; its CIFAR-10 weight 0.003 at batch 128 is 0.38.

    Args:
        weight: multiplies the mean over the batch (and over positions, where outputs have them).
        class_dim: the dimension of the classes; by default 1, except that 3-dimensional outputs ask for it.
        ramp: how its weight moves: see `Penalty`.

    Example:
        >>> gr.Objective(cross_entropy, gr.DoubleBack(10), gr.ConfidencePenalty(0.5))

    Source: Pereyra et al. 2017; the paper's section 4.3.
    """

    def _terms(self, seen: Seen) -> Tensor:
        log_p, dim = self._log_probabilities(seen)
        # A class masked by a logit of -inf has p log p = 0, not 0 * -inf.
        finite = log_p.clamp(min=torch.finfo(log_p.dtype).min)
        return (log_p.exp() * finite).sum(dim)


class LabelSmoothing(_OutputPenalty):
    """``weight * mean_i KL(uniform || p_i)``: pulls the predictions towards the uniform distribution.

    Cross-entropy plus ``weight`` of this has the minimizer of cross-entropy with labels smoothed by
    ``alpha = weight / (1 + weight)``; weight = alpha / (1 - alpha), so 0.11 for the usual 0.1.

    Args:
        weight: multiplies the mean over the batch (and over positions, where outputs have them).
        class_dim: the dimension of the classes; by default 1, except that 3-dimensional outputs ask for it.
        ramp: how its weight moves: see `Penalty`.

    Example:
        >>> gr.Objective(cross_entropy, gr.LabelSmoothing(0.11))

    Source: Szegedy et al. 2016, as a penalty in Pereyra et al. 2017; the paper's section 4.3.
    """

    def _terms(self, seen: Seen) -> Tensor:
        log_p, dim = self._log_probabilities(seen)
        return -(log_p.mean(dim) + math.log(log_p.shape[dim]))
