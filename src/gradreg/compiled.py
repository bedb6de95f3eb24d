"""`CompiledObjective`: a whole training step, penalties and gradients included, as one compiled graph."""

import warnings
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gradreg import _checks, _random, _tree
from gradreg._traced import Plan, Step, Traced, autocast_devices, trace, without_autocast
from gradreg._types import InputTree, Labels
from gradreg.jacobian._composed import graph
from gradreg.objective import Objective, Result, _detached
from gradreg.penalties.base import next_step


class CompiledObjective:
    """An `Objective` with a model, whose step is compiled: ``step(x, y)`` is ``objective(model, x, y)`` and backward.

    torch.compile refuses a second derivative across the border of what it compiled. Here forward pass, penalties and
    the parameters' gradients are traced as one function, which holds no such border, and that is compiled; on a GPU
    with CUDA graphs.

    The first step of each kind of batch (shapes, dtypes, devices, training or evaluation mode, frozen parameters) is an
    ordinary one with all its checks; the second is compiled, the others reuse it. Gradients are added to ``.grad``;
    the optimizer stays yours. See docs/compiled.md for what is fixed in a graph.

    Args:
        objective: loss and penalties.
        model: a `torch.nn.Module`.
        backend: a backend of `torch.compile`, or "eager" for the traced graph without compilation.
        cuda_graphs: whether steps on a GPU are recorded as CUDA graphs (with "inductor").
        limit: number of kinds of batch to compile; others run as ordinary steps, with one warning.
        fallback: whether a model that cannot be traced or compiled goes on with ordinary steps, with one warning.

    Raises:
        TypeError: an objective or a model of another type.
        RuntimeError: the step cannot be compiled, where ``fallback=False``.

    Example:
        >>> objective = gr.Objective(torch.nn.functional.cross_entropy, gr.SpectReg(0.03))
        >>> step = gr.CompiledObjective(objective, model, backend="eager")
        >>> for x, y in loader:
        ...     result = step(x, y)
        ...     optimizer.step(); optimizer.zero_grad()

    Cost: compilation once for each kind of batch, seconds to tens of seconds with "inductor".
    """

    def __init__(
        self,
        objective: Objective,
        model: nn.Module,
        *,
        backend: str = "inductor",
        cuda_graphs: bool = True,
        limit: int = 8,
        fallback: bool = True,
    ):
        _checks.instance(objective, Objective, "objective", "gr.Objective(cross_entropy, gr.SpectReg(0.03))")
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"CompiledObjective got model={model!r}; expected a torch.nn.Module, whose parameters and buffers "
                "become inputs of the graph. Put the function into the forward of a module."
            )
        _checks.positive_integer(limit, "limit", "CompiledObjective")
        self.objective, self.model = objective, model
        self.backend, self.cuda_graphs, self.limit, self.fallback = backend, cuda_graphs, limit, fallback
        self._step = Step(objective, model)
        self._plans: dict[Hashable, Plan] = {}
        self._traced: dict[Hashable, Traced] = {}
        self._refused = False
        self._warned = False

    def __call__(
        self,
        x: InputTree,
        y: Labels,
        *,
        unlabeled: InputTree | None = None,
        generator: Generator | None = None,
        step: int | None = None,
    ) -> Result:
        """Runs a step: adds the gradients of the total to the parameters' ``.grad``.

        Args:
            x: inputs (B, ...), or a tree of them; `Args` for models of several arguments.
            y: labels.
            unlabeled: further inputs, see `Objective`.
            generator: draws the random projections; the same numbers as in an ordinary step.
            step: number of the training step, see `Objective`; by default that of the objective, which is counted on.

        Returns:
            The values, detached: ``backward()`` has been done.

        Raises:
            ValueError: an input that requires grad; what an `Objective` raises.
        """
        batch, generator = (x, y, unlabeled), generator or self.objective.generator
        for path, tensor in _tree.tensors(batch):
            if tensor.requires_grad:
                raise ValueError(
                    f"CompiledObjective got an input that requires grad ({_where(path)}), but it computes the "
                    "gradients of parameters alone. Pass it detached: x.detach()."
                )
        with _checks.grad_enabled():
            number = next_step(self.objective, step)
            assert number is not None
            if self._refused:
                return self._ordinary(batch, generator, number)
            try:
                key = self._key(batch, generator, number)
            except TypeError as error:
                self._refuse(error)
                return self._ordinary(batch, generator, number)
            if (traced := self._traced.get(key)) is not None:
                return traced.run(self._step, batch, generator)
            if (plan := self._plans.get(key)) is None:
                return self._first(key, batch, generator, number)
            if len(self._traced) >= self.limit:
                self._warn_of_many()
                return self._ordinary(batch, generator, number)
            return self._compiled(key, plan, batch, generator, number)

    def _key(self, batch: Any, generator: Generator | None, number: int) -> Hashable:
        """What a graph is made for."""
        return (
            _tree.layout(batch, _form),
            generator and generator.device,
            tuple(
                (id(penalty), name, penalty.weight, penalty.schedule.factor(number))
                for name, penalty in self.objective.due(number).items()
            ),
            tuple(self.objective.penalties),
            tuple((name, _form(p), p.requires_grad) for name, p in self._step.named_parameters()),
            tuple((name, _form(b)) for name, b in self._step.named_buffers()),
            tuple(
                (module.training, *module._forward_hooks, *module._forward_pre_hooks) for module in self.model.modules()
            ),
            tuple((device, torch.get_autocast_dtype(device)) for device in autocast_devices()),
        )

    def _ordinary(self, batch: Any, generator: Generator | None, number: int) -> Result:
        x, y, unlabeled = batch
        result = self.objective(self.model, x, y, unlabeled=unlabeled, generator=generator, step=number)
        with without_autocast():
            result.total.backward()
        return _detached(result)

    def _first(self, key: Hashable, batch: Any, generator: Generator | None, number: int) -> Result:
        """An ordinary step that notes what a trace must know."""
        x, y, unlabeled = batch
        with _random.recorded() as drawn:
            result = self.objective(self.model, x, y, unlabeled=unlabeled, generator=generator, step=number)
        strange = _untrained(result.total, self._step)
        with without_autocast():
            result.total.backward()
        if len(self._plans) >= 8 * self.limit:
            self._warn_of_many()
        elif strange is not None:
            self._refuse(strange)
        else:
            marker = torch.empty(0)
            try:
                _tree.layout(result.outputs, lambda tensor: None)
                self._plans[key] = Plan(
                    tuple(draw for draw, _ in drawn), _tree.replace(result.outputs, lambda path, tensor: marker)
                )
            except TypeError as error:
                self._refuse(error)
        return _detached(result)

    def _compiled(self, key: Hashable, plan: Plan, batch: Any, generator: Generator | None, number: int) -> Result:
        """Traces, compiles and runs a step; an ordinary one, from the same random states, if that fails."""
        states = _RandomStates(generator)
        try:
            traced = self._with_backend(trace(self._step, batch, generator, number, plan))
            states.restore()
            with warnings.catch_warnings():
                # inductor is imported and compiles at the first run, with a function that torch deprecates.
                warnings.filterwarnings("ignore", message=r"`torch\.jit\.script", category=DeprecationWarning)
                result = traced.run(self._step, batch, generator)
        except Exception as error:
            states.restore()
            self._refuse(error)
            return self._ordinary(batch, generator, number)
        self._traced[key] = traced
        return result

    def _with_backend(self, traced: Traced) -> Traced:
        if self.backend == "eager":
            return traced
        on_gpu = any(p.is_cuda for p in self.model.parameters())
        reused = self.cuda_graphs and on_gpu and self.backend == "inductor"
        # With torch's own random operations a dropout mask is that of an ordinary step.
        options: Any = {"fallback_random": True, "triton.cudagraphs": reused} if self.backend == "inductor" else None
        compiled: Any = torch.compile(
            traced.function, fullgraph=True, dynamic=False, backend=self.backend, options=options
        )
        return replace(traced, function=compiled, reused=reused)

    def _refuse(self, error: Exception) -> None:
        error = getattr(error, "inner_exception", error)  # torch.compile wraps what its backend raised
        cause = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        if not self.fallback:
            raise RuntimeError(
                f"CompiledObjective cannot compile a step of {type(self.model).__name__}. {cause}. Use the objective "
                "itself: objective(model, x, y).total.backward()."
            ) from error
        self._refused = True
        warnings.warn(
            f"CompiledObjective goes on with ordinary steps, which are as right: a step of {type(self.model).__name__} "
            f"cannot be compiled. {cause}",
            stacklevel=4,
        )

    def _warn_of_many(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"CompiledObjective met {len(self._plans)} kinds of batch (shapes, modes, weights of penalties) and "
                f"compiles {self.limit}; others run as ordinary steps. Pad to few shapes, write "
                "DataLoader(..., drop_last=True), or raise limit.",
                stacklevel=4,
            )

    def __repr__(self) -> str:
        return f"CompiledObjective({self.objective!r}, {type(self.model).__name__})"


