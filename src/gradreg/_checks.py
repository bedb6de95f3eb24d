"""One guard for each rule of the library: says what arrived, what was expected and what to write instead."""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor


class UnsupportedOperationError(RuntimeError):
    """An operation of the model cannot be differentiated in the way that the chosen engine needs.

    Attributes:
        operation: its name; None where the message alone says what is wrong.
        remedy: what to write instead, one or more ways; None in the same case.
    """

    def __init__(self, message: str, operation: str | None = None, remedy: str | None = None):
        super().__init__(message)
        self.operation, self.remedy = operation, remedy


def weight(value: float, owner: str) -> None:
    """A penalty's weight is a finite number >= 0."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(
            f"{owner} got weight={value!r} of type {type(value).__name__}; expected a number, as in {owner}(0.03)."
        )
    if math.isnan(value) or math.isinf(value):
        raise ValueError(f"{owner} got weight={value}; expected a finite number >= 0, as in {owner}(0.03).")
    if value < 0:
        raise ValueError(
            f"{owner} got weight={value}; a negative weight would reward steep functions. Write a number >= 0."
        )


def not_negative(value: float, name: str, owner: str) -> None:
    """Lengths and norms are finite numbers >= 0."""
    if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{owner} got {name}={value!r}; expected a finite number >= 0, as in {owner}({name}=1.0).")


def positive_integer(value: int, name: str, owner: str) -> None:
    """Counts, such as samples, are whole numbers >= 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{owner} got {name}={value!r}; expected a whole number >= 1, as in {owner}({name}=1).")


def step(value: int) -> None:
    """Steps are counted from 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"step={value!r}; expected the number of the training step, counted from 0.")


def part(value: float, name: str, owner: str) -> None:
    """Parts of a whole lie in (0, 1]."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError(f"{owner} got {name}={value!r}; expected a part > 0 and <= 1, as in {owner}({name}=0.5).")


def choice(value: str, allowed: Iterable[str], name: str, owner: str) -> None:
    """A word out of a short list."""
    allowed = tuple(allowed)
    if value not in allowed:
        words = " or ".join(repr(word) for word in allowed)
        raise ValueError(f"{owner} got {name}={value!r}; expected {words}.")


def instance(value: object, kind: type, slot: str, example: str) -> None:
    """A slot holds an object of its own kind; a class in place of an instance is the usual slip."""
    if isinstance(value, kind):
        return
    if isinstance(value, type) and issubclass(value, kind):
        raise TypeError(f"{slot} got the class {value.__name__}; write an instance: {slot}={value.__name__}(...).")
    raise TypeError(f"{slot} got {value!r}; expected a gradreg {kind.__name__}, as in {slot}={example}.")


def ordinary_tensor(tensor: Tensor, where: str) -> None:
    """Inference tensors can never be differentiated."""
    if tensor.is_inference():
        raise ValueError(
            f"{where} is an inference tensor (it was made under torch.inference_mode), which autograd refuses. "
            f"Make it under torch.no_grad instead, or pass {where}.clone() from outside inference_mode."
        )


_EMBEDDING = 'for token ids regularize the embedding: site=gr.Hidden("embedding")'
BETWEEN = "there is nothing between token ids: pass their embeddings as x, to a model that takes these"


def real_tensor(tensor: Tensor, where: str, tokens: str = _EMBEDDING) -> None:
    """Sites are real floating-point tensors.

    Args:
        tensor, where: what arrived, and its name.
        tokens: what to do about token ids.
    """
    if tensor.is_complex():
        raise TypeError(
            f"{where} has dtype {tensor.dtype}; penalties are defined for real inputs. "
            f"Pass torch.view_as_real({where}) and join the halves in the model."
        )
    if not tensor.is_floating_point():
        raise TypeError(
            f"{where} has dtype {tensor.dtype}; gradients need floating-point numbers. "
            f"For images write {where}.float() / 255; {tokens}."
        )


