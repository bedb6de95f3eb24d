"""The digits against scikit-learn's own copy, and the error without it."""

import sys

import pytest
import torch

from gradreg.data.dataset import DataError
from gradreg.data.digits import load_digits


def test_the_digits_are_scikit_learns_scaled_to_one() -> None:
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    found = load_digits()
    assert found.x.dtype == torch.float32
    assert torch.equal(found.x[:, 0] * 16, torch.tensor(bundled.images, dtype=torch.float32))
    assert torch.equal(found.y, torch.tensor(bundled.target))


def test_the_digits_have_the_published_shape_and_counts() -> None:
    found = load_digits()
    assert found.name == "digits"
    assert found.classes == tuple("0123456789")
    assert found.x.shape == (1797, 1, 8, 8)
    assert found.x.min() == 0
    assert found.x.max() == 1
    assert found.y.dtype == torch.int64
    assert found.y[:10].tolist() == list(range(10))
    assert found.y.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert found.test_x is None
    assert found.test_y is None


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        DataError, match=r"the digits come with scikit-learn: pip install 'gradreg\[study\]'$"
    ) as caught:
        load_digits()
    assert isinstance(caught.value.__cause__, ImportError)
