"""The built-in data sets: each has a reader and a description."""

from gradreg.data.known import KNOWN, NOTES
from gradreg.data.loaders import LOADERS


def test_every_data_set_has_a_reader_and_a_description() -> None:
    assert list(LOADERS) == list(KNOWN)
    assert all(KNOWN.values())
    assert set(NOTES) <= set(KNOWN)


def test_numbers_from_the_lossy_copy_carry_a_note() -> None:
    assert "JPEG" in NOTES["cifar10-jpeg"]
    assert "third party" in NOTES["cifar10-jpeg"]
