"""Lightning: a callback that adds penalties to what a `LightningModule` calls its loss."""

import functools
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Generator, Tensor

from gradreg import _checks
from gradreg._tree import Args
from gradreg.integrations._elsewhere import TakenElsewhere
from gradreg.integrations._extras import missing
from gradreg.objective import Objective
from gradreg.penalties.base import Penalty


def _base() -> Any:
    """The class of callbacks of the package that the program uses: `lightning`, or `pytorch_lightning`."""
    found = ModuleNotFoundError(name="lightning")
    for package in sorted(["lightning.pytorch", "pytorch_lightning"], key=lambda name: name not in sys.modules):
        try:
            return import_module(package).Callback
        except ModuleNotFoundError as error:
            found = error
    raise missing(found, "lightning") from found


_Callback: Any = _base()


def second_of(batch: Any) -> Any:
    """The labels of a batch (x, y, ...); None where it is no such tuple."""
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


class GradientRegularization(_Callback):
    """A callback: ``Trainer(callbacks=[GradientRegularization(gr.SpectReg(0.03))])``. The module stays as it is.

    In every ``training_step`` the first call of ``self(...)`` with gradients on is the forward pass that the penalties
    share, and they are added to the loss that the step returns. Validation and predictions are untouched. Each term is
    logged as "penalty/" and its name. Steps of lazy penalties and ramps are the Trainer's ``global_step``, which counts
    steps of the optimizer; with ``accumulate_grad_batches`` Lightning averages the sum of loss and penalties.

    Args:
        penalties: any number of them.
        labels: ``labels(batch)``, for penalties that need labels. Default: the second entry of the batch.
        loss: the loss that `DoubleBack` differentiates, where it has none of its own. Default: cross-entropy.
        generator: draws the random projections; None for torch's global one, which ``seed_everything`` seeds.

    Raises:
        TypeError: a penalty that is none.
        ValueError: manual optimization, ``static_graph=True``, FSDP or DeepSpeed; hooks on the module itself.
        RuntimeError: a ``training_step`` that never calls ``self(...)``.

    Example:
        >>> trainer = Trainer(max_epochs=1, callbacks=[GradientRegularization(gr.SpectReg(0.03))])
        >>> trainer.fit(module, loader)
    """

    def __init__(
        self,
        *penalties: Penalty,
        labels: Callable[[Any], Any] = second_of,
        loss: Callable[..., Tensor] = torch.nn.functional.cross_entropy,
        generator: Generator | None = None,
    ):
        for penalty in penalties:
            _checks.instance(penalty, Penalty, "GradientRegularization", "gr.SpectReg(0.03)")
        self.labels = labels
        self.objective = Objective(TakenElsewhere(loss), *penalties, generator=generator)
        self._replaced: tuple[Any, Any] | None = None  # the module whose step is replaced, and what it had there

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Puts the penalties into the module's training step."""
        if stage == "fit":
            _refuse(trainer, pl_module)
            plain = pl_module.training_step
            self._replaced = (pl_module, pl_module.__dict__.get("training_step"))
            pl_module.training_step = functools.wraps(plain)(functools.partial(self._step, trainer, pl_module, plain))

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Gives the module its own training step back."""
        if self._replaced is not None:
            module, own = self._replaced
            _put_back(module, "training_step", own)
            self._replaced = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """As `teardown`, which Lightning leaves out where training fails or is interrupted."""
        self.teardown(trainer, pl_module, "fit")

    def _step(self, trainer: Any, module: Any, plain: Callable[..., Any], batch: Any, *args: Any) -> Any:
        step = trainer.global_step
        if not self.objective.due(step):
            return plain(batch, *args)
        terms: dict[str, Tensor] = {}
        forward = module.forward

        def shared(*inputs: Any, **named: Any) -> Any:
            _refuse_hooks(module)
            module.forward = forward
            if not torch.is_grad_enabled():
                found = forward(*inputs, **named)
                module.forward = shared
                return found
            result = self.objective(module, Args(*inputs, **named), self.labels(batch), step=step)
            terms.update(result.terms)
            return result.outputs

        own = module.__dict__.get("forward")
        module.forward = shared
        try:
            output = plain(batch, *args)
        finally:
            _put_back(module, "forward", own)
        loss = output["loss"] if isinstance(output, Mapping) else output
        if loss is None:
            return None
        if not terms:
            raise RuntimeError(
                f"training_step of {type(module).__name__} never called self(...), the forward pass that penalties "
                "share. Call self(x) there, or use gr.Objective within it: see docs/integrations/lightning.md."
            )
        module.log_dict({f"penalty/{name}": term.detach() for name, term in terms.items()}, batch_size=1)
        total = loss + sum(term.to(loss.dtype) for term in terms.values())
        return {**output, "loss": total} if isinstance(output, Mapping) else total


def _put_back(module: Any, name: str, own: Any) -> None:
    """What the module had under this name of its own; None for its class's."""
    module.__dict__.pop(name, None)
    if own is not None:
        setattr(module, name, own)


def _refuse_hooks(module: Any) -> None:
    """The penalties call the module within its own call, so that its hooks would run twice."""
    if any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)):
        raise ValueError(
            f"{type(module).__name__} has hooks of its own, which would run twice in a step with penalties. "
            "Register them on a layer within it, such as self.net, or use gr.Objective within its training_step: see "
            "docs/integrations/lightning.md."
        )


def _refuse(trainer: Any, module: Any) -> None:
    if not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} optimizes by hand, so nothing can be added to its loss. Use gr.Objective within "
            "its training_step: see docs/integrations/lightning.md."
        )
    kinds = {kind.__name__ for kind in type(trainer.strategy).__mro__}
    if "DDPStrategy" in kinds and getattr(trainer.strategy, "_ddp_kwargs", {}).get("static_graph"):
        raise ValueError(
            "static_graph=True leaves the gradients of penalties out of what the processes exchange, without an error. "
            'Write Trainer(strategy="ddp").'
        )
    for kind, reason in _STRATEGIES.items():
        if kind in kinds:
            raise ValueError(f'penalties do not work with {kind}: {reason}. Write Trainer(strategy="ddp").')


_STRATEGIES = {
    "FSDPStrategy": "it frees parameters that a second derivative needs",
    "DeepSpeedStrategy": "its engine runs the backward pass and keeps shards of the model",
}
