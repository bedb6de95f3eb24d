"""How right and how sure a classifier is: accuracy, negative log-likelihood, expected calibration error."""

import torch
from torch import Tensor

from gradreg import _checks
from gradreg._types import Model
from gradreg.metrics._chunks import in_chunks, in_range


def predictions(model: Model, x: Tensor, *, chunk: int = 1024) -> Tensor:
    """The model's outputs in evaluation mode, without a graph.

    Args:
        model: a module (its mode is put back afterwards) or a function, run as it is; returns one tensor (B, ...).
        x: inputs (N, ...), one tensor.
        chunk: number of examples at a time.

    Returns:
        (N, ...) on the device of x.

    Raises:
        TypeError: the model returns something other than a tensor.

    Example:
        >>> z = gr.metrics.predictions(model, x)
        >>> z.shape
        torch.Size([4, 3])
    """

    def measure(points: Tensor, _: object) -> Tensor:
        return _checks.outputs_tensor(model(points), "metrics.predictions")

    return in_chunks(model, x, None, chunk, measure, gradients=False)


def accuracy(z: Tensor, y: Tensor, *, class_dim: int | None = None) -> float:
    """Percentage of labels that have the highest score.

    Args:
        z: class scores (N, C) or (N, C, ...).
        y: class indices (N,) or (N, ...).
        class_dim: the dimension of the classes; by default 1, except that 3-dimensional scores ask for it.

    Raises:
        ValueError: labels of the wrong shape, or that are no class indices.

    Example:
        >>> gr.metrics.accuracy(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        50.0
    """
    scores, labels = _one_by_one(z, y, class_dim, "accuracy")
    return 100 * float((scores.argmax(1) == labels).double().mean())


def negative_log_likelihood(z: Tensor, y: Tensor, *, class_dim: int | None = None) -> float:
    """Mean over the labels of ``-log softmax(z)[y]``, in nats: the cross-entropy, summed up in float64.

    Args:
        z, y, class_dim: as for `accuracy`.

    Raises:
        ValueError: labels of the wrong shape, or that are no class indices.

    Example:
        >>> round(gr.metrics.negative_log_likelihood(torch.zeros(3, 10), torch.tensor([0, 1, 2])), 4)
        2.3026
    """
    scores, labels = _one_by_one(z, y, class_dim, "negative_log_likelihood")
    return float(torch.nn.functional.cross_entropy(scores.double(), labels))


def expected_calibration_error(z: Tensor, y: Tensor, *, bins: int = 15, class_dim: int | None = None) -> float:
    """Mean distance between how sure a model is and how often it is right: ``sum_b n_b / N |right_b - sure_b|``.

    Predictions are sorted by their confidence, the highest probability, into bins ``((b-1)/bins, b/bins]``; ``right_b``
    is the part of right predictions in a bin, ``sure_b`` its mean confidence.

    Args:
        z, y, class_dim: as for `accuracy`.
        bins: their number, of equal width. The estimate rises with it on few examples: a model that is calibrated
            perfectly has an expected value of order sqrt(bins / N), not 0.

    Returns:
        Between 0 and 1, accumulated in float64.

    Raises:
        ValueError: labels of the wrong shape, or that are no class indices; ``bins`` below 1.

    Example:
        >>> sure = torch.tensor([[9.0, 0.0], [9.0, 0.0]])                      # twice nearly 1, right once
        >>> round(gr.metrics.expected_calibration_error(sure, torch.tensor([0, 1])), 2)
        0.5

    Source: Naeini et al. 2015; Guo et al. 2017, with their 15 bins.
    """
    _checks.positive_integer(bins, "bins", "expected_calibration_error")
    scores, labels = _one_by_one(z, y, class_dim, "expected_calibration_error")
    confidence, predicted = torch.softmax(scores.double(), 1).max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=scores.device)[1:-1]
    # Within a bin n |right - sure| is the absolute value of this sum.
    excess = (predicted == labels).double() - confidence
    sums = torch.zeros(bins, dtype=torch.float64, device=scores.device)
    sums.index_add_(0, torch.bucketize(confidence, edges), excess)
    return float(sums.abs().sum() / len(labels))


def _one_by_one(z: Tensor, y: Tensor, class_dim: int | None, owner: str) -> tuple[Tensor, Tensor]:
    """Scores (M, C) and labels (M,), one for each label."""
    z = _checks.outputs_tensor(z, owner)
    _checks.batch_size(z, "z")
    dim = _checks.class_dimension(z, class_dim, owner)
    if isinstance(y, Tensor) and y.is_floating_point():
        raise ValueError(f"{owner} got labels of dtype {y.dtype}; expected class indices: write y.argmax({dim}).")
    _checks.class_labels(y, z, dim, owner)
    labels = in_range(y.flatten(), z.shape[dim], owner).to(z.device)
    return z.detach().movedim(dim, -1).reshape(-1, z.shape[dim]), labels
