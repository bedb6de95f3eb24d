"""How long a comparison takes: its own steps and seeds, or fewer."""

from collections.abc import Sequence
from dataclasses import replace

from gradreg.studies._methods import Method
from gradreg.studies._paper import SCALES
from gradreg.study.config import Run
from gradreg.study.grid import Study

# By scale, at most so many final seeds and tuning seeds of each method.
SEEDS = {"quick": (3, 1), "smoke": (2, 1)}


def sized_run(run: Run, scale: str) -> Run:
    """A run of a comparison at a scale: "quick" takes half of the steps, "smoke" five, measured on fewer points."""
    if scale == "quick":
        return replace(run, schedule=replace(run.schedule, steps=max(1, run.schedule.steps // 2)))
    if scale == "smoke":
        return replace(
            run,
            schedule=replace(run.schedule, steps=min(5, run.schedule.steps)),
            split=replace(run.split, validation_size=min(1000, run.split.validation_size)),
            protocol=replace(
                run.protocol,
                norm_points=min(20, run.protocol.norm_points),
                test_points=1000,
                profile_points=min(50, run.protocol.profile_points),
            ),
        )
    return run


def sized_methods(chosen: Sequence[Method], scale: str) -> list[Method]:
    """The methods at a scale: "smoke" tries the smallest and the largest weight."""
    if scale != "smoke":
        return list(chosen)
    return [replace(m, weights=(m.weights[0], m.weights[-1]) if len(m.weights) > 2 else m.weights) for m in chosen]


def sized_study(study: Study, scale: str) -> Study:
    """A comparison with the seeds of a scale, under a name of its own."""
    if scale == SCALES[0]:
        return study
    seeds, tuning = SEEDS[scale]
    return replace(
        study,
        name=f"{study.name}-{scale}",
        title=f"{study.title} ({scale})",
        seeds=min(seeds, study.seeds),
        tuning_seeds=min(tuning, study.tuning_seeds),
    )
