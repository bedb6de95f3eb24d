"""scikit-learn's handwritten digits: 1797 real images of 8 x 8, bundled with the package, no download."""

import torch

from gradreg.data.dataset import DataError, Dataset


def load_digits() -> Dataset:
    """The digits, scaled from 0 ... 16 to [0, 1].

    Raises:
        DataError: scikit-learn is not installed.

    Source: UCI Optical Recognition of Handwritten Digits (its test part), as bundled with scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits as bundled
    except ImportError as error:
        raise DataError("the digits come with scikit-learn: pip install 'gradreg[study]'") from error
    images, labels = bundled(return_X_y=True)
    return Dataset(
        name="digits",
        x=torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16,
        y=torch.tensor(labels, dtype=torch.int64),
        classes=tuple("0123456789"),
    )
