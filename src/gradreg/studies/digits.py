"""100 labels of scikit-learn's handwritten digits: a demonstration in two minutes."""

from gradreg.studies._methods import arms, methods
from gradreg.study.config import Data, Model, Optimizer, Protocol, Run, Schedule, Split
from gradreg.study.grid import Study

GRIDS: dict[str, tuple[float, ...]] = {
    "doubleback": (3, 10, 30, 100),
    "spectreg": (0.01, 0.03, 0.1, 0.3),
    "frobreg": (0.01, 0.03, 0.1, 0.3),
    "jacreg": (3, 10, 30, 100),
    "confidencepenalty": (0.15, 0.5, 1.5, 5),
}
# Of the methods that are taken on request: those of other comparisons are for larger images.
MORE_GRIDS: dict[str, tuple[float, ...]] = {
    "spherical": (0.01, 0.03, 0.1, 0.3),
    "spectreg4": (0.01, 0.03, 0.1, 0.3),
    "randomclass": (0.01, 0.03, 0.1, 0.3),
    "trueclass": (0.1, 0.3, 1, 3),
    "topk": (0.05, 0.15, 0.5, 1.5),
    "probabilityweighted": (0.1, 0.3, 1, 3),
    "topsingular": (0.03, 0.1, 0.3, 1),
    "rightreasons": (0.001, 0.003, 0.01, 0.03),
    "l1doubleback": (0.1, 0.3, 1, 3),
    "scaleable": (0.3, 1, 3, 10),
    "tangentprop": (0.01, 0.03, 0.1, 0.3),
    "layerwise": (0.00003, 0.0001, 0.0003, 0.001),
    "spectralnorm": (0.005, 0.015, 0.05, 0.15),
    "labelsmoothing": (0.11, 0.25, 0.7, 2),
    "weightdecay": (0.0005, 0.005, 0.02, 0.1),
    "adamw": (0.1, 0.3, 1, 3),
}

RUN = Run(
    data=Data("digits"),
    split=Split(train_size=100, validation_size=400, test_size=797),
    model=Model("small-cnn"),
    optimizer=Optimizer(learning_rate=0.003, weight_decay=0.0005),
    schedule=Schedule(steps=200, batch_size=20),
    protocol=Protocol(profile_points=250),  # so few that they take a small part of the time
)

STUDY = Study(
    name="digits",
    title="digits",
    arms=arms(RUN, methods((), GRIDS)),
    seeds=10,
    tuning_seeds=2,
    about="Which gradient regularizer serves best with 100 labels of 8 by 8 handwritten digits? The setting is a "
    "demonstration, not a blind test: docs/compare.md says how it came about.",
)
