"""One run of a model: its outputs, the tensors of each site, and how to run the same function again nearby.

"The same function" means: the same dropout mask (the random state is put back), the same batch statistics (those of the
first run, with their graph) and the same buffers, which are then left as after the first run. Without that, a finite
difference would divide the noise between two runs by a small step.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradreg import _checks, _random, _tree
from gradreg._types import InputTree, Model, Parts
from gradreg.jacobian import site as sites
from gradreg.jacobian._composed import SecondRun
from gradreg.jacobian._fast_modes import FastDerivatives, Phase, mark_private, suits
from gradreg.jacobian._refusals import note_on_dtypes, refuse_compiled_site, refuse_static_graph
from gradreg.jacobian._replay import Replay
from gradreg.jacobian._state import LayerState

Change = Callable[[Tensor, Tensor], Tensor]
"""``change(tensor, direction)``: the tensor moved, say."""


class ForwardPass:
    """A model run once, ready to be differentiated at its sites.

    Args:
        model: a module, or a function of the inputs.
        x: input tree; `Args` where the model takes several arguments.
        wanted: the sites at which derivatives will be asked for.
        repeatable: whether an engine will run the model again (costs a copy of the random state and of all buffers,
            and the statistics of batch-normalization layers that are in training mode).
        fast: whether operations are exchanged for ones whose second derivative is cheaper.

    Attributes:
        outputs: what the model returned.
        batch: number of examples B.
    """

    def __init__(
        self,
        model: Model,
        x: InputTree,
        wanted: Sequence[sites.Site],
        *,
        repeatable: bool = False,
        fast: bool = True,
    ):
        self.model, self.x = model, x
        for path, tensor in _tree.tensors(x):
            _checks.ordinary_tensor(tensor, f"x[{path!r}]" if path else "x")
        self._modules = _find(model, [s for s in wanted if isinstance(s, sites.Hidden)])
        paths = {path for s in wanted if isinstance(s, sites.Input) for path in s.select(x)}
        self._random = _random_state(x, model) if repeatable else None
        self._state = LayerState(model) if repeatable else None
        self.phase = Phase()
        leaves: dict[str, Tensor] = {}

        def differentiable(path: str, tensor: Tensor) -> Tensor:
            if path not in paths:
                return tensor
            leaves[path] = attached(tensor)
            # The model gets a copy: an operation in place must not change the site.
            copy = leaves[path].clone()
            if leaves[path].is_leaf and leaves[path] is not tensor:
                mark_private(copy)
            return copy

        with ExitStack() as stack:
            if self._state is not None:
                stack.enter_context(self._state.recording())
            if self._random is not None:
                stack.enter_context(self._random.recording())
            if wanted and fast and suits(model):
                stack.enter_context(FastDerivatives(self.phase))
            self._activations = stack.enter_context(self._watch())
            self._layers = stack.enter_context(self._watch_layers(wanted))
            self.outputs = call_model(model, _tree.replace(x, differentiable))
        if wanted:
            refuse_static_graph(model, self.outputs)
        self._leaves = leaves
        self.batch = self._batch_size()

    def tensors(self, site: sites.Site) -> Parts:
        """The tensors of a site, in a fixed order, part of the graph of `outputs`."""
        if isinstance(site, sites.Input):
            return [self._leaves[path] for path in site.select(self.x)]
        if isinstance(site, sites.LayerInputs):
            return self._layers
        assert isinstance(site, sites.Hidden)
        return _of_names(self._activations, site, self.batch)

    @property
    def couples_examples(self) -> bool:
        """Whether batch normalization in training mode makes each output depend on the other examples."""
        return self._state is not None and self._state.couples_examples

    def again(self, site: sites.Site, change: Change, direction: Parts, *, tangents: bool = False) -> tuple[Any, Parts]:
        """Runs the same function with ``change(tensor, direction)`` in place of each tensor of a site.

        Args:
            site: where.
            change: of each tensor.
            direction: one part for each tensor.
            tangents: whether the change carries tangents (forward mode).

        Returns:
            The outputs, and the tensors of the site as changed.
        """
        assert self._random is not None, "this forward pass was not made repeatable"
        assert self._state is not None
        changed: Parts = []
        remaining = iter(direction)

        def swap(tensor: Tensor) -> Tensor:
            changed.append(change(tensor, next(remaining)))
            return changed[-1]

        with ExitStack() as stack:
            stack.enter_context(self._random.restored())
            stack.enter_context(self._state.reused())
            stack.enter_context(SecondRun(tangents=tangents))
            if isinstance(site, sites.Input):
                # In the site's own order, which need not be the tree's.
                found = dict(_tree.tensors(self.x))
                found |= {path: swap(found[path]) for path in site.select(self.x)}
                x = _tree.replace(self.x, lambda path, _: found[path].clone())
            else:
                assert isinstance(site, sites.Hidden)
                x = self.x
                stack.enter_context(self._replacing(site, changed, change, direction))
            outputs = call_model(_within(self.model) if tangents else self.model, x)
        return outputs, changed

    def _batch_size(self) -> int:
        """Of the regularized inputs; without any, of the outputs, since inputs may hold more than examples."""
        known = list(self._leaves.values())
        known += [tensor for _, tensor in _tree.tensors(self.outputs) if tensor.ndim > 0]
        known += [tensor for _, tensor in _tree.tensors(self.x)]
        return _checks.batch_size(known[0], "x") if known else 1

    @contextmanager
    def _watch(self) -> Iterator[dict[str, Parts]]:
        """Collects the activations of the watched submodules, in the order of their calls."""
        seen: dict[str, Parts] = {name: [] for name in self._modules}

        def watch(name: str, tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            kept = attached(tensor)
            seen[name].append(kept)
            # The model goes on with a copy: an in-place operation behind this layer must not change the site.
            return kept.clone()

        with _hooked(self._modules, watch):
            yield seen

    @contextmanager
    def _watch_layers(self, wanted: Sequence[sites.Site]) -> Iterator[Parts]:
        """Collects the inputs of the layers with weights, in the order of their calls."""
        seen: Parts = []

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            seen.append(attached(args[0] if args else kwargs["input"]))
            copy = seen[-1].clone()
            if seen[-1].is_leaf:
                mark_private(copy)
            return ((copy, *args[1:]), kwargs) if args else (args, {**kwargs, "input": copy})

        layers: list[nn.Module] = []
        if isinstance(self.model, nn.Module) and any(isinstance(site, sites.LayerInputs) for site in wanted):
            layers = [layer for layer in self.model.modules() if isinstance(layer, sites.LAYERS_WITH_WEIGHTS)]
        handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _replacing(self, site: sites.Hidden, changed: Parts, change: Change, direction: Parts) -> Iterator[None]:
        """Changes the activations of a site; directions are sorted by name first, then by call."""
        counts = {name: len(self._activations[name]) for name in site.names}
        queues, start = {}, 0
        for name in site.names:
            queues[name] = list(direction[start : start + counts[name]])
            start += counts[name]
        collected: dict[str, Parts] = {name: [] for name in site.names}

        def swap(name: str, tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            collected[name].append(change(tensor, queues[name].pop(0)))
            return collected[name][-1].clone()

        with _hooked({name: self._modules[name] for name in site.names}, swap):
            yield
        changed.extend(tensor for name in site.names for tensor in collected[name])


def shift(tensor: Tensor, direction: Tensor) -> Tensor:
    """A change for `ForwardPass.again`: moves the tensor."""
    return tensor + direction


def attached(tensor: Tensor, _: Tensor | None = None) -> Tensor:
    """A change for `ForwardPass.again`: stays in place, as a node of its own that can be differentiated.

    A tensor of the caller's graph stays in that graph; it may be in use elsewhere, so it is not the site itself.
    """
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def call_model(model: Model, x: InputTree) -> Any:
    """What the model returns for an input tree; errors that a wrong type or form causes say so."""
    try:
        return model(*x.args, **x.kwargs) if isinstance(x, _tree.Args) else model(x)
    except RuntimeError as error:
        note_on_dtypes(error, model, x)
        raise
    except TypeError as error:
        if isinstance(x, (tuple, list, dict)) and "argument" in str(error):
            stars = "**x" if isinstance(x, dict) else "*x"
            error.add_note(
                f"gradreg calls model(x) with one {type(x).__name__}; for a model that takes its inputs as separate "
                f"arguments pass gr.Args({stars})."
            )
        raise


def _within(model: Model) -> Model:
    """What forward mode can run: DistributedDataParallel looks for unused parameters in a function without tangents.

    The first run has looked for them already.
    """
    if isinstance(model, DistributedDataParallel) and model.find_unused_parameters:
        return model.module
    return model


def _find(model: Model, hidden: list[sites.Hidden]) -> dict[str, nn.Module]:
    if not hidden:
        return {}
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"site=gr.Hidden(...) needs a torch.nn.Module, but the model is {type(model).__name__}. Pass the module "
            "itself, or hold the activations and call penalty.of(outputs, activations)."
        )
    known: dict[str, nn.Module] = {}
    layer: Any = model
    while isinstance(layer, nn.Module):  # the names of a model that was wrapped hold as well
        known = {**dict(layer.named_modules(remove_duplicate=False)), **known}
        layer = _wrapped(layer)
    for site in hidden:
        modules: dict[nn.Module, str] = {}
        for name in site.names:
            _checks.submodule_name(name, known)
            if (other := modules.setdefault(known[name], name)) != name:
                raise ValueError(
                    f"{other!r} and {name!r} are one submodule, which would count twice; write one of them."
                )
            refuse_compiled_site(model, known[name], name)
    return {name: known[name] for site in hidden for name in site.names}


def _wrapped(model: nn.Module) -> Any:
    """What a wrapper holds: DistributedDataParallel, torch.compile, Lightning Fabric."""
    if isinstance(model, DistributedDataParallel):
        return model.module
    return getattr(model, "_orig_mod", getattr(model, "_forward_module", None))


@contextmanager
def _hooked(modules: dict[str, nn.Module], swap: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    handles = []
    for name, module in modules.items():

        def hook(module: nn.Module, args: Any, output: Any, name: str = name) -> Any:
            return _tree.replace(output, lambda path, tensor: swap(name, tensor))

        handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_names(activations: dict[str, Parts], site: sites.Hidden, batch: int) -> Parts:
    found: Parts = []
    for name in site.names:
        if not activations[name]:
            raise ValueError(
                f"the submodule {name!r} returned no floating-point tensor in this forward pass; name one that the "
                "model calls and whose output it uses."
            )
        for tensor in activations[name]:
            _checks.same_batch(
                tensor,
                batch,
                f"the activation of {name!r}",
                "Penalties need the batch in the first dimension (recurrent layers: batch_first=True).",
            )
        found += activations[name]
    return found


def _random_state(x: InputTree, model: Model) -> "RandomState | Replay":
    # A trace has no random state to put back; it repeats the numbers themselves.
    return Replay() if _random.being_traced() else RandomState.of(x, model)


class RandomState:
    """The global random state before a run, of the CPU and of each GPU that the inputs or the model are on."""

    def __init__(self, devices: list[torch.device]):
        self._gpus = devices
        self._cpu = torch.get_rng_state()
        self._states = [torch.cuda.get_rng_state(device) for device in devices]

    @classmethod
    def of(cls, x: InputTree, model: Model) -> "RandomState":
        """What it is now, where inputs and model are."""
        tensors = [tensor for _, tensor in _tree.tensors(x)]
        if isinstance(model, nn.Module):
            tensors += list(model.parameters())[:1]
        return cls(list({tensor.device: None for tensor in tensors if tensor.is_cuda}))

    def recording(self) -> AbstractContextManager[None]:
        """Nothing to do: the state was kept before the run."""
        return nullcontext()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Puts the state back for a while; afterwards the caller's is as it was."""
        with torch.random.fork_rng(devices=self._gpus):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._gpus, self._states, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield
