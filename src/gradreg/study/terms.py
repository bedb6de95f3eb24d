"""The penalties of a run, from their names and plain options."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import gradreg as gr
from gradreg.study.config import Penalty, Run, Scalar, StudyError
from gradreg.study.metric import ACCURACY
from gradreg.study.suggest import unknown

# They measure probabilities of classes.
OF_CLASSES = ("JacReg", "ConfidencePenalty", "LabelSmoothing", "RightReasons")
# What an option of that name may say. Their own arguments stand beside it.
SLOTS: dict[str, tuple[type, ...]] = {
    "engine": (gr.DoubleBackward, gr.ForwardMode, gr.FiniteDifference),
    "target": (gr.Logits, gr.Probabilities, gr.LogProbabilities),
    "projection": (
        *(gr.Full, gr.Normal, gr.Sphere, gr.Rademacher, gr.RandomClass, gr.TrueClass, gr.TopK),
        *(gr.ProbabilityWeighted, gr.LossDirection, gr.TopSingular),
    ),
    "magnitude": (gr.SquaredL2, gr.L1, gr.TargetNorm),
}


def build_penalties(run: Run) -> list[gr.Penalty]:
    """The penalties of a run, with their weights as parts of the task's.

    Raises:
        StudyError: a penalty cannot be made, or is not for such data; unlabelled inputs that no penalty looks at.
    """
    unfit = [p.preset for p in run.penalties if p.preset in OF_CLASSES] if run.metric is not ACCURACY else []
    if unfit:
        raise StudyError(
            f"{unfit[0]} measures the probabilities of classes, but the labels of {run.data.name} are numbers; use "
            "SpectReg, FrobReg or DoubleBack."
        )
    found = [build_penalty(replace(p, weight=p.weight / run.loss_factor)) for p in run.penalties]
    if run.split.unlabelled and all(penalty.needs_labels for penalty in found):
        named = " and ".join(map(str, run.penalties))
        why = f"{named} cannot do without labels" if named else "there is no penalty"
        raise StudyError(
            f"split.unlabelled={run.split.unlabelled} asks for unlabelled inputs, but {why}, and nothing would look at "
            "them; use SpectReg, FrobReg or JacReg, or write split.unlabelled=0."
        )
    return found


def build_penalty(penalty: Penalty) -> gr.Penalty:
    """A penalty with its weight and options.

    Example:
        >>> build_penalty(Penalty("JacobianPenalty", 0.1, (("projection", "TopK"), ("k", 2))))
        JacobianPenalty(0.1, projection=TopK(k=2))
        >>> build_penalty(Penalty("SpectReg", 0.1, (("site", "features.2"),)))
        SpectReg(0.1, projection=Normal(samples=1, per='example', side='output'), site=Hidden('features.2'))
    """
    kinds: dict[str, Callable[..., gr.Penalty]] = {
        name: kind
        for name in gr.__all__
        if isinstance(kind := getattr(gr, name), type)
        and issubclass(kind, gr.Penalty)
        and name not in ("Penalty", "PenaltySum")
    }
    if penalty.preset not in kinds:
        raise StudyError(f"there is no penalty of that name: {unknown(penalty.preset, kinds)}.")
    options: dict[str, Any] = dict(penalty.options)
    try:
        for slot in SLOTS:
            if slot in options:
                options[slot] = _slot(slot, options)
        if "site" in options:
            options["site"] = _site(options["site"])
        return kinds[penalty.preset](penalty.weight, **options)
    except (TypeError, ValueError) as error:
        raise StudyError(f"{penalty} cannot be made: {error}") from error


def _site(names: Scalar) -> gr.Hidden:
    """The activations of submodules that are named, with commas between several."""
    if not isinstance(names, str) or not all(name.strip() for name in names.split(",")):
        raise ValueError(
            f"site={names!r}; expected names of the network's submodules, such as features.2 or features.2,features.5, "
            "or none at all for the input"
        )
    return gr.Hidden(*(name.strip() for name in names.split(",")))


def _slot(slot: str, options: dict[str, Any]) -> Any:
    """What options name for a slot, with those of its own arguments that they hold, which are taken out."""
    known: dict[str, Any] = {kind.__name__: kind for kind in SLOTS[slot]}
    name = options[slot]
    if (slot, name) == ("engine", "auto"):
        raise ValueError(
            "engine='auto' lets each run choose, so that its name would not say what was done; write the engine that "
            f"gradreg probe recommends for the network: {', '.join(known)}"
        )
    if name not in known:
        raise ValueError(f"{slot}={name!r}: {unknown(str(name), known)}")
    own = [f.name for f in fields(known[name]) if f.name in options]
    return known[name](**{key: options.pop(key) for key in own})
