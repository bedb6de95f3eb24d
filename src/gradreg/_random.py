"""Random numbers that a caller can seed: generators from (seed, purpose), and draws from a given generator."""

import hashlib
from collections.abc import Sequence

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


def normal(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """N(0, 1) numbers of the dtype and device of ``like``, drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, dtype=like.dtype, device=device).to(like.device)


def integers(high: int, shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Uniform integers 0 ... high-1 on the device of ``like``."""
    device = like.device if generator is None else generator.device
    return torch.randint(high, tuple(shape), generator=generator, device=device).to(like.device)
