"""Input trees: find the tensors in tuples, lists, dicts and `Args`, name them, and put others in their place."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, init=False)
class Args:
    """Inputs of a model that takes several arguments: ``model(*args, **kwargs)`` in place of ``model(x)``.

    Example:
        >>> import torch, gradreg as gr
        >>> model = torch.nn.Bilinear(2, 3, 4)
        >>> a, b = torch.randn(5, 2), torch.randn(5, 3)
        >>> gr.SpectReg(0.03)(model, gr.Args(a, b)).ndim
        0
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "kwargs", kwargs)


def tensors(tree: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a tree with its path: dict keys and positions joined by dots, such as ``"image"``, ``"0.mask"``.

    A bare tensor has the empty path.
    """
    if isinstance(tree, Tensor):
        yield prefix, tree
        return
    for key, child in _children(tree):
        yield from tensors(child, f"{prefix}.{key}" if prefix else str(key))


def replace(tree: Any, swap: Callable[[str, Tensor], Tensor], prefix: str = "") -> Any:
    """The same tree with ``swap(path, tensor)`` in place of each tensor."""
    if isinstance(tree, Tensor):
        return swap(prefix, tree)

    def below(key: object, child: Any) -> Any:
        return replace(child, swap, f"{prefix}.{key}" if prefix else str(key))

    if isinstance(tree, Args):
        args = [below(i, child) for i, child in enumerate(tree.args)]  # in order: *generator comes after **
        return Args(*args, **{key: below(key, child) for key, child in tree.kwargs.items()})
    if isinstance(tree, Mapping):
        items = {key: below(key, child) for key, child in tree.items()}
        if isinstance(tree, defaultdict):
            return defaultdict(tree.default_factory, items)
        return items if type(tree) is dict else type(tree)(items)  # type: ignore[call-arg]
    if isinstance(tree, (tuple, list)):
        children = [below(i, child) for i, child in enumerate(tree)]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)
    return tree


def layout(tree: Any, tensor: Callable[[Tensor], Hashable]) -> Hashable:
    """What tells a tree from others: its containers, their keys, ``tensor(t)`` for each tensor, and all other leaves.

    Raises:
        TypeError: a leaf that is not hashable.
    """
    if isinstance(tree, Tensor):
        return tensor(tree)
    if isinstance(tree, (Args, Mapping, tuple, list)):
        return type(tree), tuple((str(key), layout(child, tensor)) for key, child in _children(tree))
    hash(tree)
    return type(tree), tree


def _children(tree: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(tree, Args):
        yield from enumerate(tree.args)
        yield from tree.kwargs.items()
    elif isinstance(tree, Mapping):
        yield from tree.items()
    elif isinstance(tree, (tuple, list)):
        yield from enumerate(tree)
