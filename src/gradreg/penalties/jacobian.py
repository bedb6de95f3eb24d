"""`JacobianPenalty`: one choice for each of the five slots."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import Function

from gradreg import _checks, _random
from gradreg._types import Parts
from gradreg.jacobian._composed import graph, refuse_marked, refuse_wrong_rules
from gradreg.jacobian.engine import DoubleBackward, Engine, ForwardMode
from gradreg.jacobian.forward import attached
from gradreg.jacobian.linearization import Linearization, refuse_marked_at_end
from gradreg.jacobian.magnitude import Magnitude, SquaredL2, wide
from gradreg.jacobian.projection import Full, Projection
from gradreg.jacobian.site import Input, Site, given_tensors
from gradreg.jacobian.target import Logits, Target, as_target
from gradreg.penalties.auto import Auto, refuse_to_unmake
from gradreg.penalties.base import Penalty
from gradreg.penalties.passes import Seen
from gradreg.penalties.rows import bytes_held, mean_in_chunks
from gradreg.penalties.schedule import Factor


class JacobianPenalty(Penalty):
    """``weight * mean over the batch of magnitude(projection of J)``, with J = d target / d site.

    Args:
        weight: finite and >= 0.
        target: what is differentiated; a `Target`, or a function of the outputs. Default: `Logits()`.
        site: with respect to what; `Input()` or `Hidden(name, ...)`. Default: `Input()`.
        projection: which rows or columns of J. Default: `Full()`, every row.
        engine: how it is differentiated. Default: `DoubleBackward()`. "auto" takes the first of `DoubleBackward`,
            `ForwardMode` and `FiniteDifference` that works, tried at the first batch, and says which and why to the
            logger "gradreg"; from then on the penalty is one with that engine. See also `gradreg.probe`.
        magnitude: how a projected Jacobian becomes a number. Default: `SquaredL2()`.
        every, fraction, ramp: when it is taken, on which part of the batch, and how its weight moves: see `Penalty`.
        name: the key in ``result.terms``; by default the class's name in lower case.

    Raises:
        TypeError, ValueError: a slot that holds something else; inputs that cannot be differentiated.
        UnsupportedOperationError: an operation of the model lacks the derivative that the engine needs.

    Example:
        >>> penalty = gr.JacobianPenalty(0.03, projection=gr.Sphere(samples=2), site=gr.Hidden("layer2"))
        >>> penalty(model, x).backward()

    Source: the broader class of Jacobian-based regularizers of the paper's section 2.
    """

    def __init__(
        self,
        weight: float,
        *,
        target: Target | Callable[..., Tensor] | None = None,
        site: Site | None = None,
        projection: Projection | None = None,
        engine: Engine | Literal["auto"] | None = None,
        magnitude: Magnitude | None = None,
        every: int = 1,
        fraction: float = 1.0,
        ramp: Factor | int | None = None,
        name: str | None = None,
    ):
        super().__init__(weight, name or type(self).__name__.lower(), every=every, fraction=fraction, ramp=ramp)
        self.target = as_target(target if target is not None else Logits())
        self.site = site if site is not None else Input()
        self.projection = projection if projection is not None else Full()
        self.magnitude = magnitude if magnitude is not None else SquaredL2()
        _checks.instance(self.site, Site, "site", "gr.Input()")
        _checks.instance(self.projection, Projection, "projection", "gr.Normal()")
        self._engine = _as_engine(engine)
        _checks.instance(self.magnitude, Magnitude, "magnitude", "gr.SquaredL2()")
        self.needs_labels = self.target.needs_labels or self.projection.needs_labels
        self.sites = (self.site,)
        # Bytes that the graph of one row holds, by model and sizes.
        self._held: dict[Any, int] = {}

    @property
    def engine(self) -> Engine:
        """How it is differentiated; with "auto" the chosen engine, once there is one."""
        engine = self._engine
        return engine.chosen if isinstance(engine, Auto) and engine.chosen is not None else engine

    @property
    def repeats(self) -> bool:
        """Whether the engine runs the model again; with "auto" it may, until one is chosen."""
        return self.engine.repeats

    def value(self, seen: Seen) -> Tensor:
        """See `Penalty.value`."""
        return self._measured(seen).mean()

    def per_example(self, seen: Seen) -> Tensor:
        """See `Penalty.per_example`."""
        values = self._measured(seen)
        if values.ndim < 2:
            raise NotImplementedError(
                f"{self!r} took its rows in chunks, which gives the mean over the batch alone. Allow it more memory, "
                "as in gr.Full(memory=16)."
            )
        return values.mean(0)

    def _measured(self, seen: Seen) -> Tensor:
        """The magnitude of each sample and example, (samples, B); their mean, 0-dimensional, of rows in chunks."""
        if self.projection.needs_labels:
            _checks.labels_given(seen.y, type(self.projection).__name__)
        at = self._linearize(seen)
        if isinstance(self.engine, Auto):
            assert at.forward is not None, "penalties that may run the model again are called with the model"
            what = f"{type(self).__name__} of {type(at.forward.model).__name__}"
            self.engine.choose(lambda engine: self._attempt(engine, at, seen), what)
        with _explaining(self.engine, at):
            values = self._measure(at, seen)
            if values.requires_grad:
                _rehearse(values, at, self)
        return values

    def _attempt(self, engine: Engine, at: Linearization, seen: Seen) -> None:
        """Measures one row with an engine and differentiates that; no stream of random numbers moves."""
        assert at.forward is not None
        refuse_to_unmake(engine, at.forward.model)
        penalty = copy.copy(self)
        penalty._engine = engine
        devices = [tensor.device for tensor in (at.z, *at.tensors)]
        with _random.untouched(seen.generator, devices), _explaining(engine, at):
            magnitude = self.magnitude.of_batch(seen.x, seen.y)
            reference = magnitude.reference(seen.x, seen.y)
            row = next(iter(next(self.projection.draw(at, engine, seen.generator))))
            value = penalty._measure_one(at, row, magnitude, reference)
            if value.requires_grad:
                _differentiate(value, at, penalty)

    def _linearize(self, seen: Seen) -> Linearization:
        target = self._target(seen)
        if seen.forward is not None:
            return Linearization.of_pass(seen.forward, target, seen.y, self.site)
        tensors = given_tensors(seen.x, self.site)
        return Linearization.of_outputs(seen.outputs, tensors, target, seen.y, self.site)

    def _target(self, seen: Seen) -> Target:
        return self.target

    def _measure(self, at: Linearization, seen: Seen) -> Tensor:
        magnitude = self.magnitude.of_batch(seen.x, seen.y)
        reference = magnitude.reference(seen.x, seen.y)

        def measure(row: Parts) -> Tensor:
            return self._measure_one(at, row, magnitude, reference)

        if isinstance(self.projection, Full) and (at_once := self._rows_at_once(at, measure)):
            return mean_in_chunks(
                lambda: iter(next(self.projection.draw(at, self.engine, None))), measure, at, magnitude, at_once
            )
        values = []
        for sample in self.projection.draw(at, self.engine, seen.generator):
            measures = [measure(row) for row in sample]
            total = measures[0] if len(measures) == 1 else torch.stack(measures).sum(0)
            values.append(magnitude.finish(total))
        return torch.stack(values)

    def _rows_at_once(self, at: Linearization, measure: Callable[[Parts], Tensor]) -> int:
        """How many rows fit into the memory that is given; 0 where all of them do."""
        assert isinstance(self.projection, Full)
        side = self.projection.side_at(at)
        count = self.projection.count([at.z] if side == "output" else at.tensors)
        if count == 1:
            return 0
        model = None if at.forward is None else at.forward.model
        key = (id(model), at.z.shape, at.z.dtype, tuple(tensor.shape for tensor in at.tensors))
        if key not in self._held:
            row = next(iter(next(self.projection.draw(at, self.engine, None))))
            self._held[key] = bytes_held(lambda: measure(row))
        at_once = max(1, int(self.projection.memory * 2**30 / max(1, self._held[key])))
        return 0 if at_once >= count else at_once

    def _measure_one(
        self, at: Linearization, row: Parts, magnitude: Magnitude, reference: Tensor | Linearization | None
    ) -> Tensor:
        side = self.projection.side_at(at)
        given = None if reference is None else _projected(reference, at, row, side)
        if side == "output":
            return self.engine.measure_row(at, row[0], magnitude, given)
        if magnitude.of_rows:
            raise ValueError(
                f"{magnitude!r} measures gradients with respect to the input, but {self.projection!r} gave columns of "
                "the Jacobian. Use a projection on the output side, such as gr.Normal()."
            )
        column = self.engine.column(at, row)
        return magnitude.measure([column] if given is None else [column - given[0]])

    def __repr__(self) -> str:
        slots = {
            "target": (self.target, Logits()),
            "site": (self.site, Input()),
            "projection": (self.projection, Full()),
            "engine": (self.engine, DoubleBackward()),
            "magnitude": (self.magnitude, SquaredL2()),
        }
        chosen = [f"{slot}={value!r}" for slot, (value, usual) in slots.items() if value != usual]
        chosen += [str(self.schedule)] if str(self.schedule) else []
        return f"{type(self).__name__}({', '.join([f'{self.weight:g}', *chosen])})"


def _projected(reference: Tensor | Linearization, at: Linearization, row: Parts, side: str) -> Parts:
    """``w^T G`` or ``G v`` for the given Jacobian G of each example, without a graph."""
    if isinstance(reference, Tensor):
        return [_product(reference, at, row, side)]
    if reference.site != at.site:
        raise ValueError(
            f"DistanceToTeacher differentiates the teacher with respect to {reference.site!r}, the penalty its model "
            f"with respect to {at.site!r}; expected the same. Give both the same site."
        )
    if reference.z.shape != at.z.shape or [t.shape for t in reference.tensors] != [t.shape for t in at.tensors]:
        raise ValueError(
            f"DistanceToTeacher got a teacher with outputs of shape {tuple(reference.z.shape)}, differentiated by "
            f"{[tuple(t.shape) for t in reference.tensors]}, for a model with {tuple(at.z.shape)} by "
            f"{[tuple(t.shape) for t in at.tensors]}; expected the same. Give both the same target and the same inputs."
        )
    if side == "output":
        return reference.gradient(row[0].detach())
    try:
        return [DoubleBackward().column(reference, row).detach()]
    except (RuntimeError, NotImplementedError) as error:
        if not _checks.speaks_of_missing_derivative(error):
            raise
        raise _checks.UnsupportedOperationError(
            "the teacher has no second derivative, which a projection on the input side takes of it. Use a projection "
            f"on the output side, such as gr.Sphere(). (The cause: {str(error).splitlines()[0]})"
        ) from error


def _product(reference: Tensor, at: Linearization, row: Parts, side: str) -> Tensor:
    """``w^T G`` or ``G v`` for the given Jacobian G of each example, which is held whole."""
    if len(at.tensors) != 1:
        raise ValueError(
            f"DistanceToGradients needs a site of one tensor, got {len(at.tensors)}; name it: site=gr.Input('image')."
        )
    x, z = at.tensors[0], at.z
    expected = (*z.shape, *x.shape[1:])
    if reference.shape != expected:
        raise ValueError(
            f"DistanceToGradients got gradients of shape {tuple(reference.shape)}; expected {expected}: batch, then "
            f"the target's shape {tuple(z.shape[1:])}, then the input's {tuple(x.shape[1:])}."
        )
    matrix = reference.reshape(at.batch, z[0].numel(), x[0].numel()).to(x.dtype)
    vector = row[0].reshape(at.batch, -1).to(x.dtype)
    if side == "output":
        return torch.einsum("bm,bmn->bn", vector, matrix).reshape(x.shape)
    return torch.einsum("bmn,bn->bm", matrix, vector).reshape(z.shape)


def _as_engine(engine: Engine | Literal["auto"] | None) -> Engine:
    if engine is None:
        return DoubleBackward()
    if engine == "auto":
        return Auto()
    _checks.instance(engine, Engine, "engine", "gr.DoubleBackward() or engine='auto'")
    return engine


@contextmanager
def _explaining(engine: Engine, at: Linearization) -> Iterator[None]:
    """Says what torch's errors about derivatives mean for an engine."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        # torch does not say which autograd.Function has no forward-mode rule.
        suspects = sorted({name for node in graph(at.z) if (name := _without_jvp(node))})
        explained = engine.explain(error, suspects if "autograd.Function" in str(error) else ())
        if explained is error:
            raise
        raise explained from error


