"""Measures of a trained model: how steep, how sure and how robust it is; see docs/metrics.md.

Every measure runs a module in evaluation mode, a chunk of points at a time, puts its mode back, and leaves parameters
and their gradients alone. A function is run as it is: where a module is called in it, say model.eval() before. Those
that differentiate turn gradients on by themselves.
"""

from gradreg.metrics._chunks import coupling_layers, evaluating
from gradreg.metrics.attacks import FGSM, PGD, Attack, GaussianNoise, robust_accuracy
from gradreg.metrics.calibration import accuracy, expected_calibration_error, negative_log_likelihood, predictions
from gradreg.metrics.curves import Segments, segments, transitions
from gradreg.metrics.margins import Norm, input_margins, logit_margins, saliency
from gradreg.metrics.norms import jacobian_norms, spectral_norm_lower_bounds, spectral_norms
from gradreg.metrics.overview import Norms, Profile, profile
from gradreg.metrics.places import ellipse, interpolated, neighbours, noise

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "GaussianNoise",
    "Norm",
    "Norms",
    "Profile",
    "Segments",
    "accuracy",
    "coupling_layers",
    "ellipse",
    "evaluating",
    "expected_calibration_error",
    "input_margins",
    "interpolated",
    "jacobian_norms",
    "logit_margins",
    "negative_log_likelihood",
    "neighbours",
    "noise",
    "predictions",
    "profile",
    "robust_accuracy",
    "saliency",
    "segments",
    "spectral_norm_lower_bounds",
    "spectral_norms",
    "transitions",
]