class _RandomStates:
    """The global random states and a generator's, to go back to."""

    def __init__(self, generator: Generator | None):
        self._generator = generator
        self._own = generator and generator.get_state()
        self._cpu = torch.get_rng_state()
        self._gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._gpus:
            torch.cuda.set_rng_state_all(self._gpus)
        if self._generator is not None and self._own is not None:
            self._generator.set_state(self._own)


def _form(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _where(path: str) -> str:
    """The name of a tensor of (x, y, unlabeled)."""
    which, _, rest = path.partition(".")
    name = ("x", "y", "unlabeled")[int(which)]
    return f"{name}[{rest!r}]" if rest else name


def _untrained(total: Tensor, step: Step) -> Exception | None:
    """Why a graph would lose gradients or what is done with them, if it would."""
    known = set(step.parameters())
    for node in graph(total):
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter) and leaf not in known:
            return RuntimeError(
                f"the total depends on a parameter of shape {tuple(leaf.shape)} that belongs neither to the model nor "
                "to a loss module"
            )
    if isinstance(step.model, nn.parallel.DistributedDataParallel):
        return RuntimeError("DistributedDataParallel averages gradients in its own backward pass")
    if any(p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None) for p in known):
        return RuntimeError("a parameter has hooks on its gradient, which only a backward pass calls")
    return None
