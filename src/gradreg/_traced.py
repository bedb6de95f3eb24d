"""One training step as a graph: forward pass, penalties and the parameters' gradients traced as one function."""

import random
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from gradreg import _random, _tree
from gradreg._random import Draw
from gradreg.objective import Objective, Result


class Step(nn.Module):
    """The model, and the loss where that is a module, under names by which their tensors can be exchanged."""

    def __init__(self, objective: Objective, model: nn.Module):
        super().__init__()
        self.objective = objective
        self.model = model
        self.loss = objective.loss if isinstance(objective.loss, nn.Module) else None

    def forward(
        self, batch: tuple[Any, Any, Any], generator: Generator | None, number: int
    ) -> tuple[Result, dict[str, Tensor]]:
        """The result of the step of that number, and the buffers as it leaves them."""
        x, y, unlabeled = batch
        result = self.objective(self.model, x, y, unlabeled=unlabeled, generator=generator, step=number)
        return result, dict(self.named_buffers())


@dataclass(frozen=True)
class Plan:
    """What an ordinary step showed, which a trace must know beforehand.

    Args:
        draws: the random numbers from the caller's generator, in order.
        outputs: what the model returned; only the places of its tensors matter.
    """

    draws: tuple[Draw, ...]
    outputs: Any


@dataclass(frozen=True)
class Traced:
    """A step's graph: ``function(*parameters, *buffers, *inputs, *numbers)`` returns a flat list.

    Attributes:
        function: the graph, as it is or compiled.
        plan: see `Plan`.
        terms: names of the penalties.
        changed: of each buffer, whether the step changes it.
        reached: of each parameter, whether it has a gradient.
        reused: whether the function writes its results where those of its last call were, as CUDA graphs do.
    """

    function: Callable[..., Sequence[Tensor]]
    plan: Plan
    terms: tuple[str, ...]
    changed: tuple[bool, ...]
    reached: tuple[bool, ...]
    reused: bool = False

    def run(self, step: Step, batch: Any, generator: Generator | None) -> Result:
        """One step: adds to the gradients, sets the buffers, returns detached values."""
        parameters = [p for _, p in step.named_parameters()]
        buffers = [b for _, b in step.named_buffers()]
        inputs = [tensor for _, tensor in _tree.tensors(batch)]
        numbers = [draw.numbers(generator) for draw in self.plan.draws]
        given = [*parameters, *buffers, *inputs, *numbers]
        if self.reused:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad(), without_autocast():
            found = iter(self.function(*given))
            task, total = self._mine(next(found)), self._mine(next(found))
            terms = {name: self._mine(next(found)) for name in self.terms}
            outputs = _tree.replace(self.plan.outputs, lambda path, tensor: self._mine(next(found)))
            for buffer, changed in zip(buffers, self.changed, strict=True):
                new = next(found)
                if changed:
                    buffer.copy_(new)
            reached = [p for p, has in zip(parameters, self.reached, strict=True) if has]
            _accumulate(reached, list(found), given, copy=self.reused)
        return Result(total, task, terms, outputs)

    def _mine(self, tensor: Tensor) -> Tensor:
        return tensor.clone() if self.reused else tensor


def without_autocast() -> ExitStack:
    """A context without autocast: a graph holds its own casts, and backward passes run outside it."""
    stack = ExitStack()
    for device in autocast_devices():
        stack.enter_context(torch.autocast(device, enabled=False))
    return stack


def autocast_devices() -> list[str]:
    """Kinds of device for which autocast is on."""
    return [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]


