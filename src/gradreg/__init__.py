"""Gradient regularization for PyTorch: penalize how fast a model's outputs change with its inputs.

>>> objective = gr.Objective(torch.nn.functional.cross_entropy, gr.SpectReg(0.03))
>>> result = objective(model, x, y)
>>> result.total.backward()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Names are imported when they are first used, so that commands that only read results do not wait for torch.
if TYPE_CHECKING:
    from gradreg import convert, metrics
    from gradreg._checks import UnsupportedOperationError
    from gradreg._tree import Args
    from gradreg.auto_weight import Adjustment, AutoWeight
    from gradreg.compiled import CompiledObjective
    from gradreg.jacobian import dense
    from gradreg.jacobian.engine import DoubleBackward, Engine, FiniteDifference, ForwardMode
    from gradreg.jacobian.linearization import Linearization
    from gradreg.jacobian.magnitude import L1, DistanceToGradients, Magnitude, Masked, SquaredL2, TargetNorm
    from gradreg.jacobian.projection import (
        Full,
        LossDirection,
        Normal,
        ProbabilityWeighted,
        Projection,
        Rademacher,
        RandomClass,
        Sphere,
        Tangents,
        TopK,
        TopSingular,
        TrueClass,
    )
    from gradreg.jacobian.site import Hidden, Input, Site
    from gradreg.jacobian.target import FunctionOf, Logits, LogProbabilities, Loss, Probabilities, Target
    from gradreg.jacobian.teacher import DistanceToTeacher
    from gradreg.mixup import Mixup
    from gradreg.objective import Objective, Result
    from gradreg.penalties.base import Penalty, PenaltySum
    from gradreg.penalties.jacobian import JacobianPenalty
    from gradreg.penalties.output import ConfidencePenalty, LabelSmoothing
    from gradreg.penalties.passes import Seen
    from gradreg.penalties.presets import DoubleBack, FrobReg, JacReg, SpectReg
    from gradreg.penalties.relatives import (
        DataGrad,
        GradientPenalty,
        L1DoubleBack,
        RightReasons,
        ScaleableDoubleBack,
        Sobolev,
    )
    from gradreg.penalties.schedule import Ramp
    from gradreg.penalties.tangents import ImageTangents, TangentProp
    from gradreg.penalties.weights import LayerwiseFrobenius, SpectralNorm
    from gradreg.probing.probe import probe
    from gradreg.probing.report import ProbeReport
    from gradreg.sam import SAM

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # Train with penalties
    "Objective",
    "CompiledObjective",
    "Result",
    "AutoWeight",
    "Adjustment",
    "DoubleBack",
    "FrobReg",
    "JacReg",
    "SpectReg",
    "ConfidencePenalty",
    "LabelSmoothing",
    "Ramp",
    # Its relatives
    "DataGrad",
    "GradientPenalty",
    "L1DoubleBack",
    "LayerwiseFrobenius",
    "Mixup",
    "RightReasons",
    "SAM",
    "ScaleableDoubleBack",
    "Sobolev",
    "SpectralNorm",
    "TangentProp",
    # Compose your own
    "JacobianPenalty",
    "Penalty",
    "PenaltySum",
    "Seen",
    "Linearization",
    # Target slot
    "Target",
    "FunctionOf",
    "Logits",
    "LogProbabilities",
    "Loss",
    "Probabilities",
    # Site slot
    "Site",
    "Args",
    "Hidden",
    "Input",
    # Projection slot
    "Projection",
    "Full",
    "ImageTangents",
    "LossDirection",
    "Normal",
    "ProbabilityWeighted",
    "Rademacher",
    "RandomClass",
    "Sphere",
    "Tangents",
    "TopK",
    "TopSingular",
    "TrueClass",
    # Engine slot
    "Engine",
    "DoubleBackward",
    "FiniteDifference",
    "ForwardMode",
    # Magnitude slot
    "Magnitude",
    "DistanceToGradients",
    "DistanceToTeacher",
    "L1",
    "Masked",
    "SquaredL2",
    "TargetNorm",
    # What a model supports
    "probe",
    "ProbeReport",
    # Measure and convert
    "UnsupportedOperationError",
    "convert",
    "dense",
    "metrics",
]

# Where each name is defined; a test holds this and the imports above together.
_HOMES = {
    "_checks": ("UnsupportedOperationError",),
    "_tree": ("Args",),
    "auto_weight": ("Adjustment", "AutoWeight"),
    "compiled": ("CompiledObjective",),
    "jacobian.engine": ("DoubleBackward", "Engine", "FiniteDifference", "ForwardMode"),
    "jacobian.linearization": ("Linearization",),
    "jacobian.magnitude": ("L1", "DistanceToGradients", "Magnitude", "Masked", "SquaredL2", "TargetNorm"),
    "jacobian.projection": (
        *("Full", "LossDirection", "Normal", "ProbabilityWeighted", "Projection", "Rademacher", "RandomClass"),
        *("Sphere", "Tangents", "TopK", "TopSingular", "TrueClass"),
    ),
    "jacobian.site": ("Hidden", "Input", "Site"),
    "jacobian.target": ("FunctionOf", "Logits", "LogProbabilities", "Loss", "Probabilities", "Target"),
    "jacobian.teacher": ("DistanceToTeacher",),
    "mixup": ("Mixup",),
    "objective": ("Objective", "Result"),
    "penalties.base": ("Penalty", "PenaltySum"),
    "penalties.jacobian": ("JacobianPenalty",),
    "penalties.output": ("ConfidencePenalty", "LabelSmoothing"),
    "penalties.passes": ("Seen",),
    "penalties.presets": ("DoubleBack", "FrobReg", "JacReg", "SpectReg"),
    "penalties.relatives": (
        *("DataGrad", "GradientPenalty", "L1DoubleBack"),
        *("RightReasons", "ScaleableDoubleBack", "Sobolev"),
    ),
    "penalties.schedule": ("Ramp",),
    "penalties.tangents": ("ImageTangents", "TangentProp"),
    "penalties.weights": ("LayerwiseFrobenius", "SpectralNorm"),
    "probing.probe": ("probe",),
    "probing.report": ("ProbeReport",),
    "sam": ("SAM",),
}
_HOME = {name: f"gradreg.{module}" for module, names in _HOMES.items() for name in names}
_MODULES = {"convert": "gradreg.convert", "dense": "gradreg.jacobian.dense", "metrics": "gradreg.metrics"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found: Any = import_module(_MODULES[name])
    elif name in _HOME:
        found = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'gradreg' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
