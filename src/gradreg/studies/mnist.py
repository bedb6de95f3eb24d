"""LeNet-5 on MNIST, 200 labels a class: the protocol of the paper's appendix B.1 as its scripts read it, shorter."""

from gradreg.studies._methods import arms, methods
from gradreg.study.config import Data, Model, Optimizer, Protocol, Run, Schedule, Split
from gradreg.study.grid import Study

GRIDS: dict[str, tuple[float, ...]] = {
    "doubleback": (5, 20, 50, 100),
    "spectreg": (0.003, 0.01, 0.03, 0.1),
    "frobreg": (0.003, 0.01, 0.03, 0.1),
    "jacreg": (0.1, 0.3, 1, 3),
    "confidencepenalty": (0.05, 0.15, 0.5, 1.5),
}

RUN = Run(
    data=Data("mnist"),
    split=Split(train_size=2000, validation_size=10000, test_size=0),
    model=Model("lenet5"),
    optimizer=Optimizer(learning_rate=0.001, weight_decay=0.0005),
    schedule=Schedule(steps=2000, batch_size=50),
    protocol=Protocol(profile_points=500),
)

STUDY = Study(
    name="mnist",
    title="mnist",
    arms=arms(RUN, methods((), GRIDS)),
    seeds=5,
    tuning_seeds=1,
    about="Which gradient regularizer serves best with 200 labels of each MNIST digit? The paper's protocol has 10000 "
    "steps: `--set schedule.steps=10000`.",
)
