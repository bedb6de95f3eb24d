"""Hugging Face's Trainer with penalties: a mixin over its ``compute_loss``."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from gradreg import _checks
from gradreg._checks import UnsupportedOperationError
from gradreg._tree import Args
from gradreg.integrations._elsewhere import TakenElsewhere
from gradreg.integrations._extras import missing
from gradreg.jacobian.site import Input
from gradreg.objective import Objective
from gradreg.penalties.base import Penalty, parts_of

try:
    from transformers import Trainer
except ImportError as error:
    raise missing(error, "huggingface") from error


class GradientRegularized:
    """A mixin for `transformers.Trainer` and its subclasses: ``class Mine(GradientRegularized, Seq2SeqTrainer): ...``

    The Trainer computes its loss as ever, label smoothing and ``compute_loss_func`` included, on a forward pass that
    the penalties share. They are added while the model trains; evaluation reports the loss alone.

    With gradient accumulation the penalty is the mean over the micro-batches, whether the Trainer averages the loss
    over these or has divided it by the number of items. Steps of lazy penalties and ramps are the Trainer's
    ``global_step``. The mean of what each penalty added is logged beside the loss, as "penalty/" and its name.

    Args:
        penalties: a list of them. Token ids have no gradient, so of a language model the site is its embedding:
            ``site=gr.Hidden("bert.embeddings")``.
        generator: draws the random projections; None for torch's global one, which ``args.seed`` seeds.
        args, kwargs: of the Trainer.

    Raises:
        TypeError: a penalty that is none.
        ValueError: DataParallel, DeepSpeed or FSDP.
        RuntimeError: a ``compute_loss`` that never calls ``model(...)``; where it does so twice, the first call counts.
        UnsupportedOperationError: the model's attention has no double backward; write
            ``attn_implementation="eager"``.
    """

    def __init__(self, *args: Any, penalties: Sequence[Penalty], generator: Generator | None = None, **kwargs: Any):
        penalties = [penalties] if isinstance(penalties, Penalty) else list(penalties)
        for penalty in penalties:
            _checks.instance(penalty, Penalty, "penalties", '[gr.SpectReg(0.03, site=gr.Hidden("bert.embeddings"))]')
            _refuse_unnamed_inputs(penalty)
        super().__init__(*args, **kwargs)
        _refuse_what_differentiates_by_itself(self)
        self.objective = Objective(TakenElsewhere(_losses_of_classes), *penalties, generator=generator)
        self._forget()

    def compute_loss(
        self: Any,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The Trainer's loss plus the penalties, while the model trains; see `transformers.Trainer.compute_loss`."""
        plain = super().compute_loss  # type: ignore[misc]
        if not model.training or not torch.is_grad_enabled():
            return plain(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        labels = inputs.get("labels")
        terms: dict[str, Tensor] = {}
        step = self.state.global_step

        def run(*args: Any, **given: Any) -> Any:
            """In place of the model: the first forward pass with gradients is the one that is penalized."""
            if terms or not torch.is_grad_enabled():
                return model(*args, **given)
            try:
                result = self.objective(model, Args(*args, **given), labels, step=step)
            except UnsupportedOperationError as error:
                error.add_note('For models of transformers: from_pretrained(..., attn_implementation="eager").')
                raise
            terms.update(result.terms)
            return result.outputs

        through: Any = _StandIn(model, run)
        loss, outputs = plain(through, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if not terms and self.objective.due(step):
            raise RuntimeError(
                f"compute_loss of {type(self).__name__} never called model(...), the forward pass that penalties "
                "share. Call model(**inputs) there, with gradients on, not parts of it."
            )
        # Where the Trainer will not divide by the number of micro-batches, the penalties have to be.
        share = self.current_gradient_accumulation_steps if self._loss_is_whole(num_items_in_batch) else 1
        for name, term in terms.items():
            loss = loss + term.to(loss.dtype) / share
            self._sums[name] = self._sums.get(name, 0) + term.detach()
        self._count += 1
        return (loss, outputs) if return_outputs else loss

    def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in the Trainer; with the loss of training come the means of what each penalty added."""
        if "loss" in logs:
            logs = {**logs, **{f"penalty/{name}": float(sum_) / self._count for name, sum_ in self._sums.items()}}
        if "loss" in logs or "train_loss" in logs:
            self._forget()
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _forget(self) -> None:
        """What each penalty added since the last log, and in how many batches."""
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def _loss_is_whole(self: Any, num_items_in_batch: Any) -> bool:
        """Whether the loss counts as already divided for gradient accumulation; the rule of the Trainer's own step."""
        stated = getattr(self, "loss_is_scaled_for_ga", None)
        if stated is not None:
            return stated
        by_model = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return bool(by_model or self.compute_loss_func is not None)


class GradientRegularizedTrainer(GradientRegularized, Trainer):
    """`transformers.Trainer` with penalties; see `GradientRegularized`.

    Example:
        >>> trainer = GradientRegularizedTrainer(
        ...     model, args, train_dataset=data, penalties=[gr.SpectReg(0.03, site=gr.Hidden("bert.embeddings"))]
        ... )
        >>> trainer.train().global_step
        2
    """


class _StandIn:
    """Passes for a model in all but what a call of it does."""

    def __init__(self, model: nn.Module, run: Callable[..., Any]):
        self._model, self._run = model, run

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        return self._run(*args, **inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        return type(self._model)


def _refuse_unnamed_inputs(penalty: Penalty) -> None:
    for part in parts_of(penalty):
        if any(isinstance(site, Input) and not site.names for site in part.sites):
            raise ValueError(
                f"{part!r} does not say which of the model's inputs it is about. Token ids have no gradient: write "
                'site=gr.Hidden("bert.embeddings"), the name of the embedding in model.named_modules(); for images '
                'site=gr.Input("pixel_values").'
            )


def _refuse_what_differentiates_by_itself(trainer: Any) -> None:
    found = {
        "DeepSpeed": (trainer.is_deepspeed_enabled, "its engine runs the backward pass and keeps shards of the model"),
        "FSDP": (trainer.is_fsdp_enabled, "it frees parameters that a second derivative needs"),
        "DataParallel": (trainer.args.n_gpu > 1, "it runs copies of the model, whose activations penalties cannot see"),
    }
    for name, (used, reason) in found.items():
        if used:
            raise ValueError(
                f"the Trainer would use {name}, with which penalties do not work: {reason}. Train on one device, or "
                "with DistributedDataParallel: torchrun --nproc-per-node N train.py."
            )


def _losses_of_classes(outputs: Any, y: Any) -> Tensor:
    """Of examples, for penalties that bring no loss."""
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(
            f"labels have shape {tuple(y.shape)} and dtype {y.dtype}, and the penalty no loss of its own. Write one "
            "value per example: gr.DoubleBack(50, loss=lambda outputs, y: ...)."
        )
    return cross_entropy(_checks.outputs_tensor(outputs, "the loss"), y, reduction="none")
