"""The study ``tinyimagenet`` on the copy with 100 training images of each class, of which it takes 40."""

from dataclasses import replace

from gradreg.studies import tinyimagenet
from gradreg.studies._methods import arms, methods
from gradreg.study.config import Data, Split
from gradreg.study.grid import Study

GRIDS, USUAL = tinyimagenet.GRIDS, tinyimagenet.USUAL
RUN = replace(
    tinyimagenet.RUN,
    data=Data("tinyimagenet-sub100"),
    split=Split(train_size=8000, validation_size=4000, test_size=0),
)
STUDY: Study = replace(
    tinyimagenet.STUDY,
    name="tinyimagenet-sub100",
    title="tinyimagenet-sub100",
    arms=arms(RUN, methods(USUAL, GRIDS)),
    about="Which gradient regularizer serves best with 40 labels of each class of TinyImageNet-200? `gradreg run "
    "table5_sub100` is nearer to the paper's comparison.",
)
