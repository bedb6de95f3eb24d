"""Penalties on single layers: their Jacobians one by one, or their weights alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from gradreg import _checks, _random
from gradreg.jacobian._composed import refuse_marked
from gradreg.jacobian._fast_modes import Phase
from gradreg.jacobian._refusals import refuse_sharded, translated
from gradreg.jacobian.magnitude import flat, wide
from gradreg.jacobian.site import LAYERS_WITH_WEIGHTS, LayerInputs
from gradreg.penalties.base import Penalty, module_of
from gradreg.penalties.jacobian import rehearse_once
from gradreg.penalties.passes import Seen
from gradreg.penalties.schedule import Factor

_OTHERS = "gr.SpectReg with engine=gr.FiniteDifference(), which looks at the whole network"


class LayerwiseFrobenius(Penalty):
    """``weight * mean_i sum_l ||d h_l / d h_(l-1)||_F^2``: the Jacobian of each layer, in place of that of the network.

    h_0, ..., h_(L-1) are the inputs of the layers with weights (dense, convolutional) in the order of their calls, h_L
    the outputs; a layer is what lies between, its activation and pooling included. The Jacobian of the network is the
    product of these, so its norm is at most the product of theirs. Each norm is estimated with one random row
    r ~ N(0, I) for each example, ``E ||J_l^T r||^2 = ||J_l||_F^2``, all of them in one backward pass. Where h_l does
    not depend on h_(l-1), as in parallel branches, that term is 0.

    Args:
        weight: multiplies the mean; no hidden 1/2. The source has a weight for each layer, and adds norms.
        samples: rows for each layer and example, averaged.
        every, fraction, ramp: see `Penalty`.

    Raises:
        TypeError, ValueError: a model that is no module, has no layer with weights, or was run by the caller.
        UnsupportedOperationError: an operation without a double backward, named; sharded models; layers whose
            activations are checkpointed.

    Example:
        >>> gr.LayerwiseFrobenius(0.01)(model, x).backward()

    Cost: (1 + samples)x a plain step at the floor.

    Source: Gu & Rigazio 2014, the layer-wise penalty of deep contractive networks; Sokolic et al. 2017, which bounds
    the Jacobian of a network by those of its layers.
    """

    apart = False

    def __init__(
        self,
        weight: float,
        *,
        samples: int = 1,
        every: int = 1,
        fraction: float = 1.0,
        ramp: Factor | int | None = None,
    ):
        super().__init__(weight, "layerwisefrobenius", every=every, fraction=fraction, ramp=ramp)
        _checks.positive_integer(samples, "samples", "LayerwiseFrobenius")
        self.samples = samples
        self.sites = (LayerInputs(),)

    def value(self, seen: Seen) -> Tensor:
        """See `Penalty.value`."""
        model = module_of(seen, self)
        assert seen.forward is not None
        forward = seen.forward
        inputs = forward.tensors(LayerInputs())
        if not inputs:
            raise ValueError(
                "LayerwiseFrobenius found no layer with weights that the model calls; expected nn.Linear or nn.Conv1d, "
                "nn.Conv2d, nn.Conv3d. Use gr.SpectReg, which looks at the whole network."
            )
        refuse_sharded(model, tangents=False)
        chain = [*inputs, _checks.outputs_tensor(seen.outputs, "LayerwiseFrobenius")]
        for h in chain:
            _checks.same_batch(h, forward.batch, "the input of a layer", "The batch comes first in each.")
        measures = []
        with _explaining():
            for below, above in pairwise(chain):
                for _ in range(self.samples if above.requires_grad else 0):
                    row = _random.normal(above.shape, above.detach(), seen.generator)
                    with forward.phase.of_rows():
                        (found,) = torch.autograd.grad(above, below, row, create_graph=True, allow_unused=True)
                    if found is not None:
                        measures.append(flat(wide(found)).square().sum(1))
            if not measures:
                raise _checks.independent_of_site("the inputs of its layers")
            value = torch.stack(measures).sum(0).mean() / self.samples
            if value.requires_grad:
                key = type(self), model.training
                rehearse_once(model, key, lambda: _differentiate(value, chain, model, forward.phase))
        return value

    def __repr__(self) -> str:
        return f"LayerwiseFrobenius({self.weight:g}, samples={self.samples})"


@contextmanager
def _explaining() -> Iterator[None]:
    """Says what torch's errors about derivatives mean for a penalty on layers, which has no choice of engines."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if type(error).__name__ == "CheckpointError":
            raise _checks.UnsupportedOperationError(
                "LayerwiseFrobenius cannot look at layers whose activations are checkpointed: they are run again "
                "without it. Leave the checkpoint out, or use gr.SpectReg, which looks at the whole network. (The "
                f"cause: {str(error).splitlines()[0]})"
            ) from error
        if isinstance(error, _checks.UnsupportedOperationError):
            raise
        explained = translated(error, "DoubleBackward()")
        if explained is None and _checks.speaks_of_missing_derivative(error):
            explained = _checks.unsupported(error, "DoubleBackward()", _OTHERS)
        if explained is None:
            raise
        raise explained from error


