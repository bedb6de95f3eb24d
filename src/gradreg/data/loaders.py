"""The built-in data sets by name, and what reads each; `gradreg.data.known` says what they are."""

from collections.abc import Callable
from functools import partial

from gradreg.data.cifar import load_cifar10, load_cifar100
from gradreg.data.dataset import Dataset
from gradreg.data.digits import load_digits
from gradreg.data.image_sets import load_cifar10_jpeg, load_tinyimagenet, load_tinyimagenet_sub100
from gradreg.data.mnist import load_mnist
from gradreg.data.sin import load_sin

LOADERS: dict[str, Callable[[], Dataset]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "cifar10-jpeg": load_cifar10_jpeg,
    "cifar100": load_cifar100,
    "tinyimagenet": load_tinyimagenet,
    "tinyimagenet-sub100": load_tinyimagenet_sub100,
    "sin": load_sin,
    "sin-doubled": partial(load_sin, doubled=True),
}
