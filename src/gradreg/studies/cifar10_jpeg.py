"""The study ``cifar10`` on the JPEG copy of CIFAR-10."""

from dataclasses import replace

from gradreg.studies import cifar10
from gradreg.studies._methods import arms, methods
from gradreg.study.config import Data
from gradreg.study.grid import Study

GRIDS, USUAL = cifar10.GRIDS, cifar10.USUAL
RUN = replace(cifar10.RUN, data=Data("cifar10-jpeg"))
STUDY: Study = replace(cifar10.STUDY, name="cifar10-jpeg", title="cifar10-jpeg", arms=arms(RUN, methods(USUAL, GRIDS)))
