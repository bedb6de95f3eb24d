"""Arrays from .npz files: which way round they lie, what labels mean, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gradreg.data.arrays import read_arrays
from gradreg.data.dataset import DataError
from gradreg.data.own import read_own

np = pytest.importorskip("numpy")

RNG = np.random.default_rng(0)
Y = np.array([3, 1, 1, 3, 7, 7])


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def images(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "axes", "how"),
    [
        ((6, 9, 8), None, "grey images (N, H, W)"),
        ((6, 9, 8, 1), (0, 3, 1, 2), "images (N, H, W, C)"),
        ((6, 9, 8, 3), (0, 3, 1, 2), "images (N, H, W, C)"),
        ((6, 3, 9, 8), (0, 1, 2, 3), "images (N, C, H, W)"),
        ((6, 1, 9, 8), (0, 1, 2, 3), "images (N, C, H, W)"),
    ],
    ids=str,
)
def test_images_lie_as_their_shape_says(tmp_path: Path, shape: tuple[int, ...], axes: Any, how: str) -> None:
    x = images(*shape)
    own = read_own(saved(tmp_path, X=x, y=Y))
    expected = x[:, None] if axes is None else x.transpose(axes)
    assert own.dataset.x.dtype == torch.uint8
    assert np.array_equal(own.dataset.x.numpy(), expected)
    assert own.dataset.x.is_contiguous()
    assert own.notes[0] == f"X of shape {shape} was read as {how}."
    assert own.dataset.name == "own"
    assert own.dataset.classes == ("1", "3", "7")
    assert own.dataset.y.tolist() == [1, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
def test_a_fourth_channel_is_dropped(tmp_path: Path, last: bool) -> None:
    x = images(6, 9, 8, 4) if last else images(6, 4, 9, 8)
    own = read_own(saved(tmp_path, X=x, y=Y))
    assert np.array_equal(own.dataset.x.numpy(), x[..., :3].transpose(0, 3, 1, 2) if last else x[:, :3])
    assert own.notes[0].endswith(", without their fourth channel.")


def test_features_and_other_numbers_are_float32(tmp_path: Path) -> None:
    x = RNG.normal(size=(6, 5))
    own = read_own(saved(tmp_path, x=x, Y=Y))
    assert own.dataset.x.dtype == torch.float32
    assert np.array_equal(own.dataset.x.numpy(), x.astype(np.float32))
    assert own.notes == ("Classes with fewer than 3 training points: 1: 2, 3: 2, 7: 2.",)
    floats = RNG.normal(size=(6, 8, 8, 3)) * 300
    assert read_own(saved(tmp_path, X=floats, y=Y)).dataset.x.abs().max() > 255
    whole = images(6, 8, 8).astype(np.int64)
    assert read_own(saved(tmp_path, X=whole, y=Y)).dataset.x.dtype == torch.uint8
    assert read_own(saved(tmp_path, X=whole - 1, y=Y)).dataset.x.dtype == torch.float32
    assert read_own(saved(tmp_path, X=whole.reshape(6, 64), y=Y)).dataset.x.dtype == torch.float32


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array(["b", "a", "a", "b", "ü", "ü"]), ("a", "b", "ü")),
        (np.array([b"b", b"a", b"a", b"b", b"c", b"c"]), ("a", "b", "c")),
        (np.eye(3)[[1, 0, 0, 1, 2, 2]], ("0", "1", "2")),
        (np.array([10, 9, 9, 10, 11, 11]), ("9", "10", "11")),
        (np.array([[3], [1], [1], [3], [7], [7]]), ("1", "3", "7")),
        (np.array([1.0, 0.0, 0.0, 1.0, 2.0, 2.0]), ("0", "1", "2")),
        (np.array([3, 1, 1, 3, 7, 7], dtype=np.uint8), ("1", "3", "7")),
    ],
    ids=["strings", "bytes", "one-hot", "numbers in order", "column", "floats", "uint8"],
)
def test_labels_of_all_kinds(tmp_path: Path, y: Any, classes: tuple[str, ...]) -> None:
    found = read_arrays(saved(tmp_path, X=RNG.normal(size=(6, 4)), y=y))
    assert found.classes == classes
    assert found.y["train"].dtype == torch.int64
    assert found.y["train"].tolist() == [1, 0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test", "x_val", "y_val"),
        ("X_train", "Y_train", "X_test", "Y_test", "X_val", "Y_val"),
        ("train_images", "train_labels", "test_images", "test_labels", "val_images", "val_labels"),
    ],
    ids=lambda names: names[0],
)
def test_official_parts_are_used(tmp_path: Path, names: tuple[str, ...]) -> None:
    values = [RNG.normal(size=(9, 4)), Y.repeat(2)[:9], RNG.normal(size=(2, 4)), Y[:2], RNG.normal(size=(3, 4)), Y[:3]]
    own = read_own(saved(tmp_path, **dict(zip(names, values, strict=True))))
    data = own.dataset
    assert data.test_y is not None
    assert data.validation_y is not None
    assert [len(data.y), len(data.test_y), len(data.validation_y)] == [9, 2, 3]
    keras = read_own(saved(tmp_path, **dict(zip(names[:4], values, strict=False))))
    assert keras.notes[-1] == (
        f"{names[2]} is the test set; there is no validation set, so validation points are drawn from {names[0]}."
    )


def test_images_are_resized_only_when_asked(tmp_path: Path) -> None:
    x = np.zeros((6, 40, 120), dtype=np.uint8)
    x[:, :, 40:80] = 200
    path = saved(tmp_path, X=x, y=Y)
    assert read_own(path).dataset.x.shape == (6, 1, 40, 120)
    own = read_own(path, image_size=16)
    assert own.dataset.x.shape == (6, 1, 16, 16)
    assert own.dataset.x.dtype == torch.uint8
    assert (own.dataset.x == 200).all()
    assert own.notes[1] == "The images of 120 x 40 pixels (their middle squares) were made 16 x 16."
    assert read_own(saved(tmp_path, X=x[:, :16, :16], y=Y), image_size=16).dataset.x.shape == (6, 1, 16, 16)


X = np.zeros((6, 4))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"X": X, "z": Y}, r"has X, z; expected x and y, both and once\. Rename them\."),
    "other names": ({"data": X, "target": Y}, r"has data, target; expected X and y, or x_train, y_train, x_test and y"),
    "no training part": ({"x_test": X, "y_test": Y}, r"has x_test, y_test; expected X and y, or x_train"),
    "two training parts": ({"X": X, "y": Y, "x_train": X, "y_train": Y}, r"expected x and y, both and once"),
    "lengths": ({"X": X, "y": Y[:5]}, r"X has the shape \(6, 4\) and y \(5,\); expected one label for each input"),
    "NaN": ({"X": X + np.array([np.nan, 0, 0, 0]), "y": Y}, r"X has 6 inputs with numbers that are not finite \(NaN"),
    "too large": ({"X": X + 1e300, "y": Y}, r"not finite \(NaN, infinite, or beyond float32\)\. Fill the gaps or take"),
    "objects": ({"X": np.array([{}] * 6), "y": Y}, r"holds an array of Python objects, .* expected numbers or strings"),
    "object labels": ({"X": X, "y": Y.astype(object)}, r"holds an array of Python objects"),
    "strings": ({"X": X.astype(str), "y": Y}, r"X has the type <U32; expected bytes or numbers\."),
    "five channels": ({"X": np.zeros((6, 8, 8, 5)), "y": Y}, r"X has the shape \(6, 8, 8, 5\); expected \(N, H, W\), "),
    "one dimension": ({"X": X[:, 0], "y": Y}, r"X has the shape \(6,\); expected \(N, H, W\)"),
    "empty": ({"X": X[:0], "y": Y[:0]}, r"X has the shape \(0, 4\), which is empty; expected one or more inputs"),
    "one class": ({"X": X, "y": 0 * Y}, r"has inputs of 1 class \(0\); expected two classes or more"),
    "fractions": ({"X": X, "y": Y + 0.5}, r"y has the type float64 and is no list of classes; expected whole numbers"),
    "probabilities": ({"X": X, "y": np.full((6, 2), 0.5)}, r"y has the shape \(6, 2\), but not a single 1 in each row"),
    "high labels": ({"X": X, "y": np.zeros((6, 2, 2))}, r"y has the shape \(6, 2, 2\); expected \(N,\), or \(N, cl"),
    "new class": (
        {"X": X, "y": Y, "x_test": X, "y_test": Y + 1},
        r"y_test has classes that y does not have: 2, 4, 8\.",
    ),
    "mixed labels": ({"X": X, "y": Y, "x_test": X, "y_test": Y.astype(str)}, r"y_test and y are not both numbers or"),
    "mixed shapes": (
        {"X": X, "y": Y, "x_test": X[:, :3], "y_test": Y},
        r"has inputs of unequal shapes: X \(4,\), x_test \(3,\); expected the same for all\.",
    ),
}


@pytest.mark.parametrize(("arrays", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_says_why(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_own(saved(tmp_path, **arrays))
    assert str(tmp_path / "own.npz") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\3\4"], ids=["empty", "text", "head"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"own\.npz cannot be read as an \.npz file: .* Write it again: np\.savez"):
        read_own(path)


def test_image_size_is_for_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds vectors of 4 features; image_size=16 is for images: leave it out\.$"):
        read_own(saved(tmp_path, X=X, y=Y), image_size=16)


def test_without_numpy_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, X=X, y=Y)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(DataError, match=r"^reading \.npz files needs numpy: pip install 'gradreg\[study\]'$"):
        read_own(path)
