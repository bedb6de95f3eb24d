"""The random numbers of a run that is being traced, given again to a second run.

Outside a trace the generator's state is put back instead. Within one no number is drawn yet: what the first run drew
becomes a value of the graph, which the second run uses once more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# What these return depends on nothing but the random state. Operations of one word give each other's numbers: torch
# writes the same dropout in another way within a forward-mode run.
_PURE = {
    "bernoulli": (aten.bernoulli_.float, aten.bernoulli.p, aten.native_dropout.default),
    "uniform": (aten.uniform_.default, aten.uniform.default, aten.rand.default, aten.rand_like.default),
    "normal": (aten.normal_.default, aten.normal_functional.default, aten.randn.default, aten.randn_like.default),
    "exponential": (aten.exponential_.default, aten.exponential.default),
    "integers": (aten.randint.default, aten.randint.low, aten.randint_like.default),
    "order": (aten.randperm.default,),
}
_WORDS = {operation: word for word, operations in _PURE.items() for operation in operations}


class Replay:
    """Notes the random numbers of one run and gives them to others, for a run that is being traced."""

    def __init__(self) -> None:
        self._drawn: list[tuple[str, Tensor]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Notes what is drawn."""
        with _Recording(self._drawn):
            yield

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Gives the numbers again, in the same order.

        Raises:
            NotImplementedError: a random operation whose result depends on more than the random state.
        """
        with _Repeating(list(self._drawn)):
            yield


class _Random(TorchDispatchMode):
    """Sees random operations; the others go on."""

    def __init__(self, drawn: list[tuple[str, Tensor]]):
        super().__init__()
        self.drawn = drawn

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or _without_dropout(func, args, kwargs):
            return func(*args, **kwargs)
        if func not in _WORDS:
            raise NotImplementedError(
                f"the model uses {func}, whose random numbers cannot be given to a second run within a compiled step"
            )
        return self.random(func, args, kwargs)

    def random(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError


class _Recording(_Random):
    def random(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        # A copy: masks are scaled in place.
        self.drawn.append((_WORDS[func], (result[1] if isinstance(result, tuple) else result).clone()))
        return result


class _Repeating(_Random):
    def random(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorded, numbers = self.drawn.pop(0) if self.drawn else ("nothing", None)
        if recorded != _WORDS[func] or numbers is None:
            raise NotImplementedError(f"the model draws other random numbers when it is run again: {func}, {recorded}")
        if func is aten.native_dropout.default:
            x, rate = args[0], args[1]
            scale = 0.0 if rate == 1 else 1 / (1 - rate)
            return x * numbers * scale, numbers.to(torch.bool)
        if func._schema.is_mutable:
            return args[0].copy_(numbers)
        # A mask of a fused dropout is of another dtype than the tensor that it stands for.
        return numbers.to(args[0].dtype, copy=True) if func is aten.bernoulli.p else numbers.clone()


def _without_dropout(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the operation has a dropout that is off, as attention has in evaluation mode."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if "train" in given:
        return not given["train"]
    if "dropout_p" in names or "dropout" in names:
        return not given.get("dropout_p", given.get("dropout", 0.0))
    return False
