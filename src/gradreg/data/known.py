"""The built-in data sets in words, and what has to be said beside numbers from some of them. No torch here."""

# By name: what it is.
KNOWN = {
    "digits": "scikit-learn's handwritten digits, 1797 grey images of 8 x 8, no download",
    "mnist": "MNIST, 70000 grey images of 28 x 28",
    "cifar10": "CIFAR-10, 60000 colour images of 32 x 32",
    "cifar10-jpeg": "CIFAR-10 as a third party saved it as JPEG; only from cifar10-jpeg.zip in the data directory",
    "cifar100": "CIFAR-100, 60000 colour images of 32 x 32",
    "tinyimagenet": "TinyImageNet-200, 110000 colour images of 64 x 64",
    "tinyimagenet-sub100": "100 of the 500 training images of each class of TinyImageNet-200, and its validation set; "
    "only from tiny-imagenet-200-sub100.zip in the data directory",
    "sin": "the paper's synthetic regression, y = sin(5x) with noise",
    "sin-doubled": "the same with each training point twice, at x and x + 0.001",
}
# A sentence beside every number that is made from it.
NOTES = {
    "cifar10-jpeg": "cifar10-jpeg: the images of CIFAR-10 re-encoded as JPEG (quality about 75) by a third party, "
    "which loses a little; numbers are not those of CIFAR-10 itself.",
    "tinyimagenet": "tinyimagenet: the official validation set of 10000 is the test set, since the official test set "
    "has no labels; validation points are drawn from the training set.",
    "tinyimagenet-sub100": "tinyimagenet-sub100: the first 100 of the 500 training images of each class; the official "
    "validation set of 10000 is the test set, and validation points are drawn from the 20000 training images.",
}
