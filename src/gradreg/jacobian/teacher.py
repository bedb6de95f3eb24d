"""The magnitude that measures the distance to the Jacobian of another model, row by row."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gradreg._types import Model
from gradreg.jacobian.forward import ForwardPass
from gradreg.jacobian.linearization import Linearization
from gradreg.jacobian.magnitude import SquaredL2
from gradreg.jacobian.site import Input, Site
from gradreg.jacobian.target import Logits, Target


@dataclass(frozen=True)
class DistanceToTeacher(SquaredL2):
    """Squared L2 distance of the projected Jacobian to a teacher's: ``||w^T (J - J_teacher)||^2``.

    The teacher is differentiated along the rows that are drawn, and no others: with a random projection that is one
    backward pass of the teacher, whatever the number of outputs.

    Args:
        teacher: a module in evaluation mode, or a function of the inputs; its outputs have the shape of the model's.
        target: what is differentiated of its outputs; the same as the penalty's.
        site: with respect to what; the same as the penalty's.

    Raises:
        ValueError: a teacher in training mode, of other outputs than the model, or at another site than the penalty.

    Example:
        >>> teacher = torch.nn.Linear(8, 3).eval()
        >>> close = gr.DistanceToTeacher(teacher)
        >>> gr.JacobianPenalty(0.1, projection=gr.Sphere(), magnitude=close)(model, x).backward()

    Source: Czarnecki et al. 2017 (Sobolev training), also in its stochastic form; the paper's section 3.
    """

    teacher: Model
    target: Target = field(default_factory=Logits)
    site: Site = field(default_factory=Input)

    def reference(self, x: Any, y: Any) -> Linearization:
        """The teacher's Jacobian at this batch."""
        if isinstance(self.teacher, nn.Module) and self.teacher.training:
            raise ValueError(
                "DistanceToTeacher got a teacher in training mode, whose dropout and batch statistics would change "
                "what is taught. Write teacher.eval()."
            )
        return Linearization.of_pass(ForwardPass(self.teacher, x, [self.site]), self.target, y, self.site)

    def __repr__(self) -> str:
        name = getattr(self.teacher, "__name__", type(self.teacher).__name__)
        return f"DistanceToTeacher({name}, target={self.target!r}, site={self.site!r})"
