"""A small convolutional network on CIFAR-10, 200 labels a class. Table 4 has the paper's setting."""

from gradreg.studies._methods import arms, methods
from gradreg.study.config import Data, Model, Optimizer, Protocol, Run, Schedule, Split
from gradreg.study.grid import Study

GRIDS: dict[str, tuple[float, ...]] = {
    "doubleback": (0.3, 1, 3, 10),
    "spectreg": (0.003, 0.01, 0.03, 0.1),
    "frobreg": (0.003, 0.01, 0.03, 0.1),
    "jacreg": (0.1, 0.3, 1, 3),
    "confidencepenalty": (0.05, 0.15, 0.5, 1.5),
}
# The exact penalties of the whole Jacobian cost a backward pass for each class: on request only.
USUAL = ("doubleback", "spectreg", "confidencepenalty")

RUN = Run(
    data=Data("cifar10"),
    split=Split(train_size=2000, validation_size=10000, test_size=0),
    model=Model("convnet"),
    optimizer=Optimizer(learning_rate=0.001, weight_decay=0.0005),
    schedule=Schedule(steps=2000, batch_size=50),
    protocol=Protocol(profile_points=500),
)

STUDY = Study(
    name="cifar10",
    title="cifar10",
    arms=arms(RUN, methods(USUAL, GRIDS)),
    seeds=5,
    tuning_seeds=1,
    about="Which gradient regularizer serves best with 200 labels of each class of CIFAR-10? `gradreg run table4` is "
    "the paper's comparison.",
)