def _differentiate(value: Tensor, chain: list[Tensor], model: nn.Module, phase: Phase) -> None:
    """Differentiates the value once, and looks for functions that have no second derivative and say nothing of it."""
    for below, above in pairwise(chain):
        if above.requires_grad:
            u = torch.zeros_like(above).requires_grad_()
            with phase.of_rows():
                (found,) = torch.autograd.grad(above, below, u, create_graph=True, allow_unused=True)
            if found is not None:
                refuse_marked(found, above)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.autograd.grad(value, [chain[0], *parameters], retain_graph=True, allow_unused=True)


class SpectralNorm(Penalty):
    """``weight * sum_l sigma(W_l)^2``: the largest singular value of each layer's weights, by power iteration.

    W_l is the matrix of a dense layer, or the filters of a convolution as a matrix (out, in * height * width). The
    singular vectors are held fixed when the penalty is differentiated, which is exact once they have converged. They
    are found anew at each step from a random start, so that nothing has to be kept between steps; with few iterations
    sigma is a lower bound. It depends neither on inputs nor on labels.

    Args:
        weight: multiplies the sum; no hidden 1/2. The source's lambda carries one: it is 2 * weight.
        iterations: rounds of ``v <- W^T W v / ||...||``; the source keeps v from step to step and makes one.
        every, ramp: see `Penalty`.

    Raises:
        TypeError, ValueError: a model that is no module, has no layer with weights, or was run by the caller.

    Example:
        >>> gr.SpectralNorm(0.01)(model, x).backward()

    Cost: 1.0x a plain step at the floor: products of a matrix and a vector, none of which grows with the batch.

    Source: Yoshida & Miyato 2017, spectral norm regularization, algorithm 1.
    """

    apart = False

    def __init__(self, weight: float, *, iterations: int = 5, every: int = 1, ramp: Factor | int | None = None):
        super().__init__(weight, "spectralnorm", every=every, ramp=ramp)
        _checks.positive_integer(iterations, "iterations", "SpectralNorm")
        self.iterations = iterations

    def value(self, seen: Seen) -> Tensor:
        """See `Penalty.value`; a sum over layers, the same for every batch."""
        model = module_of(seen, self)
        weights = [layer.weight for layer in model.modules() if isinstance(layer, LAYERS_WITH_WEIGHTS)]
        if not weights:
            raise ValueError(
                "SpectralNorm found no layer with weights in the model; expected nn.Linear or nn.Conv1d, nn.Conv2d, "
                "nn.Conv3d."
            )
        found = [largest_singular_value(w.flatten(1), self.iterations, seen.generator) for w in weights]
        return torch.stack(found).square().sum()

    def __repr__(self) -> str:
        return f"SpectralNorm({self.weight:g}, iterations={self.iterations})"


def largest_singular_value(matrix: Tensor, iterations: int, generator: Generator | None) -> Tensor:
    """The largest singular value by power iteration from a random vector, with the gradient ``u v^T``.

    Args:
        matrix: (m, n).
        iterations: at least 1.
        generator: draws the start.

    Returns:
        A 0-dimensional tensor in float32 or better, at most the largest singular value.
    """
    matrix = wide(matrix)
    fixed = matrix.detach()
    v = _random.normal((matrix.shape[1],), fixed, generator)
    u = fixed @ v
    for _ in range(iterations):
        v = torch.nn.functional.normalize(fixed.T @ u, dim=0)
        u = fixed @ v
    return torch.nn.functional.normalize(u, dim=0) @ (matrix @ v)
