"""The comparison on the user's own data: a setting by the data's size, to be overridden where one knows better."""

from gradreg.studies._methods import Method, arms
from gradreg.study.config import Data, Model, Optimizer, Protocol, Run, Schedule, Split, StudyError
from gradreg.study.grid import Study
from gradreg.study.own_data import Facts

# The exact penalties of the whole Jacobian (frobreg, jacreg) cost a backward pass for each class: on request only.
GRIDS: dict[str, tuple[float, ...]] = {
    "doubleback": (0.3, 1, 3, 10, 30),
    "spectreg": (0.003, 0.01, 0.03, 0.1),
    "confidencepenalty": (0.05, 0.15, 0.5, 1.5),
}
MORE_GRIDS: dict[str, tuple[float, ...]] = {"frobreg": (0.003, 0.01, 0.03, 0.1), "jacreg": (0.1, 0.3, 1, 3)}


ALL_POINTS = (
    "Training takes all points that are left, the same for every seed: the intervals cover initialization and batches, "
    "not the draw of the training points. --train-size draws a subset for each seed"
)


def own_run(
    facts: Facts,
    *,
    model: str | None,
    train_size: int | None,
    steps: int | None,
    batch_size: int | None,
    balanced: bool,
) -> Run:
    """The run of seed 0 without a penalty.

    Args:
        facts: of the data.
        model, train_size, steps, batch_size: what the user asks for; None for the default. By default validation gets a
            fifth of the points (at most 2000) and test a quarter (at most 5000), where the data has no such sets of its
            own; the rest is for training.
        balanced: draw the same number of each class.

    Raises:
        StudyError: too few points.
    """
    test = 0 if facts.test else min(5000, facts.points // 4)
    validation = 0 if facts.validation else min(2000, (facts.points - test) // 5)
    left = facts.points - test - validation
    measured = min(500, facts.test or test)
    if left < 2 or (not facts.test and test < 1) or (not facts.validation and validation < 1):
        raise StudyError(
            f"{facts.name} has {facts.points} points; expected at least 10, to be parted into training, validation and "
            "test points."
        )
    train = left if train_size is None else train_size
    batch = batch_size or max(1, min(50, train // 10))
    taken = steps or max(300, min(2000, 60 * train // batch))
    name = model or default_model(facts.shape)
    return Run(
        data=Data(facts.name, facts.content),
        split=Split(train, validation, test, balanced=balanced),
        model=Model(name),
        optimizer=Optimizer(learning_rate=0.001 if name == "lenet5" else 0.003, weight_decay=0.0005),
        schedule=Schedule(steps=taken, batch_size=batch),
        protocol=Protocol(norm_points=measured, profile_points=measured),
    )


def default_model(shape: tuple[int, ...]) -> str:
    """The built-in network that fits inputs of a shape."""
    if shape == (1, 28, 28):
        return "lenet5"
    if shape == (1, 8, 8):
        return "small-cnn"
    return "convnet" if len(shape) == 3 and min(shape[1:]) >= 8 else "mlp"


def own_study(facts: Facts, run: Run, chosen: list[Method], unlabelled: int = 0) -> Study:
    """Baseline and methods on the user's own data."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in facts.name).strip("-") or "data"
    return Study(
        name=name,
        title=facts.name,
        arms=arms(run, chosen, unlabelled),
        seeds=5,
        tuning_seeds=1,
        about=f"Which gradient regularizer serves best on {facts.name}, {facts.points} points of {facts.classes} "
        "classes?",
    )
