"""One engine tried on a batch: its value and parameter gradient beside those of the textbook recipe, or its failure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradreg import _random
from gradreg._checks import COMPILED, UnsupportedOperationError
from gradreg._types import InputTree, Labels
from gradreg.jacobian._composed import graph, refuse_marked
from gradreg.jacobian.engine import DoubleBackward, Engine, FiniteDifference, ForwardMode
from gradreg.jacobian.forward import ForwardPass
from gradreg.jacobian.linearization import Linearization, refuse_marked_at_end
from gradreg.jacobian.magnitude import SquaredL2
from gradreg.jacobian.projection import Normal
from gradreg.jacobian.site import Site
from gradreg.jacobian.target import Target
from gradreg.penalties.auto import refuse_to_unmake
from gradreg.penalties.jacobian import JacobianPenalty
from gradreg.probing.layers import Fault, blamed, lacks_double_backward, lacks_forward_mode, recorded
from gradreg.probing.untouched import untouched

# Operations with kinks, by the beginnings of their names in a graph.
KINKS = ("Relu", "LeakyRelu", "Prelu", "Rrelu", "Threshold", "Hard", "MaxPool", "AdaptiveMaxPool", "Max", "Amax", "Abs")

# The largest relative error of an engine that counts as exact, in whatever precision.
MOST_OFF = 0.1


@dataclass(frozen=True)
class Failure:
    """Why an engine does not work.

    Attributes:
        message: the whole story.
        operation: the operation that lacks a derivative, where that is the reason.
        layers: the submodules that hold it, as far as they were found; the empty name is the model's own ``forward``.
        cause: torch's own words, where it spoke.
        remedy: what to write instead.
        setting: a context in which the engine works, as it is written; it was tried.
    """

    message: str
    operation: str | None = None
    layers: tuple[str, ...] = ()
    cause: str | None = None
    remedy: str | None = None
    setting: str | None = None


# Contexts in which torch takes other kernels: words in an operation's name, and how to write it.
_CONTEXTS: tuple[tuple[tuple[str, ...], str, Callable[[], Any]], ...] = (
    (
        ("attention",),
        "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)",
        lambda: sdpa_kernel(SDPBackend.MATH),
    ),
    (("cudnn", "rnn"), "torch.backends.cudnn.flags(enabled=False)", lambda: torch.backends.cudnn.flags(enabled=False)),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        engine: what was tried.
        failure: why it does not work; None if it does.
        value_error: relative error of the value, against the textbook recipe; None if there is nothing to compare.
        gradient_error: the same of the gradient of all parameters, in L2 norm.
    """

    engine: Engine
    failure: Failure | None
    value_error: float | None = None
    gradient_error: float | None = None


@dataclass(frozen=True)
class Setting:
    """What is probed: see `gradreg.probe`."""

    model: nn.Module
    x: InputTree
    y: Labels
    target: Target
    site: Site

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that are trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def penalty(self, engine: Engine) -> JacobianPenalty:
        """One random row for each example, by an engine."""
        return JacobianPenalty(1.0, target=self.target, site=self.site, projection=Normal(), engine=engine)

    def linearize(self, *, repeatable: bool = False) -> Linearization:
        """At a run of the model in operations of torch alone."""
        forward = ForwardPass(self.model, self.x, [self.site], repeatable=repeatable, fast=False)
        return Linearization.of_pass(forward, self.target, self.y, self.site)


@dataclass
class Found:
    """A penalty's value, and its gradient by each parameter; None where there is none to be had, or none at all."""

    value: Tensor
    gradient: list[Tensor] | None
    constant: bool = False