def trace(step: Step, batch: Any, generator: Generator | None, number: int, plan: Plan) -> Traced:
    """The graph of a step for batches like this one; leaves parameters, buffers and random states as they are.

    Args:
        step: the model with its objective.
        batch: x, y and unlabelled inputs.
        generator: where projections are drawn; the graph takes them as inputs.
        number: of the step, for the schedules of penalties.
        plan: from an ordinary step on such a batch.

    Raises:
        Exception: whatever stops a trace: branches on values, operations without a rule for shapes alone, state of
            the model that a graph cannot hold.
    """
    parameters, buffers = dict(step.named_parameters()), dict(step.named_buffers())
    inputs = [tensor for _, tensor in _tree.tensors(batch)]
    numbers = [torch.empty(d.shape, dtype=torch.int64 if d.high else d.dtype, device=d.device) for d in plan.draws]
    names: dict[str, tuple[Any, ...]] = {}

    def function(*flat: Tensor) -> list[Tensor]:
        rest = iter(flat)
        p = {name: next(rest).detach().requires_grad_(old.requires_grad) for name, old in parameters.items()}
        b = {name: next(rest).clone() for name in buffers}
        own = _tree.replace(batch, lambda path, tensor: next(rest))
        with _random.handed_out(plan.draws, list(rest)), _Guard():
            result, after = torch.func.functional_call(step, {**p, **b}, (own, generator, number))
        wanted = [tensor for tensor in p.values() if tensor.requires_grad]
        with without_autocast():
            gradients = iter(torch.autograd.grad(result.total, wanted, allow_unused=True))
        by_parameter = [next(gradients) if tensor.requires_grad else None for tensor in p.values()]
        outputs = dict(_tree.tensors(result.outputs))
        if list(outputs) != [path for path, _ in _tree.tensors(plan.outputs)]:
            raise RuntimeError("the model returns another tree of tensors when it runs again")
        names["terms"] = tuple(result.terms)
        names["reached"] = tuple(gradient is not None for gradient in by_parameter)
        values = [result.task, result.total, *result.terms.values(), *outputs.values(), *(after[name] for name in b)]
        return [v.detach() for v in values] + [g for g in by_parameter if g is not None]

    with _OwnState(step), torch.backends.cudnn.flags(enabled=False):
        # Without cuDNN batch normalization is one operation on all devices. Only that choice is lost: a convolution
        # is traced as such, and takes cuDNN's when the graph runs.
        graph = make_fx(function, _DECOMPOSED, tracing_mode="fake", _allow_non_fake_inputs=True)(
            *parameters.values(), *buffers.values(), *inputs, *numbers
        )
    _refuse_held(graph)
    _allow_other_layouts(graph)
    changed = _changed(graph, len(parameters), len(buffers), 2 + len(names["terms"]) + len(_paths(plan.outputs)))
    # Not the module's own call: what that adds to errors hides them once it is compiled.
    return Traced(graph.forward, plan, names["terms"], changed, names["reached"])


def _paths(tree: Any) -> list[str]:
    return [path for path, _ in _tree.tensors(tree)]


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float
) -> Any:
    """The same operation under the name that says that it writes to the running statistics."""
    if mean is None:
        return torch.ops.aten._native_batch_norm_legit.no_stats(x, weight, bias, training, momentum, eps)
    return torch.ops.aten._native_batch_norm_legit.default(x, weight, bias, mean, variance, training, momentum, eps)


_DECOMPOSED = {torch.ops.aten.native_batch_norm.default: _batch_norm}


