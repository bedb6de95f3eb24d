"""Names for the kinds of value that cross the library's borders."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Model = Callable[..., Any]
"""A `torch.nn.Module`, or any function of the inputs."""

InputTree = Any
"""A tensor, or tuples, lists, dicts and `Args` of tensors (other leaves pass through untouched)."""

Labels = Any
"""What the loss takes as its second argument; mostly a tensor with one entry per example."""

LossFunction = Callable[[Any, Any], Tensor]
"""``loss(outputs, labels)``, such as `torch.nn.functional.cross_entropy`."""

Parts = list[Tensor]
"""One value per tensor of a site: gradients, tangents or activations, each (B, ...)."""