class Trials:
    """The trials of one setting; all draw the same row, and start from the same states.

    Args:
        setting: what is probed.
        coupled: whether the examples of the batch are.

    Attributes:
        kinks: operations of the model at which a finite difference jumps.
        constant: whether the penalty's textbook form depends on no parameter that is trained.
    """

    def __init__(self, setting: Setting, *, coupled: bool):
        self.setting, self.coupled = setting, coupled
        with untouched(setting.model):
            at = setting.linearize(repeatable=True)
            assert at.forward is not None
            self.kinks = _kinks(at.z)
            self._tolerance = min(10 * torch.finfo(at.z.dtype).eps ** 0.5, MOST_OFF)
            self._truth = self._textbook(at, at)
            self.constant = self._truth.constant
            # Engines that run the model again hold batch statistics fixed.
            self._fixed = self._held_fixed(at) if at.forward.couples_examples else self._truth

    def of(self, engine: Engine) -> Outcome:
        """Tries an engine."""
        try:
            refuse_to_unmake(engine, self.setting.model)
            found = self._found(engine)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            return Outcome(engine, self._explained(error, engine))
        return self._judged(engine, found)

    def _found(self, engine: Engine) -> Found:
        setting = self.setting
        with untouched(setting.model):
            value = setting.penalty(engine)(setting.model, setting.x, setting.y, generator=_rows())
            return Found(value.detach(), _differentiated(value, setting.parameters))

    def _judged(self, engine: Engine, found: Found) -> Outcome:
        truth = self._fixed if engine.repeats else self._truth
        value_error = _relative([found.value], [truth.value])
        gradient_error = None
        if found.gradient is None:
            return Outcome(engine, _failure("gives a value without a gradient to any parameter"), value_error)
        if truth.gradient is not None:
            gradient_error = _relative(found.gradient, truth.gradient)
        errors = [value_error] if gradient_error is None else [value_error, gradient_error]
        if not all(torch.isfinite(part).all() for part in (found.value, *found.gradient)):
            failure = _failure("gives numbers that are not finite; look for roots and norms at 0, and add an epsilon")
        elif not isinstance(engine, FiniteDifference) and max(errors) > self._tolerance:
            failure = _failure(
                f"is off from the textbook recipe in plain torch: its value by {value_error:.2g}"
                + ("" if gradient_error is None else f", its parameter gradient by {gradient_error:.2g}")
                + self.coupled * "; it follows one direction for each example, and these are coupled here"
            )
        else:
            failure = None
            if truth.gradient is None and isinstance(engine, ForwardMode):
                truth.gradient = found.gradient  # the next best, for the finite difference
        return Outcome(engine, failure, value_error, gradient_error)

    def _textbook(self, point: Linearization, drawn_at: Linearization) -> Found:
        """The penalty as anyone writes it; without a double backward its value alone."""
        (row,) = next(iter(next(Normal().draw(drawn_at, DoubleBackward(), _rows()))))
        try:
            value = SquaredL2().measure(point.gradient(row, create_graph=True)).mean()
            gradient = _differentiated(value, self.setting.parameters)
            refuse_marked(value, point.z)
            refuse_marked_at_end(point)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):
            return Found(SquaredL2().measure(point.gradient(row)).mean().detach(), None)
        return Found(value.detach(), gradient, constant=gradient is None)

    def _held_fixed(self, at: Linearization) -> Found:
        """The same with batch statistics held fixed; where the model cannot run so, no engine will that needs it."""
        try:
            return self._textbook(at.uncoupled, at)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):
            return self._truth

    def _explained(self, error: Exception, engine: Engine) -> Failure:
        if not isinstance(error, UnsupportedOperationError):
            return Failure(f"{type(error).__name__}: {error}")
        fault = lacks_forward_mode if isinstance(engine, ForwardMode) else lacks_double_backward
        located = error.operation != COMPILED and not isinstance(engine, FiniteDifference)
        layers = self._layers(fault, error.operation) if located else ()
        cause = None if error.__cause__ is None else str(error.__cause__).strip().partition("\n")[0]
        setting = self._setting_for(error.operation or "", engine)
        return Failure(str(error), error.operation, layers, cause, error.remedy, setting)

    def _setting_for(self, operation: str, engine: Engine) -> str | None:
        """A context in which an engine works that an operation has stopped."""
        for words, written, context in _CONTEXTS:
            if all(word in operation.lower() for word in words):
                try:
                    with context():
                        self._found(engine)
                except torch.OutOfMemoryError:
                    raise
                except Exception:
                    return None
                return written
        return None

    def _layers(self, fault: Fault, operation: str | None) -> tuple[str, ...]:
        with untouched(self.setting.model):
            with recorded(self.setting.model) as calls:
                self.setting.linearize()
            return blamed(calls, fault, operation)


def _failure(words: str) -> Failure:
    return Failure(f"the engine {words}.")


def _rows() -> torch.Generator:
    return _random.generator_for(0, "probe")


def _differentiated(value: Tensor, parameters: list[nn.Parameter]) -> list[Tensor] | None:
    if not value.requires_grad:
        return None
    found: tuple[Any, ...] = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    if all(part is None for part in found):
        return None
    return [torch.zeros_like(p) if g is None else g.detach() for g, p in zip(found, parameters, strict=True)]


def _relative(found: list[Tensor], truth: list[Tensor]) -> float:
    """The norm of a difference relative to the truth's."""
    off = sum((f.double() - t.double()).square().sum().item() for f, t in zip(found, truth, strict=True)) ** 0.5
    size = sum(t.double().square().sum().item() for t in truth) ** 0.5
    return off / size if size else (float("inf") if off else 0.0)


def _kinks(z: Tensor) -> tuple[str, ...]:
    names = {node.name().partition("Backward")[0] for node in graph(z)}
    return tuple(sorted(name for name in names if name.startswith(KINKS)))
