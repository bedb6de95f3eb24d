"""Weights beyond the paper's on SIN: how the learned function flattens, and where its error ends."""

from gradreg.studies._sin import SCALES, about, named, sin_arm, sin_run
from gradreg.study.grid import Study

# The best weight of table 7 is 0.01; from 0.1, ten times that, to its largest, 10, the runs are those of the table.
WEIGHTS = (0.0, 0.01, 0.1, 1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 10000.0)


def study(scale: str = "paper", protocol: str = "scripts") -> Study:
    """Test MSE and learned functions for weights of up to a million times the best.

    Args:
        scale: "paper" (10000 steps, 10 seeds), "quick" (2000, 3), "smoke" (20, 2).
        protocol: "paper" or "scripts"; see `gradreg.studies._sin`.

    Source: the paper's section 4.7 has weights of up to 10; its conclusion asks for synthetic experiments on how
    gradient regularization and stochastic gradient descent act together.
    """
    run = sin_run(scale, protocol)
    return Study(
        name=named("sinstrong", scale, protocol),
        title="strong weights on SIN (beyond table 7)",
        arms=tuple(sin_arm(run, weight, protocol) for weight in WEIGHTS),
        seeds=SCALES[scale][1],
        about=f"{about(protocol)} A function that is flat everywhere is a constant; the best is the mean of "
        "the training labels: does the error end at that constant's, does it get there gradually, and does a penalty "
        "on the training points alone leave steps between them?",
    )
