"""Site slot: with respect to what the target is differentiated: inputs, or activations inside the model."""

from abc import ABC
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradreg import _checks, _tree
from gradreg._types import InputTree


class Site(ABC):  # noqa: B024 - a closed family, told apart by `ForwardPass`
    """Where the derivative is taken; `Input` or `Hidden`."""

    names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.names))})"


@dataclass(frozen=True, init=False, repr=False)
class Input(Site):
    """The model's inputs: all floating-point tensors of the input tree, or those named.

    Args:
        names: paths in the input tree, such as ``"image"`` for ``{"image": x, "age": a}``, ``"0"`` for the first of a
            tuple, ``"0.mask"`` below that. None: every floating-point tensor.

    Example:
        >>> gr.SpectReg(0.03, site=gr.Input("image"))

    Source: the paper's section 2.
    """

    names: tuple[str, ...]

    def __init__(self, *names: str):
        object.__setattr__(self, "names", _strings(names, "Input"))

    def select(self, x: InputTree) -> list[str]:
        """Paths of the tensors to differentiate with respect to.

        Raises:
            TypeError: an integer tensor, or no floating-point tensor at all.
            ValueError: a name that the tree lacks, an inference tensor, an empty batch.
        """
        found = dict(_tree.tensors(x))
        if not found:
            raise TypeError(
                f"the input is {type(x).__name__} and holds no tensor; expected a tensor or a tree of them. "
                "Write torch.as_tensor(x)."
            )
        if self.names and "" in found:
            raise ValueError(f"site={self!r} names tensors of a tree, but the input is one tensor; write gr.Input().")
        for name in self.names:
            if name not in found:
                raise ValueError(f"the input has no tensor named {name!r}; it has {', '.join(map(repr, found))}.")
        paths = list(self.names) or [path for path, tensor in found.items() if tensor.is_floating_point()]
        if not paths:  # the guard for numbers names the dtype that arrived
            paths = list(found)[:1]
        for path in paths:
            where = _where(path)
            _checks.ordinary_tensor(found[path], where)
            _checks.real_tensor(found[path], where)
            batch = _checks.batch_size(found[paths[0]], _where(paths[0]))
            hint = f"Regularize those that hold one entry per example: site=gr.Input({paths[0]!r})."
            _checks.same_batch(found[path], batch, where, hint)
        return paths


@dataclass(frozen=True, init=False, repr=False)
class Hidden(Site):
    """Activations: what the named submodules return, at every call of each within one forward pass.

    With several names, J is the Jacobian with respect to all of them together, each as a variable of its own.

    Args:
        names: names as in ``model.named_modules()``; each submodule returns a tensor (B, ...) or a tree of them.

    Raises:
        ValueError: no name at all, or one that the model lacks (when the penalty runs).

    Example:
        >>> gr.SpectReg(0.03, site=gr.Hidden("embedding"))   # token ids have no gradient, their embedding has

    Source: the paper's sections 1 and 5 (future work: gradients with respect to hidden activations).
    """

    names: tuple[str, ...]

    def __init__(self, *names: str):
        object.__setattr__(self, "names", _strings(names, "Hidden"))
        if not names:
            raise ValueError('Hidden() got no submodule; write the names of one or more: gr.Hidden("layer2").')


@dataclass(frozen=True, init=False, repr=False)
class LayerInputs(Site):
    """What each layer with weights gets, dense or convolutional, in the order of their calls: h_0, h_1, ...

    Only a forward pass that is asked for them has them, and none that is run again.
    """


LAYERS_WITH_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def describe(site: Site) -> str:
    """A site in an error message."""
    if isinstance(site, LayerInputs):
        return "the inputs of layers"
    shown = ", ".join(map(repr, site.names))
    if isinstance(site, Hidden):
        return f"the activations of {shown}"
    return f"the input {shown}" if shown else "the input"


def given_tensors(x: Any, site: Site) -> list[Tensor]:
    """The tensors of a site in ``penalty.of(outputs, x)``; each must require grad."""
    if not isinstance(site, Input):
        raise ValueError(
            f"of(outputs, x) cannot find {describe(site)}. Write penalty(model, x), or leave the site out and pass the "
            "activations that the outputs were computed from: penalty.of(outputs, activations)."
        )
    found = dict(_tree.tensors(x))
    paths = site.select(x)
    for path in paths:
        if not found[path].requires_grad:
            raise ValueError(
                f"of(outputs, x) got {_where(path)} without requires_grad, so the outputs hold no path back to it. "
                "Write x.requires_grad_() before the model runs: x.requires_grad_(); outputs = model(x)."
            )
    return [found[path] for path in paths]


def _where(path: str) -> str:
    return f"x[{path!r}]" if path else "x"


def _strings(names: tuple[str, ...], owner: str) -> tuple[str, ...]:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{owner} got {name!r}; expected names as strings, as in gr.{owner}({'image'!r}).")
        if names.count(name) > 1:
            raise ValueError(f"{owner} got {name!r} {names.count(name)} times, which would count it so often.")
    return names
