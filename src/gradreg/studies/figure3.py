"""Figure 3 of the paper: a small part of SIN's domain, the baseline and the best weight against the target."""

from dataclasses import replace

from gradreg.studies._sin import PAPER, SCALES, about, named, penalty, sin_run
from gradreg.study.grid import Arm, Grid, Study


def study(scale: str = "paper", protocol: str = "scripts") -> Study:
    """The baseline, and the weight that is best on noisy validation points; the final runs are those of table 7.

    Args:
        scale: "paper" (10000 steps, 10 seeds), "quick" (2000, 3), "smoke" (20, 2).
        protocol: "paper" or "scripts"; see `gradreg.studies._sin`.
    """
    run = sin_run(scale, protocol)
    weights = tuple(weight for weight in PAPER if weight > 0)
    term = penalty(weights[0], protocol)
    return Study(
        name=named("figure3", scale, protocol),
        title="the best weight on SIN, close up (figure 3)",
        arms=(
            Arm("Baseline", run),
            Arm(term.preset, replace(run, penalties=(term,)), Grid((("weight", weights),))),
        ),
        seeds=SCALES[scale][1],
        tuning_seeds=3 if scale == "paper" else 1,
        about=f"{about(protocol)} The weight is chosen on 1000 validation points drawn like the training points.",
    )