def _changed(graph: GraphModule, parameters: int, buffers: int, before: int) -> tuple[bool, ...]:
    """Which buffers the graph changes: those it does not return as their own copy, or whose copy it may write to."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    returned: Any = graph.graph.output_node().args[0]
    found = []
    for index in range(buffers):
        (copy,) = list(placeholders[parameters + index].users)[:1]
        end = returned[before + index]
        while end is not copy and isinstance(end, Node) and end.target is torch.ops.aten.detach.default:
            end = end.args[0]
        found.append(end is not copy or any(_may_write(user, copy) for user in copy.users))
    return tuple(found)


def _allow_other_layouts(graph: GraphModule) -> None:
    """Views become reshapes, which are views wherever that is possible.

    The kernels that the graph runs with, cuDNN's above all, may lay out a result otherwise than the trace did. Where
    memory is written to, its views stay views: a copy would miss what is written.
    """
    roots: dict[Node, Node] = {}
    written: set[Node] = set()
    for node in graph.graph.nodes:
        aliased, writes = _memory_of(node)
        roots[node] = roots[aliased] if aliased is not None else node
        written |= {roots[other] for other in writes}
    for node, root in roots.items():
        if node.target is torch.ops.aten.view.default and root not in written:
            node.target = torch.ops.aten.reshape.default
    graph.recompile()


def _memory_of(node: Node) -> tuple[Node | None, list[Node]]:
    """The node whose memory a result may share, and those whose memory the operation writes to."""
    if node.op != "call_function":
        return None, []
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # an entry of a tuple
        return (node.args[0] if isinstance(node.args[0], Node) else None), []
    given = {**dict(zip([a.name for a in schema.arguments], node.args, strict=False)), **node.kwargs}
    marked = [(a.alias_info, given.get(a.name)) for a in schema.arguments if a.alias_info is not None]
    shared = [value for _, value in marked if isinstance(value, Node)]
    returned = any(r.alias_info is not None for r in schema.returns)
    return (shared[0] if returned and shared else None), [
        v for info, v in marked if info.is_write and isinstance(v, Node)
    ]


def _may_write(user: Node, tensor: Node) -> bool:
    if user.op == "output" or user.target is torch.ops.aten.detach.default:
        return False
    schema = getattr(user.target, "_schema", None)
    if schema is None:
        return True
    given = {**dict(zip([a.name for a in schema.arguments], user.args, strict=False)), **user.kwargs}
    return any(a.alias_info is not None and given.get(a.name) is tensor for a in schema.arguments)


def _refuse_held(graph: GraphModule) -> None:
    """Tensors that are neither parameters nor buffers are held by the graph and get no gradient."""
    for node in graph.graph.nodes:
        held = getattr(graph, str(node.target), None) if node.op == "get_attr" else None
        if not isinstance(held, Tensor):
            continue
        # A parameter of another network, a teacher's, is not trained here; the ordinary step has looked.
        if held.requires_grad and not isinstance(held, nn.Parameter):
            raise RuntimeError(
                f"the step uses a tensor of shape {tuple(held.shape)} that requires grad and is no parameter of the "
                "model, so it would get no gradient; make it a torch.nn.Parameter of the model"
            )


class _Guard(TorchDispatchMode):
    """Refuses, before they run, operations in place on tensors that the trace was not given: they would be done now."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            given = {**dict(zip([a.name for a in func._schema.arguments], args, strict=False)), **kwargs}
            for argument in func._schema.arguments:
                tensor = given.get(argument.name)
                written = argument.alias_info is not None and argument.alias_info.is_write
                if written and isinstance(tensor, Tensor) and not isinstance(tensor, FakeTensor):
                    raise RuntimeError(
                        f"the step writes to a tensor of shape {tuple(tensor.shape)} that is no buffer of the model; "
                        "register it as one"
                    )
        if isinstance(kwargs.get("generator"), Generator):
            raise RuntimeError(
                "the model or a penalty draws from a generator of its own, which a graph cannot hold; use torch's "
                "global random state"
            )
        return func(*args, **kwargs)


class _OwnState:
    """Refuses, and puts back, what a graph would silently hold fixed: numbers kept in Python."""

    def __init__(self, step: nn.Module):
        self.step = step

    def _state(self) -> dict[Any, Any]:
        kept: dict[Any, Any] = {
            (name, key): value
            for name, module in self.step.named_modules()
            for key, value in vars(module).items()
            if value is None or isinstance(value, (int, float, str, Tensor))
        }
        numpy: Any = sys.modules.get("numpy")
        kept["random"] = random.getstate()
        kept["numpy.random"] = numpy and [part if isinstance(part, (str, int, float)) else part.tobytes()
                                          for part in numpy.random.get_state()]  # fmt: skip
        return kept

    def __enter__(self) -> None:
        self.before = self._state()

    def __exit__(self, kind: Any, *exception: Any) -> None:
        after, modules = self._state(), dict(self.step.named_modules())
        moved = [key for key, value in self.before.items() if not _same(after.get(key), value)]
        for key in moved:
            if isinstance(key, tuple):
                setattr(modules[key[0]], key[1], self.before[key])
        if "random" in moved:
            random.setstate(self.before["random"])
        if moved and kind is None:
            shown = ", ".join(key if isinstance(key, str) else ".".join(filter(None, key)) for key in moved)
            raise RuntimeError(
                f"the model's forward moves {shown.replace('model.', '', 1)}: state in Python, which a graph would "
                "hold fixed. Keep it in a buffer, or use torch's random numbers"
            )


def _same(a: Any, b: Any) -> bool:
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)


def _accumulate(parameters: list[nn.Parameter], gradients: list[Tensor], given: list[Tensor], *, copy: bool) -> None:
    """Adds to ``.grad`` as a backward pass does."""
    taken = {tensor.untyped_storage().data_ptr() for tensor in given}
    sums, added = [], []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is not None:
            sums.append(parameter.grad)
            added.append(gradient)
            continue
        # Results may share memory with each other or with what was given; a parameter's gradient is its own.
        storage = gradient.untyped_storage().data_ptr()
        if copy or storage in taken or gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)  # noqa: PLW2901
        taken.add(storage)
        parameter.grad = gradient
    if sums:
        torch._foreach_add_(sums, added)  # pyright: ignore[reportPrivateImportUsage]
