"""A network and a batch as options of a command name them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradreg.commands.common import positive
from gradreg.study.config import StudyError


@contextmanager
def using_threads(wanted: int | None) -> Iterator[int]:
    """Within, torch uses so many threads; gives their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(positive(wanted, "--threads") if wanted is not None else before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def example(name: str) -> tuple[Any, Any]:
    """The user's batch, with labels where it has them.

    Raises:
        StudyError: there is none of that name, or what it gives is no batch.
    """
    from gradreg.study.networks import loaded

    if ":" not in name:
        raise StudyError(f"--example got {name!r}; expected module:function, as in mydata:batch or mydata.py:batch.")
    function = loaded(name)
    if not callable(function):
        raise StudyError(
            f"--example got {name!r}, an object of type {type(function).__name__}; expected a function without "
            "arguments that returns x or (x, y)."
        )
    try:
        found = function()
    except Exception as error:
        raise StudyError(
            f"--example {name}: {name.rpartition(':')[2]}() raised {type(error).__name__}: {error}"
        ) from error
    x, y = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not list(tensors(x)):
        raise StudyError(
            f"--example {name} returned {type(found).__name__} without a tensor; expected x (B, ...) or (x, y)."
        )
    return x, y


def shape_of(command: str, model: str, shape: tuple[int, ...] | None, x: Any) -> tuple[int, ...]:
    """One input's shape, as far as it is known.

    Args:
        command: the command that asks.
        model: the network's name.
        shape: what --shape said.
        x: the batch of --example.

    Raises:
        StudyError: nothing says it, or two options do.
    """
    from torch import Tensor

    usual = {"lenet5": (1, 28, 28), "small-cnn": (1, 8, 8), "convnet": (3, 32, 32), "resnet": (3, 32, 32)}
    usual["resnet18"] = (3, 64, 64)
    if shape is not None:
        if x is not None:
            raise StudyError("--shape and --example both say what inputs are; leave one of them out.")
        for side in shape:
            positive(side, "--shape")
        if not shape:
            raise StudyError("--shape got nothing; expected one input's shape, as in --shape 3 32 32.")
        return shape
    if x is not None:
        return tuple(x.shape[1:]) if isinstance(x, Tensor) else ()
    if model in usual:
        return usual[model]
    raise StudyError(
        f"gradreg {command} {model} does not know what inputs look like; write --shape for one input, as in "
        "--shape 3 32 32, or --example module:function for a batch of your own."
    )


def tensors(x: Any) -> Iterator[Any]:
    """The tensors of a batch."""
    from gradreg import _tree

    return (tensor for _, tensor in _tree.tensors(x))
