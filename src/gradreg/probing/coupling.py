"""Whether the examples of a batch are coupled, by how much, and which layers couple them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradreg import _random, _tree
from gradreg._types import InputTree, Labels
from gradreg.jacobian._state import uses_batch
from gradreg.jacobian.forward import ForwardPass
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import norms, wide
from gradreg.jacobian.site import Site
from gradreg.jacobian.target import Target
from gradreg.probing.layers import Call, blamed, listed, recorded

EXAMPLES = 8
ROWS = 2


@dataclass(frozen=True)
class Coupling:
    """How much the outputs of one example depend on the other examples of the batch.

    Attributes:
        leak: ``sqrt(sum_i sum_(j != i) ||dz_i/dx_j||_F^2 / sum_i ||dz_i/dx_i||_F^2)``, estimated with two normal rows
            for each of the first eight examples i; 0 where examples are independent. None for a batch of one.
        layers: the submodules that couple examples; the empty name is the model's own ``forward``.
        remedy: what to do; empty where there is nothing to do.
    """

    leak: float | None
    layers: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        if self.leak is None:
            return "Examples: one alone cannot be coupled to others; pass a batch of at least 2."
        if not self.leak:
            return "Examples: independent; no output depends on another example of the batch."
        where = f" by {listed(self.layers)}" if self.layers else ""
        return (
            f"Examples: coupled{where}. The derivatives by the other examples come to {self.leak:.2g} of those by an "
            f"example's own input. {self.remedy}"
        )


def measure_coupling(
    model: nn.Module, x: InputTree, y: Labels, target: Target, site: Site, *, rows: int = ROWS
) -> Coupling:
    """Differentiates the targets of single examples by the whole batch.

    Args:
        model, x, y, target, site: see `gradreg.probe`.
        rows: how many random rows are drawn for each example.
    """
    with recorded(model) as calls:
        forward = ForwardPass(model, x, [site], fast=False)
    at = Linearization.of_pass(forward, target, y, site)
    if at.batch == 1:
        return Coupling(None)
    generator = _random.generator_for(0, "coupling")
    own = others = 0.0
    for example in range(min(EXAMPLES, at.batch)):
        for _ in range(rows):
            row = torch.zeros_like(at.z)
            row[example] = _random.normal(at.z.shape[1:], at.z, generator)
            squares = norms(at.gradient(row)).double().square()
            own += squares[example].item()
            others += squares.sum().item() - squares[example].item()
    # What remains of rounding: exactly zero for most nets, in half precision too.
    if not others > (100 * torch.finfo(wide(at.z).dtype).eps) ** 2 * own:
        return Coupling(0.0)
    layers = blamed(calls, lambda call: _couples(call, at.batch))
    normalizing = [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm) and uses_batch(layer)]
    layers = tuple(dict.fromkeys((*layers, *normalizing)))
    leak = (others / own) ** 0.5 if own > 0 else float("inf")
    return Coupling(leak, layers, _remedy(model, layers))


def _couples(call: Call, batch: int) -> bool:
    """Whether the first example of what a call returned depends on others of its inputs."""

    def of_batch(tree: object) -> list[Tensor]:
        found = [tensor for _, tensor in _tree.tensors(tree) if tensor.ndim and len(tensor) == batch]
        return [tensor for tensor in found if tensor.is_floating_point() and tensor.requires_grad]

    inputs, outputs = of_batch(call.inputs), of_batch(call.outputs)
    if not inputs or not outputs:
        return False
    rows = [torch.zeros_like(output) for output in outputs]
    for row in rows:
        row[0] = torch.randn_like(row[0])
    try:
        found = torch.autograd.grad(outputs, inputs, rows, retain_graph=True, allow_unused=True)
    except RuntimeError:  # an operation in place behind the layer; its neighbours tell
        return False
    parts = [g for g in found if g is not None]
    if not parts:
        return False
    norm = norms(parts)
    return bool(norm[1:].max() > 100 * torch.finfo(norm.dtype).eps * norm.max())


def _remedy(model: nn.Module, layers: tuple[str, ...]) -> str:
    found = [model.get_submodule(name) for name in layers]
    sentences = []
    if any(isinstance(layer, _BatchNorm) for layer in found):
        sentences.append(
            "Batch normalization: call eval() on these layers for frozen statistics, take torch.nn.GroupNorm in their "
            "place, or accept it, as the paper does. DoubleBackward() differentiates through the statistics of the "
            "batch; ForwardMode() and FiniteDifference() hold them fixed."
        )
    if any(getattr(layer, "batch_first", True) is False for layer in found):
        sentences.append("A layer that is told batch_first=False takes the batch in dimension 1: write True.")
    if not sentences:
        sentences.append(
            "A penalty is then no sum over examples: use statistics of each example alone (LayerNorm, GroupNorm), or "
            "accept it."
        )
    return " ".join(sentences)
