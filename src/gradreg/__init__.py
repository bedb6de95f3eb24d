"""Gradient regularization for PyTorch: penalize how fast a model's outputs change with its inputs.

>>> objective = gr.Objective(torch.nn.functional.cross_entropy, gr.SpectReg(0.03))
>>> result = objective(model, x, y)
>>> result.total.backward()
"""

from gradreg import convert, metrics
from gradreg._checks import UnsupportedOperationError
from gradreg._tree import Args
from gradreg.jacobian import dense
from gradreg.jacobian.engine import DoubleBackward, Engine, FiniteDifference, ForwardMode
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import L1, DistanceToGradients, Magnitude, SquaredL2, TargetNorm
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
from gradreg.objective import Objective, Result
from gradreg.penalties.base import Penalty, PenaltySum, Seen
from gradreg.penalties.jacobian import JacobianPenalty
from gradreg.penalties.output import ConfidencePenalty, LabelSmoothing
from gradreg.penalties.presets import DoubleBack, FrobReg, JacReg, SpectReg

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # Train with penalties
    "Objective",
    "Result",
    "DoubleBack",
    "FrobReg",
    "JacReg",
    "SpectReg",
    "ConfidencePenalty",
    "LabelSmoothing",
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
    "L1",
    "SquaredL2",
    "TargetNorm",
    # Measure and convert
    "UnsupportedOperationError",
    "convert",
    "dense",
    "metrics",
]
