"""What the comparisons have in common: the methods, and how an arm is made of each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gradreg.study.config import Options, Penalty, Run, StudyError
from gradreg.study.grid import Arm, Grid, put
from gradreg.study.suggest import unknown

ALL = "all"
AUTO = "auto"
# Of `gradreg.AutoWeight`, for methods whose weight is "auto".
RATIO = 0.35
Grids = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Kind:
    """What a method changes in the baseline's run.

    Attributes:
        name: of its arm.
        preset: the penalty that it adds, if it adds one.
        options: of the penalty.
        ramp: the part of the steps in which the penalty's weight rises; 0: at once.
        path: what its number sets.
        values: what else it sets, by path.
        network: the variant of the network that it trains, "" for the same.
    """

    name: str
    preset: str = ""
    options: Options = ()
    ramp: float = 0.0
    path: str = "weight"
    values: tuple[tuple[str, str], ...] = ()
    network: str = ""


def _projected(name: str, projection: str, *options: tuple[str, int]) -> Kind:
    return Kind(name, "JacobianPenalty", (("projection", projection), *options))


# By their name on the command line.
METHODS = {
    "doubleback": Kind("DoubleBack", "DoubleBack"),
    "spectreg": Kind("SpectReg", "SpectReg"),
    "frobreg": Kind("FrobReg", "FrobReg"),
    "jacreg": Kind("JacReg", "JacReg"),
    "confidencepenalty": Kind("ConfidencePenalty", "ConfidencePenalty"),
    "spherical": Kind("spherical SpectReg", "SpectReg", (("sphere", True),)),
    "spectreg4": Kind("SpectReg, 4 rows", "SpectReg", (("samples", 4),)),
    "randomclass": _projected("random class", "RandomClass"),
    "trueclass": _projected("true class", "TrueClass"),
    "topk": _projected("top 2 classes", "TopK", ("k", 2)),
    "probabilityweighted": _projected("probability-weighted", "ProbabilityWeighted"),
    "topsingular": _projected("largest singular value", "TopSingular"),
    "rightreasons": Kind("RightReasons", "RightReasons"),
    "l1doubleback": Kind("L1DoubleBack", "L1DoubleBack", ramp=0.25),
    "datagrad": Kind("DataGrad", "DataGrad", (("step", 0.1),)),
    "scaleable": Kind("ScaleableDoubleBack", "ScaleableDoubleBack", (("step", 0.5),)),
    "gradientpenalty": Kind("GradientPenalty", "GradientPenalty", (("projection", "TopK"),)),
    "tangentprop": Kind("TangentProp", "TangentProp"),
    "layerwise": Kind("LayerwiseFrobenius", "LayerwiseFrobenius"),
    "spectralnorm": Kind("SpectralNorm", "SpectralNorm"),
    "labelsmoothing": Kind("LabelSmoothing", "LabelSmoothing"),
    "mixup": Kind("Mixup", path="technique.mixup"),
    "sam": Kind("SAM", path="technique.sam"),
    "weightdecay": Kind("weight decay", path="optimizer.weight_decay"),
    "adamw": Kind("AdamW", path="optimizer.weight_decay", values=(("optimizer.name", "adamw"),)),
    "dropout": Kind("dropout", network="dropout"),
    "nodropout": Kind("no dropout", network="nodropout"),
    "batchnorm": Kind("batch normalization", network="batchnorm"),
}

# Of networks that have any.
VARIANTS: dict[str, dict[str, str]] = {
    "lenet5": {"nodropout": "lenet5-plain", "batchnorm": "lenet5-batchnorm"},
    "small-cnn": {"dropout": "small-cnn-dropout", "batchnorm": "small-cnn-batchnorm"},
}
# Penalties that cannot be taken on unlabelled inputs, or that look at weights alone.
OF_LABELLED = ("doubleback", "trueclass", "l1doubleback", "datagrad", "scaleable", "spectralnorm")
# Only images have them.
OF_IMAGES = ("tangentprop",)

# Weights to search where a comparison has none of its own, by what they come to on standardized images of 28 x 28.
USUAL_GRIDS: dict[str, tuple[float, ...]] = {
    "doubleback": (5, 20, 50, 100),
    "spectreg": (0.003, 0.01, 0.03, 0.1),
    "frobreg": (0.003, 0.01, 0.03, 0.1),
    "jacreg": (0.1, 0.3, 1, 3),
    "confidencepenalty": (0.05, 0.15, 0.5, 1.5),
    "spherical": (0.003, 0.01, 0.03, 0.1),
    "spectreg4": (0.003, 0.01, 0.03, 0.1),
    "randomclass": (0.003, 0.01, 0.03, 0.1),
    "trueclass": (0.03, 0.1, 0.3, 1),
    "topk": (0.015, 0.05, 0.15, 0.5),
    "probabilityweighted": (0.03, 0.1, 0.3, 1),
    "topsingular": (0.01, 0.03, 0.1, 0.3),
    "rightreasons": (0.0003, 0.001, 0.003, 0.01),
    "l1doubleback": (0.03, 0.1, 0.3, 1),
    "datagrad": (0.03, 0.1, 0.3, 1),
    "scaleable": (5, 20, 50, 100),
    "gradientpenalty": (0.1, 0.5, 2, 10),
    "tangentprop": (0.003, 0.01, 0.03, 0.1),
    "layerwise": (0.00001, 0.00003, 0.0001, 0.0003),
    "spectralnorm": (0.0015, 0.005, 0.015, 0.05),
    "labelsmoothing": (0.05, 0.11, 0.25, 0.7),
    "mixup": (0.1, 0.2, 0.4, 1),
    "sam": (0.02, 0.05, 0.1, 0.2),
    "weightdecay": (0.00005, 0.0005, 0.005, 0.02),
    "adamw": (0.01, 0.03, 0.1, 0.3),
    "dropout": (),
    "nodropout": (),
    "batchnorm": (),
}


@dataclass(frozen=True)
class Method:
    """A method of a comparison, and the numbers to search; a single one needs no search, and none is none.

    Attributes:
        kind: what it changes.
        weights: the numbers.
        auto: let the weight move while the network trains, in place of a search.
    """

    kind: Kind
    weights: tuple[float, ...]
    auto: bool = False

    @property
    def name(self) -> str:
        """Of its arm."""
        name = self.kind.name
        return name if not self.auto else f"{name}({AUTO})" if name.isidentifier() else f"{name} ({AUTO})"


def methods(words: Sequence[str], grids: Grids, run: Run | None = None, more: Grids | None = None) -> list[Method]:
    """The methods that are named; all of the grids where none is.

    Args:
        words: names; "spectreg=0.03", which fixes the weight, "spectreg=auto", which lets it move while the network
            trains; "all" for all that are not named beside it.
        grids: weights to search, by name.
        run: the baseline's; what its network or its data cannot have is left out of "all".
        more: weights that take the place of the usual ones, of methods that the grids leave out.

    Raises:
        StudyError: an unknown name, a weight that is none, a name twice.
    """
    every = {**USUAL_GRIDS, **(more or {}), **grids}
    found = []
    for word in _expanded(words, run) or grids:
        name, equals, weight = word.partition("=")
        if name not in METHODS:
            raise StudyError(f"--methods: {unknown(name, [*METHODS, ALL])} Expected such names, or spectreg=0.03.")
        kind = METHODS[name]
        if equals and kind.network:
            raise StudyError(f"--methods got {word!r}, but {name} has no weight; write {name}.")
        if weight == AUTO:
            if not kind.preset:
                raise StudyError(f"--methods got {word!r}, but {name} is no penalty; write {name} for a search.")
            found.append(Method(kind, (1.0,), auto=True))
        else:
            found.append(Method(kind, (_weight(word, weight),) if equals else every[name]))
    named = [method.name for method in found]
    for name in named:
        if named.count(name) > 1:
            raise StudyError(f"--methods names {name} {named.count(name)} times; expected each method once.")
    return found


def _expanded(words: Sequence[str], run: Run | None) -> list[str]:
    """The words with all methods in place of "all"."""
    if ALL not in words:
        return list(words)
    others = [word for word in words if word != ALL]
    # Weights that move come beside those that are searched.
    given = {word.partition("=")[0]: word for word in others if word.partition("=")[2] != AUTO}
    known = [name for name in METHODS if run is None or name in given or not _lacking(name, run)]
    # What nobody knows stays, to be told.
    return [given.get(name, name) for name in known] + [
        word for word in others if word.partition("=")[0] not in known or word.partition("=")[2] == AUTO
    ]


def _lacking(name: str, run: Run) -> str:
    """Why a method cannot be had, in words; "" where it can."""
    kind = METHODS[name]
    if kind.network and kind.network not in VARIANTS.get(run.model.name, {}):
        known = " and ".join(f"{model} ({', '.join(found)})" for model, found in VARIANTS.items())
        return f"{name} is a variant of the network, which {run.model.name} does not have; {known} have some"
    if name in OF_IMAGES and run.model.name.startswith("mlp"):
        return f"{name} moves images, which {run.model.name} does not take"
    return ""


def arms(run: Run, chosen: Sequence[Method], unlabelled: int = 0) -> tuple[Arm, ...]:
    """The baseline, then each method.

    Args:
        run: the baseline's.
        chosen: the methods.
        unlabelled: number of unlabelled inputs for the penalties that need no labels; the other methods have none.

    Raises:
        StudyError: a method that the network cannot have; unlabelled inputs that no method looks at.
    """
    semi = [METHODS[name] for name in METHODS if METHODS[name].preset and name not in OF_LABELLED] if unlabelled else []
    found = [_with_unlabelled(_arm(run, m), unlabelled) if m.kind in semi else _arm(run, m) for m in chosen]
    if unlabelled and not any(method.kind in semi for method in chosen):
        named = ", ".join(method.kind.name for method in chosen)
        raise StudyError(
            f"--unlabelled got {unlabelled}, but of the methods ({named}) none is a penalty on inputs that needs no "
            "labels; write --methods spectreg beside them."
        )
    return (Arm("Baseline", run), *found)


def _with_unlabelled(arm: Arm, unlabelled: int) -> Arm:
    run = replace(arm.run, split=replace(arm.run.split, unlabelled=unlabelled))
    return replace(arm, name=f"{arm.name} + unlabelled", run=run)


def _arm(run: Run, method: Method) -> Arm:
    kind, weights = method.kind, tuple(map(float, method.weights))
    if kind.network:
        (name,) = [name for name, other in METHODS.items() if other is kind]
        if lacking := _lacking(name, run):
            raise StudyError(f"--methods: {lacking}.")
        return Arm(kind.name, replace(run, model=replace(run.model, name=VARIANTS[run.model.name][kind.network])))
    if kind.preset:
        ramp = (("ramp", max(1, round(kind.ramp * run.schedule.steps))),) if kind.ramp else ()
        run = replace(run, penalties=(Penalty(kind.preset, weights[0], (*kind.options, *ramp)),))
        if method.auto:
            run = put(run, {"technique.auto_weight": RATIO})
    else:
        run = put(run, {**dict(kind.values), kind.path: weights[0]})
    return Arm(method.name, run, Grid(((kind.path, weights),)) if len(weights) > 1 else None)


def _weight(word: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        name = word.partition("=")[0]
        raise StudyError(f"--methods got {word!r}; expected a weight > 0, as in {name}=0.03, or {name}={AUTO}.")
    return number