class _Outputs:
    """In the place of the model, where ``of(outputs, x)`` has none."""


# What each model has passed; a model that is gone takes its entry along.
_rehearsed: WeakKeyDictionary[Any, set[tuple[Any, ...]]] = WeakKeyDictionary()


def _rehearse(values: Tensor, at: Linearization, penalty: JacobianPenalty) -> None:
    """Differentiates the values once, the first time a model is met.

    An operation without a double backward shows itself only in the caller's own ``backward``, where its message could
    not be explained any more.
    """
    owner = _owner(at.forward.model) if at.forward is not None else _Outputs
    kinds = (type(penalty.engine), type(penalty.target), type(penalty.magnitude), penalty.projection.side)
    # Outputs without their model are known by the kinds of operations that made them.
    state = getattr(owner, "training", None) if at.forward else frozenset(type(node) for node in graph(at.z))
    rehearse_once(owner, (kinds, penalty.site, state), lambda: _differentiate(values, at, penalty))


def rehearse_once(owner: Any, key: tuple[Any, ...], rehearse: Callable[[], None]) -> None:
    """Rehearses unless the owner has passed with this key before."""
    try:
        passed = _rehearsed.setdefault(owner, set())
    except TypeError:  # no weak reference to be had: without memory a rehearsal would come at every step
        return
    if key not in passed:
        rehearse()
        passed.add(key)


