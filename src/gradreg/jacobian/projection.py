"""Projection slot: which rows (or columns) of the Jacobian are measured.

On the output side a projection is one or more rows w, shaped as z, and the penalty measures w^T J; on the input side
it is one or more directions v, shaped as the site, and the penalty measures J v. A projection yields samples (which
are averaged); a sample yields rows (whose measures are added).

Every random projection carries the factor that makes E ||w^T J||^2 = ||J||_F^2 (the paper's Claim 1, section 2.4).
Input-side probes have the same expectation and, for normal numbers, the same variance of the value, but the variance
of their parameter gradient is about n/m times larger (n inputs, m outputs): prefer rows on the smaller side.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from gradreg import _checks, _random
from gradreg._types import Parts
from gradreg.jacobian.engine import Engine
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import along, norms

Rows = Iterable[Parts]
"""The rows of one sample, each a list with one tensor: (B, ...) as z; or directions, one tensor per site tensor."""


class Projection(ABC):
    """Yields the samples of a batch; each is an iterable of rows or directions."""

    needs_labels: ClassVar[bool] = False
    side: Literal["output", "input"] = "output"

    @abstractmethod
    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """The samples for the batch at hand."""

    def side_at(self, at: Linearization) -> Literal["output", "input"]:
        """The side of what is drawn for a batch."""
        return self.side


@dataclass(frozen=True)
class Full(Projection):
    """All of J, exact: every row, at one backward pass per output; or every column, where the site has fewer entries.

    For a target with one value per example, such as `Loss`, this is the gradient itself, at the price of one row. Where
    batch normalization couples examples rows are taken always, since columns would measure something else.

    Args:
        memory: GiB that the graphs of rows may hold at one time. Rows beyond that are differentiated in chunks, so that
            any number of outputs can be had; the penalty is then differentiable once, which is what training asks for.

    Example:
        >>> gr.JacobianPenalty(0.03, projection=gr.Full())(model, x).backward()    # FrobReg

    Source: FrobReg and JacReg, the paper's section 2.1.
    """

    memory: float = 4.0

    def __post_init__(self) -> None:
        _checks.not_negative(self.memory, "memory", "Full")

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """One sample: the unit rows, or the unit columns."""
        if self.side_at(at) == "output":
            yield ([row] for _, row in _units([at.z]))
        else:
            yield (
                [unit if part == index else torch.zeros_like(tensor) for part, tensor in enumerate(at.tensors)]
                for index, unit in _units(at.tensors)
            )

    def side_at(self, at: Linearization) -> Literal["output", "input"]:
        """The side with fewer entries."""
        columns = self.count(at.tensors) < self.count([at.z])
        return "input" if columns and not at.normalizes_batches else "output"

    @staticmethod
    def count(tensors: Parts) -> int:
        """Entries of one example."""
        return sum(tensor[0].numel() for tensor in tensors)


@dataclass(frozen=True)
class _Random(Projection):
    """Random rows or probes; see `Normal` for the arguments."""

    samples: int = 1
    per: Literal["example", "batch"] = "example"
    side: Literal["output", "input"] = "output"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        _checks.positive_integer(self.samples, "samples", owner)
        _checks.choice(self.per, ("example", "batch"), "per", owner)
        _checks.choice(self.side, ("output", "input"), "side", owner)

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """As many samples as asked for, of one row each."""
        like = [at.z.detach()] if self.side == "output" else [t.detach() for t in at.tensors]
        draws = 1 if self.per == "batch" else at.batch
        for _ in range(self.samples):
            numbers = self._numbers([(draws, *t.shape[1:]) for t in like], like, generator)
            yield [[row.expand_as(t) for row, t in zip(numbers, like, strict=True)]]

    @abstractmethod
    def _numbers(self, shapes: list[tuple[int, ...]], like: Parts, generator: Generator | None) -> Parts: ...


@dataclass(frozen=True)
class Normal(_Random):
    """Entries from N(0, 1).

    Args:
        samples: number of projections, averaged; the variance falls as 1/samples, the cost rises with it.
        per: "example" draws for each example by itself; "batch" draws once for all, as the paper's appendix A does.
        side: "output" for rows w^T J, w shaped as z; "input" for probes J v, v shaped as the site.

    Example:
        >>> gr.JacobianPenalty(0.03, projection=gr.Normal(samples=2))

    Source: SpectReg, the paper's section 2.1.
    """

    def _numbers(self, shapes: list[tuple[int, ...]], like: Parts, generator: Generator | None) -> Parts:
        return [_random.normal(shape, t, generator) for shape, t in zip(shapes, like, strict=True)]


@dataclass(frozen=True)
class Sphere(_Random):
    """Uniform on the sphere of radius sqrt(m): a unit vector times sqrt(m), m the number of entries.

    Args:
        samples, per, side: as for `Normal`.

    Example:
        >>> gr.JacobianPenalty(0.03, projection=gr.Sphere(samples=2))(model, x).backward()

    Source: spherical SpectReg, the paper's section 2.1, with the factor that keeps it unbiased.
    """

    def _numbers(self, shapes: list[tuple[int, ...]], like: Parts, generator: Generator | None) -> Parts:
        drawn = [_random.normal(shape, t, generator) for shape, t in zip(shapes, like, strict=True)]
        entries = sum(t[0].numel() for t in like)
        scale = entries**0.5 / norms(drawn)
        return [along(scale, row) * row for row in drawn]


@dataclass(frozen=True)
class Rademacher(_Random):
    """Entries +1 or -1 with equal chance.

    Args:
        samples, per, side: as for `Normal`.

    Example:
        >>> gr.JacobianPenalty(0.03, projection=gr.Rademacher())(model, x).backward()

    Source: Hutchinson 1989.
    """

    def _numbers(self, shapes: list[tuple[int, ...]], like: Parts, generator: Generator | None) -> Parts:
        signs = [_random.integers(2, shape, t, generator) for shape, t in zip(shapes, like, strict=True)]
        return [(2 * sign - 1).to(t.dtype) for sign, t in zip(signs, like, strict=True)]


@dataclass(frozen=True)
class RandomClass(Projection):
    """One row of J, drawn uniformly for each example, times sqrt(m). Class scores (B, m).

    Args:
        samples: number of rows, averaged.

    Example:
        >>> gr.JacobianPenalty(0.03, projection=gr.RandomClass())(model, x).backward()

    Source: the published scripts' random-class projection, with the factor that makes it unbiased.
    """

    samples: int = 1

    def __post_init__(self) -> None:
        _checks.positive_integer(self.samples, "samples", "RandomClass")

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """One unit row per sample, scaled."""
        z = _class_scores(at, "RandomClass")
        for _ in range(self.samples):
            index = _random.integers(z.shape[1], (z.shape[0],), z, generator)
            yield [[_one_hot(index, z) * z.shape[1] ** 0.5]]


@dataclass(frozen=True)
class TrueClass(Projection):
    """The row of the true class. Class scores (B, C) and class indices (B,).

    Example:
        >>> gr.JacobianPenalty(0.1, projection=gr.TrueClass())(model, x, y).backward()
    """

    needs_labels = True

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """One sample of one unit row per example."""
        z = _class_scores(at, "TrueClass")
        y = _class_indices(at.y, z, "TrueClass")
        yield [[_one_hot(y, z)]]


@dataclass(frozen=True)
class TopK(Projection):
    """The rows of the k largest outputs of each example, added. Class scores (B, C).

    Args:
        k: number of rows, at most C.

    Example:
        >>> gr.JacobianPenalty(0.1, projection=gr.TopK(2))(model, x).backward()
    """

    k: int = 1

    def __post_init__(self) -> None:
        _checks.positive_integer(self.k, "k", "TopK")

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """One sample of k unit rows."""
        z = _class_scores(at, "TopK")
        if self.k > z.shape[1]:
            raise ValueError(f"TopK got k={self.k} for {z.shape[1]} outputs; expected at most that many.")
        yield [[_one_hot(index, z)] for index in z.topk(self.k, dim=1).indices.unbind(1)]


@dataclass(frozen=True)
class ProbabilityWeighted(Projection):
    """The row ``w = softmax(z)``: the gradient of the expected class score, ``sum_k p_k dz_k/dx``.

    Args:
        class_dim: the dimension of the classes; by default 1, except that 3-dimensional outputs ask for it.

    Example:
        >>> gr.JacobianPenalty(0.1, projection=gr.ProbabilityWeighted())(model, x).backward()
    """

    class_dim: int | None = None

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """One row, with its graph."""
        dim = _checks.class_dimension(at.z, self.class_dim, "ProbabilityWeighted")
        yield [[torch.softmax(at.z, dim)]]


@dataclass(frozen=True)
class LossDirection(Projection):
    """The row ``w = p - y``, divided by the number of positions: on logits this is the gradient of cross-entropy.

    So ``JacobianPenalty(target=Logits(), projection=LossDirection())`` equals `DoubleBack`. The row keeps its graph:
    p depends on the parameters too.

    Args:
        class_dim: the dimension of the classes; by default 1, except that 3-dimensional outputs ask for it.

    Example:
        >>> gr.JacobianPenalty(50, projection=gr.LossDirection())(model, x, y).backward()    # DoubleBack

    Source: the paper's equation (5).
    """

    class_dim: int | None = None
    needs_labels = True

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """One row, with its graph."""
        z = at.z
        dim = _checks.class_dimension(z, self.class_dim, "LossDirection")
        _checks.class_labels(at.y, z, dim, "LossDirection")
        y = at.y
        if not y.is_floating_point():
            y = torch.nn.functional.one_hot(y.long(), z.shape[dim]).movedim(-1, dim)
        positions = z[0].numel() // z.shape[dim]
        yield [[(torch.softmax(z, dim) - y.to(z.dtype)) / positions]]


@dataclass(frozen=True)
class TopSingular(Projection):
    """The left singular vector of the largest singular value, by power iteration: measures ``sigma_max^2``.

    The vector is held fixed when the penalty is differentiated; at convergence that is exact. The start is random, so
    a small number of iterations gives a lower bound.

    Args:
        iterations: rounds of ``w <- J J^T w / ||...||``; each costs a product with J and one with J^T.

    Example:
        >>> gr.JacobianPenalty(0.1, projection=gr.TopSingular(iterations=5))(model, x).backward()

    Source: largest singular value as in Yoshida & Miyato 2017, here of the Jacobian.
    """

    iterations: int = 3

    def __post_init__(self) -> None:
        _checks.positive_integer(self.iterations, "iterations", "TopSingular")

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """One row."""
        base = at.uncoupled if engine.repeats else at
        row = _unit([_random.normal(at.z.shape, at.z, generator)])
        for _ in range(self.iterations):
            direction = _unit(base.gradient(row[0]))
            row = _unit([engine.column(at, direction).detach().to(at.z.dtype)])
        yield [row]


@dataclass(frozen=True)
class Tangents(Projection):
    """Given directions in the input, whose measures are added: ``sum_t ||J t||^2``.

    Args:
        directions: ``directions(x)`` returns a tensor (T, B, ...) for inputs x (B, ...); or that tensor itself.
        samples: None takes each direction; a number k takes, k times, their sum with random signs drawn for each
            example, and averages: ``||J sum_t s_t t||^2``, whose mean over the signs is the same. k products for T.

    Example:
        >>> shift_right = lambda x: (x.roll(1, -1) - x)[None]        # one tangent: a step to the right
        >>> gr.JacobianPenalty(0.1, projection=gr.Tangents(shift_right))

    Source: Simard et al. 1991 (TangentProp); the paper's section 3. The random signs are Hutchinson's (1989).
    """

    directions: Tensor | Callable[[Any], Tensor]
    samples: int | None = None
    side = "input"

    def __post_init__(self) -> None:
        if self.samples is not None:
            _checks.positive_integer(self.samples, "samples", "Tangents")

    def draw(self, at: Linearization, engine: Engine, generator: Generator | None) -> Iterator[Rows]:
        """One sample of T directions, or as many samples as asked for of one each."""
        if len(at.tensors) != 1:
            raise ValueError(
                f"Tangents needs a site of one tensor, got {len(at.tensors)}; name it: site=gr.Input('image')."
            )
        x = at.tensors[0].detach()
        given = self.directions(x) if callable(self.directions) else self.directions
        if given.ndim != x.ndim + 1 or given.shape[1:] != x.shape:
            raise ValueError(
                f"Tangents got directions of shape {tuple(given.shape)} for inputs of shape {tuple(x.shape)}; expected "
                f"(T, {', '.join(map(str, x.shape))}). For one direction write directions[None]."
            )
        directions = given.detach().to(x)
        if self.samples is None or len(directions) == 1:
            yield [[direction] for direction in directions]
            return
        for _ in range(self.samples):
            signs = 2 * _random.integers(2, tuple(directions.shape[:2]), x, generator) - 1
            yield [[torch.einsum("tb,tb...->b...", signs.to(x.dtype), directions)]]


def _units(tensors: Parts) -> Iterator[tuple[int, Tensor]]:
    """For each entry of an example: the tensor it belongs to, and such a tensor with ones there and zeros elsewhere."""
    for part, tensor in enumerate(tensors):
        for index in range(tensor[0].numel()):
            unit = torch.zeros_like(tensor, memory_format=torch.contiguous_format, requires_grad=False)
            unit.view(tensor.shape[0], -1)[:, index] = 1
            yield part, unit


def _unit(parts: Parts) -> Parts:
    norm = norms(parts)
    scale = torch.where(norm > 0, 1 / norm, 0)
    return [along(scale, part) * part for part in parts]


def _class_scores(at: Linearization, owner: str) -> Tensor:
    z = at.z.detach()
    if z.ndim != 2:
        raise ValueError(
            f"{owner} got outputs of shape {tuple(z.shape)}; expected class scores (B, C). Choose the position first, "
            "with a function target: target=lambda outputs: outputs[:, :, 0]."
        )
    return z


def _class_indices(y: Any, z: Tensor, owner: str) -> Tensor:
    _checks.labels_given(y, owner)
    if isinstance(y, Tensor) and y.is_floating_point():
        raise ValueError(f"{owner} got labels of dtype {y.dtype}; expected class indices (B,): write y.argmax(1).")
    _checks.class_labels(y, z, 1, owner)
    return y


def _one_hot(index: Tensor, z: Tensor) -> Tensor:
    return torch.zeros_like(z).scatter_(1, index.long()[:, None], 1)
