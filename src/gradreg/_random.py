"""Random numbers that a caller can seed: generators from (seed, purpose), and draws from a given generator."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


def generator_for(seed: int, purpose: str, device: torch.device | str = "cpu") -> Generator:
    """A generator of its own for each use of a seed, so that one use never shifts the numbers of another.

    Args:
        seed: the run's seed, any integer.
        purpose: what the numbers are for, such as ``"batches"`` or ``"dropout"``.
        device: where the generator draws.

    Example:
        >>> a, b = generator_for(0, "batches"), generator_for(0, "penalty")
        >>> bool((torch.rand(3, generator=a) != torch.rand(3, generator=b)).any())
        True
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class Draw:
    """What was drawn, so that it can be drawn again: N(0, 1) numbers, or integers 0 ... high-1 where ``high`` is given.

    Args:
        shape, dtype, device: of the numbers.
        high: for integers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    high: int | None = None

    def numbers(self, generator: Generator | None) -> Tensor:
        """New numbers, drawn where the generator lives."""
        device = self.device if generator is None else generator.device
        if self.high is None:
            drawn = torch.randn(self.shape, generator=generator, dtype=self.dtype, device=device)
        else:
            drawn = torch.randint(self.high, self.shape, generator=generator, device=device)
        return drawn.to(self.device)


def normal(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """N(0, 1) numbers of the dtype and device of ``like``, drawn where the generator lives."""
    return _drawn(Draw(tuple(shape), like.dtype, like.device), generator)


def integers(high: int, shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Uniform integers 0 ... high-1 on the device of ``like``."""
    return _drawn(Draw(tuple(shape), torch.int64, like.device, high), generator)


@contextmanager
def recorded() -> Iterator[list[tuple[Draw, Generator]]]:
    """Notes each draw from a caller's generator, and from which; those from the global random state are left out."""
    draws: list[tuple[Draw, Generator]] = []

    def note(draw: Draw, generator: Generator) -> Tensor:
        draws.append((draw, generator))
        return draw.numbers(generator)

    token = _tape.set(note)
    try:
        yield draws
    finally:
        _tape.reset(token)


@contextmanager
def handed_out(draws: Sequence[Draw], numbers: Sequence[Tensor]) -> Iterator[None]:
    """While a step is traced: in place of drawing from a caller's generator, which a graph cannot hold, gives these.

    Raises:
        RuntimeError: other draws are asked for than those recorded.
    """
    remaining = iter(zip(draws, numbers, strict=True))

    def give(draw: Draw, generator: Generator) -> Tensor:
        recorded, given = next(remaining, (None, None))
        if recorded != draw or given is None:
            raise RuntimeError(f"the step draws other random numbers when it is repeated: {draw}, {recorded} before")
        return given

    token, traced = _tape.set(give), _traced.set(True)
    try:
        yield
    finally:
        _traced.reset(traced)
        _tape.reset(token)


@contextmanager
def untouched(generator: Generator | None, devices: Sequence[torch.device]) -> Iterator[None]:
    """Within, numbers may be drawn at will: afterwards each random state is as before, and none of them was noted.

    Args:
        generator: of the caller.
        devices: whose global states are put back, beside the CPU's.
    """
    gpus = list({device: None for device in devices if device.type == "cuda"})
    state = None if generator is None else generator.get_state()
    token = _tape.set(None)
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        _tape.reset(token)
        if generator is not None and state is not None:
            generator.set_state(state)


def being_traced() -> bool:
    """Whether what runs is being traced, so that the state of a generator means nothing."""
    return _traced.get()


_tape: ContextVar[Callable[[Draw, Generator], Tensor] | None] = ContextVar("tape", default=None)
_traced: ContextVar[bool] = ContextVar("traced", default=False)


def _drawn(draw: Draw, generator: Generator | None) -> Tensor:
    tape = _tape.get()
    return draw.numbers(generator) if tape is None or generator is None else tape(draw, generator)
