"""Measures of a trained model: how steep, how sure and how robust it is; see docs/metrics.md.

Every measure runs the model in evaluation mode, a chunk of points at a time, puts its mode back, and leaves parameters
and their gradients alone. Those that differentiate turn gradients on by themselves.
"""

from gradreg.metrics._chunks import evaluating
from gradreg.metrics.norms import jacobian_norms, spectral_norm_lower_bounds, spectral_norms

__all__ = [
    "evaluating",
    "jacobian_norms",
    "spectral_norm_lower_bounds",
    "spectral_norms",
]
