"""The check of the paper's section 4.7: do slopes that are small at the training points stay small between them?"""

from gradreg.studies._sin import SCALES, about, named, sin_arm, sin_run
from gradreg.study.grid import Study

WEIGHTS = (0.0, 0.01, 1.0, 10.0)


def study(scale: str = "paper", protocol: str = "scripts") -> Study:
    """Slopes at the points and between them, on SIN for growing weights, and on its doubled set without a penalty.

    On the doubled set, where each point comes again 0.001 to the right, only a function of many steps fits: whether the
    network can be one at all.

    Args:
        scale: "paper" (10000 steps, 10 seeds), "quick" (2000, 3), "smoke" (20, 2).
        protocol: "paper" or "scripts"; see `gradreg.studies._sin`.
    """
    run, doubled = sin_run(scale, protocol), sin_run(scale, protocol, "sin-doubled")
    return Study(
        name=named("stepfunction", scale, protocol),
        title="slopes at the training points of SIN and between them (section 4.7)",
        arms=(
            *(sin_arm(run, weight, protocol, "SIN") for weight in WEIGHTS),
            *(sin_arm(doubled, weight, protocol, "SIN doubled") for weight in WEIGHTS[:2]),
        ),
        seeds=SCALES[scale][1],
        about=f"{about(protocol)} A step function, flat at the training points and steep between them, would have a "
        "small slope at the points and a large one in the middle between neighbours. In the doubled set each point "
        "(x, y) comes a second time as (x + 0.001, y), so that the data themselves ask for steps.",
    )