def batch_size(tensor: Tensor, where: str) -> int:
    """Every site holds a batch in its first dimension, with at least one example."""
    if tensor.ndim == 0:
        raise ValueError(
            f"{where} is a single number; expected a batch of shape (B, ...). For one example write {where}[None]."
        )
    if tensor.shape[0] == 0:
        raise ValueError(
            f"{where} has shape {tuple(tensor.shape)}: a batch of 0 examples has no mean. "
            "Skip empty batches, or write DataLoader(..., drop_last=True)."
        )
    return tensor.shape[0]


def same_batch(tensor: Tensor, batch: int, where: str, hint: str) -> None:
    """What belongs to a batch has its size as first dimension."""
    if tensor.ndim == 0 or tensor.shape[0] != batch:
        raise ValueError(f"{where} has shape {tuple(tensor.shape)}, but the batch has {batch} examples. {hint}")


def outputs_tensor(outputs: Any, what: str) -> Tensor:
    """Targets other than functions read a plain tensor of outputs, or the ``.logits`` of an object that holds them."""
    if isinstance(outputs, Tensor):
        return outputs
    logits = getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise TypeError(
        f"the model returned {type(outputs).__name__}, but {what} needs a tensor. Say which tensor you mean: "
        "target=lambda outputs: outputs.logits (or outputs[0], outputs['logits']); where there is no target to choose, "
        "call the penalty on lambda x: model(x).logits."
    )


def class_dimension(z: Tensor, given: int | None, owner: str) -> int:
    """Where the classes are: dimension 1 of (B, C) and (B, C, H, W); for the rest the caller says so."""
    if given is not None:
        if not -z.ndim <= given < z.ndim or given % z.ndim == 0:
            raise ValueError(
                f"{owner} got class_dim={given} for outputs of shape {tuple(z.shape)}; expected a dimension "
                f"between 1 and {z.ndim - 1} (dimension 0 is the batch)."
            )
        return given % z.ndim
    if z.ndim in (2, 4, 5):
        return 1
    if z.ndim == 3:
        raise ValueError(
            f"{owner} got outputs of shape {tuple(z.shape)}, in which the classes could be dimension 1 or 2. "
            f"Write class_dim=2 for sequences (B, T, C), class_dim=1 for (B, C, T), where {owner} or the preset that "
            "uses it is made."
        )
    raise ValueError(
        f"{owner} got outputs of shape {tuple(z.shape)}; expected class scores (B, C, ...). For one score per "
        "example (B,) regularize it as it is: target=gr.Logits()."
    )


def labels_given(labels: object, owner: str) -> None:
    """Some targets and projections cannot do without labels."""
    if labels is None:
        raise ValueError(
            f"{owner} needs labels, and none were given: write penalty(model, x, y). "
            "For unlabelled inputs use a penalty that needs none, such as gr.SpectReg."
        )


def label_batch(labels: object, batch: int) -> None:
    """Labels belong to the examples of the batch, one by one."""
    if isinstance(labels, Tensor):
        same_batch(labels, batch, "y", "Pass the labels of this batch, one entry per example.")


