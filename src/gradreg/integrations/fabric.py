"""Lightning Fabric: the whole step as the module that Fabric sets up. Needs torch alone."""

from typing import Any

from torch import Tensor, nn

from gradreg import _checks
from gradreg._types import InputTree, Labels
from gradreg.objective import Objective


class RegularizedStep(nn.Module):
    """A model with its objective, as one module: ``step(x, y)`` returns the total, the task's loss and each term.

    Under ``precision="bf16-mixed"`` Fabric forbids to differentiate the outputs of a module that it has set up by
    anything but ``fabric.backward``, which a penalty has to. It does not mind what happens within the module. So set
    this up in the place of the model.

    Args:
        model: to be trained; its parameters are ``step.model.parameters()``, its state ``step.model.state_dict()``.
        objective: the task's loss and penalties.

    Returns:
        A dict of 0-dimensional tensors: "total", on which to call ``fabric.backward``, "task", and each term by name.

    Example:
        >>> step = RegularizedStep(model, gr.Objective(torch.nn.functional.cross_entropy, gr.SpectReg(0.03)))
        >>> step, optimizer = fabric.setup(step, optimizer)
        >>> fabric.backward(step(x, y)["total"])
        >>> optimizer.step(); optimizer.zero_grad()
    """

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        _checks.instance(objective, Objective, "objective", "gr.Objective(cross_entropy, gr.SpectReg(0.03))")
        self.model = model
        self.objective = objective

    def forward(self, x: InputTree, y: Labels, step: int | None = None) -> dict[str, Tensor]:
        """Runs the model and the penalties; see `Objective`."""
        result: Any = self.objective(self.model, x, y, step=step)
        return {"total": result.total, "task": result.task, **result.terms}
