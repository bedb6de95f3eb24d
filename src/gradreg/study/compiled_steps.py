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

    Not where a penalty's weight rises, which would make a graph of each step; where the loss is multiplied by a factor;
    and with techniques, which take their steps otherwise. It depends on the run and the device alone, so that a run
    that goes on from a checkpoint is compiled if it was before. cuDNN chooses its algorithms by timing them, for these
    runs alone.

    Args:
        run: what is trained.
        objective: its loss and penalties.
        model: its network.
        device: where.
    """
    rising = any(name == "ramp" for penalty in run.penalties for name, _ in penalty.options)
    ordinary = rising or run.schedule.steps < WORTH_IT or run.loss_factor != 1 or run.technique.used
    found = None if device.type != "cuda" or ordinary else gr.CompiledObjective(objective, model)
    torch.backends.cudnn.benchmark = found is not None
    return found
