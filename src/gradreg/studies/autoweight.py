"""Weights that move while a network trains, beside the paper's, which it searched for each training size: MNIST."""

from dataclasses import replace

from gradreg.studies import _mnist
from gradreg.studies._methods import RATIO
from gradreg.studies._paper import Asked
from gradreg.studies.table8 import arms
from gradreg.study.config import Run, Technique
from gradreg.study.grid import Arm, Study

# Steps, seeds, training sizes.
SIZES = {"paper": (10000, 10, (500, 2000)), "quick": (1000, 3, (500, 2000)), "smoke": (5, 2, (500,))}


def study(scale: str = "paper", protocol: str = "paper") -> Study:
    """The baseline and the four regularizers with the weights of the paper's table 8, and each moved by `AutoWeight`.

    Args:
        scale: "paper", "quick" or "smoke".
        protocol: "paper" or "scripts"; see `gradreg.studies._mnist`.

    Source: not of the paper, whose weights range from 0.00003 to 20000; `gradreg.AutoWeight`.
    """
    asked = Asked(scale, protocol)
    steps, seeds, sizes = SIZES[asked.scale]
    found: list[Arm] = []
    for size in sizes:
        for arm in arms(asked, steps, size, searched=False):
            found.append(arm)
            if arm.run.penalties:
                found.append(replace(arm, name=f"{arm.name}(auto)", run=_moving(arm), reported=None))
    return Study(
        name=asked.name("autoweight"),
        title=asked.title("weights that move while a network trains, beside the paper's, MNIST"),
        arms=tuple(found),
        seeds=seeds,
        about="Does a weight that moves while the network trains do as well as one that was searched? The paper's "
        "weights are those of its table 8, for each regularizer at each training size. " + _mnist.reading(asked),
    )


def _moving(arm: Arm) -> Run:
    """The same with a weight that moves, from where one is found for it."""
    (penalty,) = arm.run.penalties
    return replace(arm.run, penalties=(replace(penalty, weight=1.0),), technique=Technique(auto_weight=RATIO))
