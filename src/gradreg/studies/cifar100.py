"""A small convolutional network on CIFAR-100, 200 labels a class. Table 4 has the paper's setting."""

from dataclasses import replace

from gradreg.studies import cifar10
from gradreg.studies._methods import arms, methods
from gradreg.study.config import Data, Protocol, Split
from gradreg.study.grid import Study

GRIDS, USUAL = cifar10.GRIDS, cifar10.USUAL
RUN = replace(
    cifar10.RUN,
    data=Data("cifar100"),
    split=Split(train_size=20000, validation_size=10000, test_size=0),
    protocol=Protocol(norm_points=50, profile_points=500),
)
STUDY: Study = replace(
    cifar10.STUDY,
    name="cifar100",
    title="cifar100",
    arms=arms(RUN, methods(USUAL, GRIDS)),
    about="Which gradient regularizer serves best with 200 labels of each class of CIFAR-100? `gradreg run table4` is "
    "the paper's comparison.",
)
