"""A small convolutional network on TinyImageNet-200, 50 labels a class. Table 5 has the paper's setting."""

from dataclasses import replace

from gradreg.studies import cifar10
from gradreg.studies._methods import arms, methods
from gradreg.study.config import Data, Protocol, Split
from gradreg.study.grid import Study

GRIDS, USUAL = cifar10.GRIDS, cifar10.USUAL
RUN = replace(
    cifar10.RUN,
    data=Data("tinyimagenet"),
    split=Split(train_size=10000, validation_size=10000, test_size=0),
    protocol=Protocol(norm_points=20, profile_points=500),
)
STUDY: Study = replace(
    cifar10.STUDY,
    name="tinyimagenet",
    title="tinyimagenet",
    arms=arms(RUN, methods(USUAL, GRIDS)),
    about="Which gradient regularizer serves best with 50 labels of each class of TinyImageNet-200? `gradreg run "
    "table5` is the paper's comparison.",
)
