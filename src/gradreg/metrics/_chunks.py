"""A model in evaluation mode on many points, a chunk of them at a time."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradreg import _checks
from gradreg._types import Labels, Model
from gradreg.jacobian.forward import ForwardPass
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.site import Input, Site
from gradreg.jacobian.target import Target


def in_chunks(
    model: Model,
    x: Tensor,
    y: Labels,
    chunk: int,
    measure: Callable[[Tensor, Labels], Tensor],
    *,
    gradients: bool = True,
) -> Tensor:
    """``measure(x, y)`` of one chunk after the other, joined.

    The model is in evaluation mode meanwhile, and autograd records, whatever context the caller is in. Chunks go to the
    model's device and the results come back to that of x, so that a set may be larger than the memory of a GPU.

    Args:
        model: a module (the mode of each of its parts is put back, also after an error) or a function, run as it is.
        x: (N, ...), one tensor.
        y: what belongs to each point, (N, ...), or None.
        chunk: number of points at a time.
        measure: from (B, ...) to (B, ...).
        gradients: whether the measure differentiates.

    Returns:
        (N, ...) without a graph.

    Raises:
        TypeError: x is no tensor.
        ValueError: no points, other numbers of points and labels, inference tensors where gradients are needed.
    """
    _checks.positive_integer(chunk, "chunk", "metrics")
    if not isinstance(x, Tensor):
        raise TypeError(f"metrics got x of type {type(x).__name__}; expected one tensor (N, ...): torch.as_tensor(x).")
    batch = _checks.batch_size(x, "x")
    _checks.label_batch(y, batch)
    if gradients:
        _checks.ordinary_tensor(x, "x")
        if isinstance(y, Tensor):
            _checks.ordinary_tensor(y, "y")
    device = device_of(model, x)
    found = []
    with ExitStack() as stack:
        stack.enter_context(_checks.grad_enabled())
        stack.enter_context(evaluating(model))
        if not gradients:
            stack.enter_context(torch.no_grad())
        for start in range(0, batch, chunk):
            part = slice(start, start + chunk)
            labels = y[part].to(device) if isinstance(y, Tensor) else y
            found.append(measure(x[part].to(device), labels).detach().to(x.device))
        return torch.cat(found)


def linearized(model: Model, x: Tensor, y: Labels, target: Target, site: Site | None) -> Linearization:
    """J of one chunk.

    Raises:
        ValueError: examples are coupled: one backward pass has then the derivatives of their sum alone. Whether the
            layers stand between site and target is not looked into, nor what a function calls.
    """
    if names := coupling_layers(model):
        raise ValueError(
            f"metrics got a model that normalizes by the batch in evaluation mode too ({', '.join(names)}), so that an "
            "output depends on the other examples and has no Jacobian of its own. Write track_running_stats=True."
        )
    site = site or Input()
    return Linearization.of_pass(ForwardPass(model, x, [site]), target, y, site)


def coupling_layers(model: Model) -> tuple[str, ...]:
    """The batch normalization layers, by name, that take the statistics of the batch in evaluation mode too.

    Of such a model an output is no function of one input, so that it has no Jacobian of its own.

    Args:
        model: a module, in any mode; of a function nothing is known.

    Returns:
        Names of submodules, of the model itself that of its class; () where there are none.

    Example:
        >>> gr.metrics.coupling_layers(torch.nn.Sequential(torch.nn.BatchNorm1d(4, track_running_stats=False)))
        ('0',)
    """
    layers = model.named_modules() if isinstance(model, nn.Module) else ()
    found = [(name, layer) for name, layer in layers if isinstance(layer, _BatchNorm) and layer.running_mean is None]
    return tuple(name or type(layer).__name__ for name, layer in found)


def device_of(model: Model, x: Tensor) -> torch.device:
    """Where the model's parameters are; that of the points for a function or a module without any."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), x.device)


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every submodule is in the mode it was in."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def class_scores(outputs: object, owner: str) -> Tensor:
    """Outputs as class scores (B, C) with at least two classes."""
    z = _checks.outputs_tensor(outputs, owner)
    if z.ndim != 2 or z.shape[1] < 2:
        raise ValueError(
            f"{owner} got outputs of shape {tuple(z.shape)}; expected class scores (N, C) with C >= 2. For one score s "
            "of two classes write model.eval(), then lambda x: torch.nn.functional.pad(model(x), (1, 0)), whose "
            "classes are 0 and s."
        )
    return z


def class_indices(y: Labels, z: Tensor, owner: str) -> Tensor:
    """Labels as class indices (B,) for class scores (B, C)."""
    _checks.labels_given(y, owner)
    if isinstance(y, Tensor) and y.is_floating_point():
        raise ValueError(f"{owner} got labels of dtype {y.dtype}; expected class indices (N,): write y.argmax(1).")
    _checks.class_labels(y, z, 1, owner)
    return in_range(y, z.shape[1], owner).to(z.device)


def in_range(y: Tensor, classes: int, owner: str) -> Tensor:
    """Labels as int64, each of which names a class."""
    least, most = int(y.min()), int(y.max())
    if least < 0 or most >= classes:
        raise ValueError(
            f"{owner} got labels from {least} to {most} for {classes} classes; expected 0 to {classes - 1}. Take out "
            "points whose label is to be ignored: z[y >= 0], y[y >= 0]."
        )
    return y.long()
