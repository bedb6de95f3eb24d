"""`gradreg.probe`: runs each engine on a batch of one's own model, and says which to take."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradreg import _checks, _tree
from gradreg._checks import UnsupportedOperationError
from gradreg._peak import clock_of, peak_bytes
from gradreg._timing import in_turn, spread
from gradreg._types import InputTree, Labels
from gradreg.jacobian._refusals import refuse_sharded
from gradreg.jacobian.engine import Engine, FiniteDifference
from gradreg.jacobian.magnitude import wide
from gradreg.jacobian.site import Input, Site
from gradreg.jacobian.target import Logits, Target, as_target
from gradreg.objective import Objective
from gradreg.penalties.auto import ENGINES
from gradreg.probing.coupling import measure_coupling
from gradreg.probing.report import Cost, EngineReport, ProbeReport
from gradreg.probing.trial import Setting, Trials
from gradreg.probing.untouched import device_of, untouched

PLAIN = "plain"


def probe(
    model: nn.Module,
    x: InputTree,
    y: Labels = None,
    *,
    target: Target | Callable[..., Tensor] | None = None,
    site: Site | None = None,
    repeats: int = 5,
) -> ProbeReport:
    """Finds out which engines work on a model, how exact they are, what they cost, and whether examples are coupled.

    Each engine measures and differentiates one random row of the Jacobian for each example, as `SpectReg` does, and is
    compared with the textbook recipe in plain torch. Where it fails, the operation is named, the submodules that hold
    it, torch's words and what to write instead.

    The model is left as it was: parameters, gradients, buffers, modes and random states.

    Args:
        model: a module, in the mode in which it will be trained; dropout and batch normalization count as they are.
        x: a small batch of its inputs (B, ...), or a tree of them; `Args` for models of several arguments. Two examples
            at least, so that coupling shows.
        y: labels, where the target needs them.
        target: what is differentiated; `Logits()` by default.
        site: with respect to what; `Input()` by default.
        repeats: how often each kind of step is timed; 0 to leave times and memory out.

    Returns:
        A `ProbeReport`.

    Raises:
        TypeError: a model that is no module, or sharded; inputs that have no gradient, with the embeddings to name.
        ValueError: a model without parameters to train, or whose targets do not depend on the site.
        UnsupportedOperationError: a model without a first derivative.

    Example:
        >>> report = gr.probe(model, x)
        >>> penalty = gr.SpectReg(0.03, engine=report.recommended)

    Cost: some thirty plain steps, and up to twenty more for each repeat.
    """
    setting = _setting(model, x, y, as_target(target if target is not None else Logits()), site or Input(), repeats)
    with _checks.grad_enabled():
        try:
            with untouched(setting.model):
                batch = setting.linearize().batch
                coupling = measure_coupling(setting.model, x, y, setting.target, setting.site)
        except (RuntimeError, NotImplementedError) as error:  # not even a first derivative
            explained = FiniteDifference().explain(error)
            if explained is error:
                raise
            raise explained from error
        trials = Trials(setting, coupled=bool(coupling.leak))
        reports = {type(engine).__name__: EngineReport(**vars(trials.of(engine))) for engine in ENGINES}
        costs = _costs(setting, [r.engine for r in reports.values() if r.works], repeats) if repeats else {}
    plain = costs.get(PLAIN)
    if plain is not None:
        reports = {name: _with_cost(report, costs.get(name), plain) for name, report in reports.items()}
    recommended, reason = _recommended(list(reports.values()), trials.kinks, constant=trials.constant)
    return ProbeReport(
        type(setting.model).__name__,
        sum(parameter.numel() for parameter in setting.parameters),
        batch,
        setting.model.training,
        str(device_of(setting.model)),
        reports,
        coupling,
        plain,
        recommended,
        reason,
    )


def _setting(model: Any, x: InputTree, y: Labels, target: Target, site: Site, repeats: int) -> Setting:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"probe got a model of type {type(model).__name__}; expected a torch.nn.Module, whose state it can put "
            "back. For a function of the outputs write target=lambda outputs: outputs.logits."
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # whose forward pass waits for a backward() on all processes
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 0:
        raise ValueError(f"probe got repeats={repeats!r}; expected a whole number >= 0, as in probe(model, x).")
    try:
        refuse_sharded(model, tangents=False)
    except UnsupportedOperationError as error:
        raise TypeError(
            "probe got a model sharded by FSDP, which gives its parameters' gradients to backward() alone. Probe it "
            f"before it is sharded; when it is, {error}"
        ) from None
    setting = Setting(model, x, y, target, site)
    if not setting.parameters:
        raise ValueError(
            f"{type(model).__name__} has no parameters that require grad: there is nothing to train. Write "
            "model.requires_grad_() for the parts that are."
        )
    found = [tensor for _, tensor in _tree.tensors(x)]
    if site == Input() and found and not any(tensor.is_floating_point() for tensor in found):
        kinds = (nn.Embedding, nn.EmbeddingBag)
        names = [repr(name) for name, layer in model.named_modules() if isinstance(layer, kinds)]
        if names:
            others = f" (its embeddings: {', '.join(names)})" if len(names) > 1 else ""
            raise TypeError(
                f"the inputs have dtype {found[0].dtype}, and integers have no gradient. Regularize the embedding, in "
                f"the probe and in the penalty: site=gr.Hidden({names[0]}){others}."
            )
    return setting


def _costs(setting: Setting, engines: list[Engine], repeats: int) -> dict[str, Cost]:
    """Of a plain step, and of one with each engine."""

    def loss(outputs: Any, y: Labels) -> Tensor:
        return wide(setting.target(outputs, y)).square().mean()

    def step_of(objective: Objective) -> Callable[[], None]:
        def step() -> None:
            total = objective(setting.model, setting.x, setting.y).total
            torch.autograd.grad(total, setting.parameters, allow_unused=True)

        return step

    device = device_of(setting.model)
    steps = {PLAIN: step_of(Objective(loss))}
    steps |= {type(engine).__name__: step_of(Objective(loss, setting.penalty(engine))) for engine in engines}
    with untouched(setting.model):
        seconds = in_turn(steps, repeats, warm=1, clock=clock_of(device))
        return {name: Cost(spread(seconds[name]).median, peak_bytes(step, device)) for name, step in steps.items()}


def _with_cost(report: EngineReport, cost: Cost | None, plain: Cost) -> EngineReport:
    if cost is None:
        return report
    memory = cost.peak_bytes / plain.peak_bytes if plain.peak_bytes else None
    return replace(report, cost=cost, time=cost.seconds / plain.seconds, memory=memory)


def _recommended(
    reports: list[EngineReport], kinks: tuple[str, ...], *, constant: bool = False
) -> tuple[Engine | None, str]:
    """The engine to take, and why."""
    if constant:
        return None, "no engine. The penalty depends on no parameter that is trained: it would teach the model nothing."
    working = [report for report in reports if report.works]
    exact = [report for report in working if not isinstance(report.engine, FiniteDifference)]
    if exact:
        # The first is the usual one; another must be faster by a tenth.
        best = min(exact, key=lambda r: (r.time or 1.0) * (1.0 if r is exact[0] else 1.1))
        others = [f"{_name(r)} at {r.time:.2f}" for r in exact if r is not best and r.time is not None]
        cost = "" if best.time is None else f", at {best.time:.2f} times a plain step"
        cost += f" ({', '.join(others)})" if others else ""
        return best.engine, f"{_name(best)}. It is exact on this model{cost}."
    tried = [(_name(r), r.failure.setting) for r in reports if r.failure is not None and r.failure.setting is not None]
    hint = "".join(f" {name} does within {setting}." for name, setting in tried[:1])
    if not working:
        return None, f"no engine. None works on this model as it is; what to change is said above.{hint}"
    (best,) = working
    reason = f"{_name(best)}, since no exact engine works on this model as it is.{hint}"
    if best.gradient_error is None:
        reason += f" Its value is off by {best.value_error:.1e} here; its gradient could not be compared."
    if kinks:
        reason += (
            f" The model has kinks ({', '.join(kinks)}), at which finite differences jump: what it penalizes is the "
            "change over its step. Write FiniteDifference(step=...) with a step chosen as such a scale, or take smooth "
            "activations: docs/engines.md."
        )
    return best.engine, reason


def _name(report: EngineReport) -> str:
    return f"{type(report.engine).__name__}()"
