"""`Mixup`: an objective on examples that are mixed in pairs."""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from gradreg import _checks, _random, _tree
from gradreg._types import InputTree, Labels, Model
from gradreg.objective import Objective, Result


class Mixup:
    """An `Objective` on mixed examples: ``x~ = a x_i + (1 - a) x_j``, ``y~ = a y_i + (1 - a) y_j``.

    a ~ Beta(alpha, alpha). j is the batch in random order, and a is drawn once for the batch, as in the source's code.
    Class indices become class probabilities, in which cross-entropy is linear: the loss is
    ``a L(x~, y_i) + (1 - a) L(x~, y_j)``. The objective's penalties see the mixed examples.

    Args:
        objective: loss and penalties; its loss takes class probabilities, or numbers.
        alpha: of the Beta distribution, >= 0: 0 leaves the batch as it is, small numbers mix little, 1 mixes uniformly.
        classes: number of classes; needed where labels are class indices.

    Raises:
        TypeError: another objective.
        ValueError: an alpha < 0; class indices without a number of classes, or beyond it; inputs that are not
            floating-point numbers.

    Example:
        >>> objective = gr.Mixup(gr.Objective(cross_entropy, gr.SpectReg(0.03)), alpha=0.2, classes=3)
        >>> objective(model, x, y).total.backward()

    Cost: 1.0x a plain step.

    Source: Zhang et al. 2018 (mixup), equation (1).
    """

    def __init__(self, objective: Objective, alpha: float = 0.2, *, classes: int | None = None):
        _checks.instance(objective, Objective, "objective", "gr.Objective(cross_entropy)")
        _checks.not_negative(alpha, "alpha", "Mixup")
        if classes is not None:
            _checks.positive_integer(classes, "classes", "Mixup")
        self.objective, self.alpha, self.classes = objective, float(alpha), classes

    def __call__(
        self,
        model: Model,
        x: InputTree,
        y: Labels,
        *,
        unlabeled: InputTree | None = None,
        generator: Generator | None = None,
        step: int | None = None,
    ) -> Result:
        """Mixes the batch, runs the model on it and returns the loss with its penalties.

        Args:
            model, x, y, unlabeled, step: see `Objective`; unlabelled inputs are not mixed.
            generator: draws the mixture, then the random projections.

        Returns:
            See `Objective`; the outputs are those of the mixed examples.
        """
        generator = generator or self.objective.generator
        if self.alpha > 0:
            x, y = self.mixed(x, y, generator)
        return self.objective(model, x, y, unlabeled=unlabeled, generator=generator, step=step)

    def mixed(self, x: InputTree, y: Labels, generator: Generator | None = None) -> tuple[InputTree, Tensor]:
        """The mixed inputs and labels of a batch.

        Args:
            x, y: see `Objective`.
            generator: draws the order and the share.
        """
        found = dict(_tree.tensors(x))
        for path, tensor in found.items():
            _checks.real_tensor(tensor, f"x[{path!r}]" if path else "x", _checks.BETWEEN)
        labels = self.mixable(y)
        batch = labels.shape[0]
        order = _random.normal((batch,), torch.empty(0, device=labels.device), generator).argsort()
        share = share_of_one(self.alpha, generator)

        def mix(path: str, tensor: Tensor) -> Tensor:
            _checks.same_batch(tensor, batch, f"x[{path!r}]" if path else "x", "Mixup needs the batch first in each.")
            return share * tensor + (1 - share) * tensor[order.to(tensor.device)]

        return _tree.replace(x, mix), share * labels + (1 - share) * labels[order]

    def mixable(self, y: Labels) -> Tensor:
        """Labels as the loss gets them, before any are mixed: class indices as probabilities, numbers as they are.

        Args:
            y: see `Objective`.
        """
        _checks.labels_given(y, "Mixup")
        if not isinstance(y, Tensor):
            raise TypeError(f"Mixup got labels of type {type(y).__name__}; expected a tensor: torch.as_tensor(y).")
        if y.is_floating_point():
            return y
        if self.classes is None:
            raise ValueError(
                f"Mixup got class indices (labels of dtype {y.dtype}) and no number of classes; write "
                "gr.Mixup(objective, classes=10)."
            )
        if y.ndim != 1 or int(y.max()) >= self.classes or int(y.min()) < 0:
            raise ValueError(
                f"Mixup got labels of shape {tuple(y.shape)} from {int(y.min())} to {int(y.max())}; expected class "
                f"indices (B,) below {self.classes}."
            )
        return one_hot(y.long(), self.classes).to(torch.get_default_dtype())

    def __repr__(self) -> str:
        return f"Mixup({self.objective!r}, {self.alpha:g})"


def share_of_one(alpha: float, generator: Generator | None) -> float:
    """A number from Beta(alpha, alpha): the share of one of two Gamma(alpha) numbers in their sum."""
    device = "cpu" if generator is None else generator.device
    shape: Any = torch.full((2,), alpha, dtype=torch.float64, device=device)
    # Gamma(alpha) is Gamma(alpha + 1) U^(1/alpha), in logarithms, since both numbers vanish where alpha is small.
    larger = torch._standard_gamma(shape + 1, generator=generator)  # type: ignore[attr-defined]
    one, other = larger.log() + torch.rand(2, dtype=shape.dtype, device=device, generator=generator).log() / alpha
    return float(torch.sigmoid(one - other))
