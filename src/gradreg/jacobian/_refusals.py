"""What penalties cannot serve: what is found beforehand, and what torch's errors about it mean."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradreg import _tree
from gradreg._checks import UnsupportedOperationError
from gradreg.jacobian._composed import graph


def refuse_static_graph(model: Any, outputs: Any) -> None:
    """DistributedDataParallel with a static graph takes the first derivative of its outputs for the backward pass.

    It then averages nothing over the processes, without a word.

    Args:
        model: a module, or a function that may call one.
        outputs: what it returned.

    Raises:
        ValueError: names the remedy.
    """
    if isinstance(model, nn.Module):
        static = any(isinstance(part, DistributedDataParallel) and part.static_graph for part in model.modules())
    else:
        static = _distributed() and any(map(_of_static_graph, _nodes(outputs)))
    if static:
        raise ValueError(
            "DistributedDataParallel(static_graph=True) does not average gradients over the processes once a penalty, "
            "or SAM, has differentiated its outputs before backward(), and torch raises no error. Leave static_graph "
            "out; where a step does not use every parameter write find_unused_parameters=True."
        )


def refuse_sharded(model: Any, *, tangents: bool) -> None:
    """Sharded models free parameters after the first backward pass; a double backward would need them once more.

    Args:
        model: a module, or a function.
        tangents: whether a forward pass with tangents is to come, in place of a double backward.

    Raises:
        UnsupportedOperationError: names the engines that work.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")  # its import is slow; a sharded model has imported it
    if fsdp is None or not isinstance(model, nn.Module):
        return
    kinds = {type(part) for part in model.modules()}
    older = any(issubclass(kind, fsdp.FullyShardedDataParallel) for kind in kinds)
    newer = hasattr(fsdp, "FSDPModule") and any(issubclass(kind, fsdp.FSDPModule) for kind in kinds)
    if older and tangents:
        raise UnsupportedOperationError(
            "FullyShardedDataParallel cannot carry the tangents of forward mode, which engine=ForwardMode() needs. Use "
            "torch.distributed.fsdp.fully_shard, with which ForwardMode() and FiniteDifference() work."
        )
    if (older or newer) and not tangents:
        raise UnsupportedOperationError(
            f"{'FullyShardedDataParallel' if older else 'fully_shard'} (FSDP) frees the parameters after the first "
            "backward pass, so a double backward, which engine=DoubleBackward() needs, does not find them. Use "
            f"engine={'' if older else 'gr.ForwardMode(), exact as well, or '}gr.FiniteDifference(), or plain "
            "DistributedDataParallel."
        )


def refuse_compiled_site(model: nn.Module, site: nn.Module, name: str) -> None:
    """Hooks within compiled code are left out, or come too late to make the site a part of the graph.

    Args:
        model: that is penalized.
        site: a submodule, and its name.
        name: as it was given.

    Raises:
        ValueError: the site is within a compiled part of the model.
    """
    for part in model.modules():
        inside = part._compiled_call_impl is not None or (type(part).__name__ == "OptimizedModule" and part is not site)
        if inside and any(module is site for module in part.modules()):
            raise ValueError(
                f"the site {name!r} is within what torch.compile has compiled, where its activations cannot be seen. "
                "Pass the module that is not compiled, and compile the whole step: gr.CompiledObjective; or compile "
                "such parts of the model as do not hold the site."
            )


def refuse_lost_graph(first: Tensor, second: Tensor, site: list[Tensor]) -> None:
    """A second run whose result has no graph would leave the parameters without the penalty's gradient.

    Args:
        first: z of the first run.
        second: z of the second.
        site: the tensors that the first was differentiated with respect to.

    Raises:
        UnsupportedOperationError: the first has a graph in parameters, the second has none.
    """
    if second.requires_grad or not torch.is_grad_enabled():
        return
    leaves = (node.variable for node in graph(first) if hasattr(node, "variable"))
    if any(leaf.requires_grad and not any(leaf is tensor for tensor in site) for leaf in leaves):
        raise UnsupportedOperationError(
            "the model lost its graph when it was run again, so the penalty would have no gradient; scripted models "
            "(torch.jit) do that. Use engine=gr.DoubleBackward(), or the module that is not scripted."
        )


def translated(error: Exception, engine: str) -> UnsupportedOperationError | None:
    """What an error of torch means that is not about a missing derivative; None where nothing is known of it."""
    text = str(error)
    cause = f"(The cause: {text.splitlines()[0] if text else type(error).__name__})"
    if "use_reentrant=True" in text:
        return UnsupportedOperationError(
            "the model checkpoints activations with use_reentrant=True, through which torch.autograd.grad cannot go, "
            "and every penalty needs that. Write torch.utils.checkpoint.checkpoint(..., use_reentrant=False); for "
            f'models of transformers gradient_checkpointing_enable({{"use_reentrant": False}}). {cause}'
        )
    if type(error).__name__ == "CheckpointError":
        return UnsupportedOperationError(
            "the model checkpoints activations, and what is run again in the backward pass is not what "
            f"engine={engine} ran there: it carried tangents, or batch statistics held fixed. Use "
            "engine=gr.DoubleBackward(), or, where no batch normalization in training mode is checkpointed, "
            f"engine=gr.FiniteDifference(). {cause}"
        )
    if "donated buffers" in text:
        return UnsupportedOperationError(
            "a model compiled by torch.compile gives up buffers with its first backward pass, which every penalty "
            "needs once more. Before the model is first called set torch._functorch.config.donated_buffer = False, for "
            "the first-order engines; or pass the module that is not compiled and compile the whole step: "
            f"gr.CompiledObjective. {cause}"
        )
    if "functorch transform" in text and "autograd.Function" not in text:
        return UnsupportedOperationError(
            f"the model does something that forward mode cannot follow, which engine={engine} needs. Use "
            f"engine=gr.DoubleBackward() or engine=gr.FiniteDifference(). {cause}"
        )
    return None


def note_on_dtypes(error: RuntimeError, model: Any, x: Any) -> None:
    """Says so where inputs and parameters are of different precision, which torch's error may be about."""
    if not isinstance(model, nn.Module):
        return
    given = {tensor.dtype for _, tensor in _tree.tensors(x) if tensor.is_floating_point()}
    held = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(given) == len(held) == 1 and given != held:
        (of_x,), (of_parameters,) = given, held
        error.add_note(
            f"gradreg calls the model with its inputs as they are: these are {of_x}, the parameters {of_parameters}. "
            f"Write x.to({of_parameters}), or model.to({of_x})."
        )


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _nodes(outputs: Any) -> Iterator[Any]:
    for _, tensor in _tree.tensors(outputs):
        yield from graph(tensor)


def _of_static_graph(node: Any) -> bool:
    model = getattr(node, "ddp_weakref", lambda: None)()
    return model is not None and model.static_graph
