"""Figure 2 of the paper: the functions learned on SIN get flatter, everywhere, as the weight grows."""

from gradreg.studies._sin import SCALES, about, named, sin_arm, sin_run
from gradreg.study.grid import Study

# The paper does not print the figure's weights. The runs are those of table 7.
WEIGHTS = (0.0, 0.01, 0.1, 1.0, 10.0)


def study(scale: str = "paper", protocol: str = "scripts") -> Study:
    """The runs whose learned functions the report draws.

    Args:
        scale: "paper" (10000 steps, 10 seeds), "quick" (2000, 3), "smoke" (20, 2).
        protocol: "paper" or "scripts"; see `gradreg.studies._sin`.
    """
    run = sin_run(scale, protocol)
    return Study(
        name=named("figure2", scale, protocol),
        title="functions learned on SIN (figure 2)",
        arms=tuple(sin_arm(run, weight, protocol) for weight in WEIGHTS),
        seeds=SCALES[scale][1],
        about=about(protocol),
    )