def class_labels(labels: Tensor, z: Tensor, dim: int, owner: str) -> None:
    """Class indices have the outputs' shape without the class dimension; class probabilities have it whole."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{owner} got labels of type {type(labels).__name__}; expected a tensor: torch.as_tensor(y).")
    indices = z.shape[:dim] + z.shape[dim + 1 :]
    expected = z.shape if labels.is_floating_point() else indices
    if labels.shape != expected:
        raise ValueError(
            f"{owner} got labels of shape {tuple(labels.shape)} and dtype {labels.dtype} for outputs of shape "
            f"{tuple(z.shape)}; expected class indices of shape {tuple(indices)} or class probabilities of shape "
            f"{tuple(z.shape)}. For labels of shape (B, 1) write y.squeeze(1)."
        )


def submodule_name(name: str, known: Iterable[str]) -> None:
    """A hidden site is named as in `model.named_modules()`."""
    known = [other for other in known if other]
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3)
    shown = ", ".join(repr(other) for other in (near or known[:8])) or "none"
    raise ValueError(
        f"the model has no submodule named {name!r}; "
        + (f"did you mean {shown}?" if near else f"it has {shown}{', ...' if len(known) > 8 else ''}.")
        + " Names are those of model.named_modules()."
    )


def independent_of_site(site: str) -> ValueError:
    """The error for a target without any path back to the site."""
    return ValueError(
        f"the target does not depend on {site}: no gradient flows back to it. Look in the model for .detach(), "
        "torch.no_grad, argmax, rounding or a round trip through numpy; with penalty.of(outputs, x), x must require "
        "grad before the model runs: x.requires_grad_(); outputs = model(x)."
    )


def unsupported(error: Exception, engine: str, others: str, suspects: Sequence[str] = ()) -> UnsupportedOperationError:
    """Names the operation that stopped an engine, and the engines that do without what it lacks.

    Args:
        error: torch's.
        engine: the engine, as it is written.
        others: which engines to use.
        suspects: the model's operations that are known to lack what is needed, for an error that names none.
    """
    text = str(error)
    operation = operation_in(text) or " and ".join(suspects) or "an operation of the model"
    remedy = f"Use {others}"
    if "attention" in operation:
        remedy += (
            ", or run the forward pass with the math kernel: "
            "with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
        )
    elif "cudnn" in operation.lower() and "rnn" in operation.lower():
        remedy += ", or run the RNN with cuDNN off: with torch.backends.cudnn.flags(enabled=False)"
    elif operation == COMPILED:
        remedy += ", or pass the module that is not compiled and compile the whole step: gr.CompiledObjective"
    elif "once_differentiable" in text:
        remedy += ", or write its backward in operations of torch, without @once_differentiable"
    elif suspects:
        remedy += ", or give it setup_context and jvp"
    lack = "forward-mode rule" if "forward AD" in text or "ForwardMode" in engine else "double backward"
    return UnsupportedOperationError(
        f"{operation} has no {lack}, which engine={engine} needs. {remedy}. (The cause: {text.splitlines()[0]})",
        operation,
        remedy,
    )


_LACKS = (
    "derivative for ",
    "once_differentiable",
    "forward AD",
    "double backward",
    "jvp",
    "second derivative",
)


def speaks_of_missing_derivative(error: Exception) -> bool:
    """Whether an error of torch is about a derivative that it does not have."""
    return any(sign in str(error) for sign in _LACKS)


COMPILED = "a model compiled by torch.compile"


def operation_in(text: str) -> str | None:
    """The operation that an error of torch names; None if it names none."""
    words = text.replace("Trying to use forward AD with ", "derivative for ").split()
    if "derivative" in words and words.index("derivative") + 2 < len(words):
        return words[words.index("derivative") + 2].strip("'\"")
    if "once_differentiable" in text:
        return text.split(" is marked @once", maxsplit=1)[0]
    if "RNN" in text:
        return "cuDNN's RNN"
    if "aot_autograd" in text or "torch.compile" in text:
        return COMPILED
    return None


def shapes(outputs: object, labels: object) -> str:
    """What a loss was called with, for its error message."""

    def describe(value: object) -> str:
        if isinstance(value, Tensor):
            return f"shape {tuple(value.shape)} and dtype {value.dtype}"
        return f"type {type(value).__name__}"

    return f"outputs of {describe(outputs)}, labels of {describe(labels)}"


def grad_enabled() -> Any:
    """A context in which autograd records, whatever context the caller is in."""
    return _Recording()


class _Recording:
    """`torch.inference_mode(False)` and `torch.enable_grad` together."""

    def __enter__(self) -> None:
        self._modes = (torch.inference_mode(False), torch.enable_grad())
        for mode in self._modes:
            mode.__enter__()

    def __exit__(self, *exception: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*exception)
