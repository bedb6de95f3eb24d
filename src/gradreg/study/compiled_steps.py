"""Which runs take compiled steps: those by themselves on a GPU, which an ordinary step leaves waiting for Python."""

import torch
from torch import nn

import gradreg as gr
from gradreg.study.config import Run

# Compilation takes up to a minute, and saves milliseconds a step: docs/compiled.md.
WORTH_IT = 2000


def compiled_step(
    run: Run, objective: gr.Objective, model: nn.Module, device: torch.device
) -> gr.CompiledObjective | None:
    """The step as one compiled graph, where that pays; None where it does not.

    It depends on the run and the device alone, so that a run that goes on from a checkpoint is compiled if it was
    before. cuDNN then chooses its algorithms by timing them.

    Args:
        run: what is trained.
        objective: its loss and penalties.
        model: its network.
        device: where.
    """
    if device.type != "cuda" or run.schedule.steps < WORTH_IT or run.loss_factor != 1 or run.technique.used:
        return None
    torch.backends.cudnn.benchmark = True
    return gr.CompiledObjective(objective, model)
