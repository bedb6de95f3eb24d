"""What a trained network is measured by on points with labels."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from gradreg.metrics import evaluating
from gradreg.study.metric import ACCURACY, Metric

Prepare = Callable[[Tensor], Tensor]


def _as_they_are(points: Tensor) -> Tensor:
    return points


def score(metric: Metric, model: nn.Module, x: Tensor, y: Tensor, *, prepare: Prepare = _as_they_are) -> float:
    """The metric on some points, as results hold it; see `accuracy` for the arguments."""
    measure = accuracy if metric is ACCURACY else mean_squared_error
    return measure(model, x, y, prepare=prepare)


def accuracy(
    model: nn.Module, x: Tensor, y: Tensor, chunk: int = 1000, *, top: int = 1, prepare: Prepare = _as_they_are
) -> float:
    """Percentage of right predictions, in evaluation mode; each module's own mode is put back.

    Args:
        model: gives class scores.
        x, y: points and labels.
        chunk: points at once.
        top: a prediction is right if the label is among so many of the highest scores.
        prepare: makes points what the network takes.
    """
    right = 0
    for z, labels in zip(_outputs(model, x, chunk, prepare), y.split(chunk), strict=True):
        highest = z.argmax(1, keepdim=True) if top == 1 else z.topk(min(top, z.shape[1])).indices
        right += int((highest == labels[:, None]).any(1).sum())
    return 100 * right / len(y)


def mean_squared_error(
    model: nn.Module, x: Tensor, y: Tensor, chunk: int = 1000, *, prepare: Prepare = _as_they_are
) -> float:
    """Mean of the squared error over points and outputs, in evaluation mode; see `accuracy` for the arguments."""
    found = zip(_outputs(model, x, chunk, prepare), y.split(chunk), strict=True)
    return sum(float((z.double() - numbers).square().sum()) for z, numbers in found) / y.numel()


def _outputs(model: nn.Module, x: Tensor, chunk: int, prepare: Prepare) -> Iterator[Tensor]:
    device = next((p.device for p in model.parameters()), x.device)
    with evaluating(model), torch.no_grad():
        for part in x.split(chunk):
            yield model(prepare(part.to(device))).cpu()