def _differentiate(values: Tensor, at: Linearization, penalty: JacobianPenalty) -> None:
    """Differentiates the values once, and looks for what goes wrong without an error of torch's."""
    if penalty.engine.repeats:
        _check_repetition(at, penalty.engine)
    owner = _owner(at.forward.model) if at.forward is not None else _Outputs
    leaves = list(at.tensors)
    if isinstance(owner, torch.nn.Module):
        leaves += [parameter for parameter in owner.parameters() if parameter.requires_grad]
    value = values.sum()
    torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    refuse_marked(value, at.z)
    if isinstance(penalty.engine, DoubleBackward):
        refuse_marked_at_end(at)


def _check_repetition(at: Linearization, engine: Engine) -> None:
    """Runs the model once more, unchanged: what comes out otherwise would be divided by a small step."""
    tangents = isinstance(engine, ForwardMode)
    repeated = at.elsewhere(attached, at.tensors, tangents=tangents).z
    if tangents:
        refuse_wrong_rules(repeated, at.z)
        # Within forward mode torch may draw other random numbers.
        repeated = engine.along(at, [torch.zeros_like(tensor) for tensor in at.tensors])[0]
    z, again = wide(at.z.detach()), wide(repeated.detach())
    tolerance = 10 * torch.finfo(at.z.dtype).eps ** 0.5 * max(z.abs().max().item(), 1e-30)
    if not torch.allclose(z, again, rtol=0, atol=tolerance, equal_nan=True):
        raise ValueError(
            f"the model returns something else when it is run again on the same inputs (off by up to "
            f"{(z - again).abs().max():.2g}), so it keeps a state that gradreg cannot put back: a counter in forward, "
            "random numbers of its own. Call model.eval(), or use engine=gr.DoubleBackward(), which runs it once."
        )


def _without_jvp(node: Any) -> str | None:
    """The name of the autograd.Function behind a node, where it has no forward-mode rule."""
    function = getattr(node, "_forward_cls", None)
    if function is None or function.__module__.startswith("gradreg."):
        return None
    lacks = function.setup_context is Function.setup_context or function.jvp is Function.jvp
    return function.__name__ if lacks else None


def _owner(model: Any) -> Any:
    """What stays the same from step to step: the module itself, or a function's code (lambdas are made anew)."""
    if isinstance(model, functools.partial):
        model = model.func
    model = getattr(model, "__self__", model)
    return getattr(model, "__code__", model)
