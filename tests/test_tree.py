"""Input trees: every tensor is found under its path, and put back where it was in a tree of the same type."""

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from gradreg._tree import Args, replace, tensors


class Views(NamedTuple):
    """A typed namedtuple."""

    image: Any
    mask: Any = None


Pair = namedtuple("Pair", "left right")

A, B, C, D = (torch.tensor([float(i)]) for i in range(4))


class Batch(UserDict):  # type: ignore[type-arg]
    """A mapping that is no dict, as tokenizers return."""


class Inputs(dict):  # type: ignore[type-arg]
    """A dict of one's own."""


class Several(list):  # type: ignore[type-arg]
    """A list of one's own."""


# A tree, and its tensors by path in order.
TREES: dict[str, tuple[Any, dict[str, Tensor]]] = {
    "tensor": (A, {"": A}),
    "tuple": ((A, B), {"0": A, "1": B}),
    "list": ([A, B], {"0": A, "1": B}),
    "list of one's own": (Several([A, 1]), {"0": A}),
    "dict": ({"b": B, "a": A}, {"b": B, "a": A}),
    "dict with numbers": ({1: A, 0: {2: B}}, {"1": A, "0.2": B}),
    "ordered dict": (OrderedDict(x=A, y=(B,)), {"x": A, "y.0": B}),
    "default dict": (defaultdict(list, x=A, y=[B]), {"x": A, "y.0": B}),
    "dict of one's own": (Inputs(x=A), {"x": A}),
    "mapping": (Batch(ids=A, more={"mask": B}), {"ids": A, "more.mask": B}),
    "read-only mapping": (MappingProxyType({"x": A}), {"x": A}),
    "named tuple": (Views(A, mask=[B]), {"0": A, "1.0": B}),
    "untyped named tuple": (Pair(A, "right"), {"0": A}),
    "arguments": (Args(A, (B, C), mask=D), {"0": A, "1.0": B, "1.1": C, "mask": D}),
    "arguments by name": (Args(image=A, more={"mask": B}), {"image": A, "more.mask": B}),
    "deep": (
        {"a": [(A, {"b": Args(B, c=Views(C, D))})]},
        {"a.0.0": A, "a.0.1.b.0": B, "a.0.1.b.c.0": C, "a.0.1.b.c.1": D},
    ),
    "other leaves": ({"n": 3, "s": "ab", "none": None, "x": A, "f": len, "set": {1}, "r": range(2)}, {"x": A}),
    "the same tensor twice": ((A, A), {"0": A, "1": A}),
    "nothing": ((), {}),
    "empty branches": ({"a": [], "b": {}, "c": Args()}, {}),
    "a number": (3, {}),
    "a parameter": ([torch.nn.Parameter(A)], {"0": A}),
}
EVERY = pytest.mark.parametrize(("tree", "expected"), TREES.values(), ids=TREES)


def assert_same_tree(found: Any, expected: Any, leaf: Callable[[Any, Any], bool]) -> None:
    """Types, keys, order and leaves, all the way down."""
    assert type(found) is type(expected)
    if isinstance(expected, Args):
        assert_same_tree(found.args, expected.args, leaf)
        assert_same_tree(found.kwargs, expected.kwargs, leaf)
    elif isinstance(expected, (dict, UserDict, MappingProxyType)):
        assert list(found) == list(expected)
        for key in expected:
            assert_same_tree(found[key], expected[key], leaf)
    elif isinstance(expected, (tuple, list)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same_tree(one, other, leaf)
    else:
        assert leaf(found, expected)


@EVERY
def test_every_tensor_is_found_under_its_path_in_order(tree: Any, expected: dict[str, Tensor]) -> None:
    found = list(tensors(tree))
    assert [path for path, _ in found] == list(expected)
    for (_, tensor), other in zip(found, expected.values(), strict=True):
        assert torch.equal(tensor, other)


def test_the_tensors_are_those_of_the_tree_and_no_copies() -> None:
    assert next(tensors({"x": [A]}))[1] is A


@EVERY
def test_replace_asks_for_each_tensor_once_by_the_same_path(tree: Any, expected: dict[str, Tensor]) -> None:
    asked: list[tuple[str, Tensor]] = []

    def swap(path: str, tensor: Tensor) -> Tensor:
        asked.append((path, tensor))
        return tensor

    replace(tree, swap)
    assert [path for path, _ in asked] == list(expected)
    assert all(one is other for (_, one), (_, other) in zip(asked, tensors(tree), strict=True))


@EVERY
def test_replacing_each_tensor_by_itself_gives_an_equal_tree(tree: Any, expected: dict[str, Tensor]) -> None:
    """The same types, and the very same leaves, tensors or not."""
    assert_same_tree(replace(tree, lambda path, tensor: tensor), tree, lambda one, other: one is other)


@EVERY
def test_other_tensors_come_in_place_and_the_tree_is_left_alone(tree: Any, expected: dict[str, Tensor]) -> None:
    before = dict(tensors(tree))
    found = replace(tree, lambda path, tensor: tensor + 10)
    assert {path: tensor.item() for path, tensor in tensors(found)} == {k: v.item() + 10 for k, v in expected.items()}
    after = dict(tensors(tree))
    assert all(after[path] is tensor for path, tensor in before.items())


def test_a_default_dict_keeps_its_factory() -> None:
    found = replace(defaultdict(list, x=A), lambda path, tensor: tensor)
    assert found["missing"] == []


def test_a_prefix_comes_before_every_path() -> None:
    assert [path for path, _ in tensors({"a": [A]}, "inputs")] == ["inputs.a.0"]
    assert [path for path, _ in tensors(A, "inputs")] == ["inputs"]
    asked: list[str] = []
    replace({"a": [A]}, lambda path, tensor: asked.append(path) or tensor, "inputs")
    assert asked == ["inputs.a.0"]


def test_gradients_flow_through_a_replaced_tree() -> None:
    x = torch.ones(2, requires_grad=True)
    found = replace(Args([x], y=x), lambda path, tensor: tensor * (2 if path == "y" else 1))
    (gradient,) = torch.autograd.grad((found.args[0][0] + found.kwargs["y"]).sum(), x)
    assert gradient.tolist() == [3, 3]


def test_args_hold_what_a_call_would_get() -> None:
    given = Args(A, 2, mask=B)
    assert given.args == (A, 2)
    assert given.kwargs == {"mask": B}
    with pytest.raises(AttributeError):
        given.args = ()  # type: ignore[misc]
