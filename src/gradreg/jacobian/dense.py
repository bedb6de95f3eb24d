"""The slow exact oracle: the whole Jacobian, one example and one output at a time.

It shares no code with the engines: each example runs through the model alone, and torch's own row-by-row Jacobian
(`torch.autograd.functional.jacobian`) does the rest. Use it to test, and on small problems to look at J itself.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradreg import _checks
from gradreg._types import Labels, Model
from gradreg.jacobian.site import Hidden, Input, Site
from gradreg.jacobian.target import Logits, Target, as_target


def jacobian(
    model: Model,
    x: Tensor,
    y: Labels = None,
    *,
    target: Target | Callable[..., Tensor] | None = None,
    site: Site | None = None,
    create_graph: bool = False,
) -> Tensor:
    """The Jacobian of each example: entry [b, i, j] is dz_i/dx_j of example b.

    Args:
        model: treats each example by itself (no batch statistics, no dropout in training mode).
        x: inputs (B, ...), one tensor.
        y: labels (B, ...), where the target needs them.
        target: `Logits()` by default.
        site: `Input()` by default, or `Hidden(name)` with one name, called once per forward pass.
        create_graph: whether the result can be differentiated with respect to the parameters.

    Returns:
        (B, m, n): m values of the target, n entries of the site.

    Raises:
        ValueError: a site of several names, or an empty batch.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> gr.dense.jacobian(model, torch.randn(5, 3)).shape     # equals model.weight for every example
        torch.Size([5, 2, 3])

    Source: J_g and J_f of the paper's section 2.
    """
    target, site = as_target(target or Logits()), site or Input()
    if len(site.names) != isinstance(site, Hidden):
        raise ValueError(f"dense.jacobian got site={site!r}; expected gr.Input() or gr.Hidden with one name.")
    _checks.batch_size(x, "x")
    rows = []
    with _checks.grad_enabled():
        for index in range(x.shape[0]):
            one = x[index : index + 1]
            label = y[index : index + 1] if isinstance(y, Tensor) else y

            def value(tensor: Tensor, one: Tensor = one, label: Any = label) -> Tensor:
                outputs = model(tensor) if isinstance(site, Input) else _with_hidden(model, one, site, tensor)
                return target(outputs, label).flatten()

            start = one if isinstance(site, Input) else _hidden(model, one, site)
            full: Any = torch.autograd.functional.jacobian(value, start, create_graph=create_graph)
            rows.append(full.flatten(1))
    return torch.stack(rows)


def _module(model: Model, site: Site) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model.get_submodule(site.names[0])


def _hidden(model: Model, one: Tensor, site: Site) -> Tensor:
    """The activation itself: with its graph, since it depends on the parameters."""
    seen: list[Tensor] = []
    handle = _module(model, site).register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    try:
        model(one)
    finally:
        handle.remove()
    return seen[0]


def _with_hidden(model: Model, one: Tensor, site: Site, activation: Tensor) -> Any:
    handle = _module(model, site).register_forward_hook(lambda module, args, output: activation.clone())
    try:
        return model(one)
    finally:
        handle.remove()
