"""A trained network as a file: as accurate as when it was measured, and refused where it is not whole."""

import io
from pathlib import Path

import pytest
import torch
from runs_for_tests import SIN, SPECTREG, spoil, with_dropout

from gradreg.data.splits import indices
from gradreg.study.config import Run, StudyError
from gradreg.study.grid import put
from gradreg.study.train import dataset, train
from gradreg.study.trained import Trained, load, pack_model

DIGITS = dataset("digits")
RUN = put(SPECTREG, {"schedule.steps": 40})


def file_of(run: Run, path: Path) -> float:
    """Trains, keeps the network and gives its test accuracy."""
    found, training = train(run, DIGITS)
    path.write_bytes(pack_model(training, DIGITS))
    return found["test_accuracy"]


@pytest.fixture(name="packed", scope="module")
def _packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    path = tmp_path_factory.mktemp("trained") / "model.pt"
    accuracy = file_of(RUN, path)
    return path.read_bytes(), accuracy


@pytest.fixture(name="path")
def _path(tmp_path: Path, packed: tuple[bytes, float]) -> Path:
    (tmp_path / "model.pt").write_bytes(packed[0])
    return tmp_path / "model.pt"


def test_a_regression_predicts_numbers(tmp_path: Path) -> None:
    run, sin = put(SIN, {"schedule.steps": 10}), dataset("sin")
    found, training = train(run, sin)
    (tmp_path / "model.pt").write_bytes(pack_model(training, sin))
    loaded = load(tmp_path / "model.pt")
    assert sin.test_x is not None
    assert sin.test_y is not None
    predicted = torch.tensor(loaded.predict(sin.test_x))
    assert loaded.classes == ()
    assert float((predicted - sin.test_y[:, 0]).square().mean()) == pytest.approx(found["test_mse"], rel=1e-5)


def right(classifier: Trained) -> float:
    """Percentage of right names on the test points, as the data set holds them."""
    test = indices(DIGITS, 100, 400, 797, seed=0).test
    names = classifier.predict(DIGITS.x[test])
    return 100 * sum(name == DIGITS.classes[y] for name, y in zip(names, DIGITS.y[test], strict=True)) / len(test)


def test_loaded_network_is_as_accurate_as_it_was_measured(path: Path, packed: tuple[bytes, float]) -> None:
    classifier = load(str(path))
    assert right(classifier) == pytest.approx(packed[1])
    assert 60 < packed[1] < 100
    assert not classifier.training
    assert classifier.run == RUN.as_dict()
    assert classifier.classes == DIGITS.classes
    assert classifier(DIGITS.x[:3]).shape == (3, 10)


def test_network_of_the_users_own_with_dropout_too(tmp_path: Path) -> None:
    run = with_dropout(tmp_path / "nets", RUN)
    accuracy = file_of(run, tmp_path / "model.pt")
    classifier = load(tmp_path / "model.pt")
    assert right(classifier) == pytest.approx(accuracy)
    assert torch.equal(classifier(DIGITS.x[:5]), classifier(DIGITS.x[:5]))
    # Another network of the same name.
    nets = tmp_path / "nets" / "nets.py"
    nets.write_text(nets.read_text().replace("24", "25"))
    with pytest.raises(StudyError, match="does not fit its network, whose source may have changed since"):
        load(tmp_path / "model.pt")
    nets.unlink()
    with pytest.raises(StudyError, match="which is not there"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize("how", ["truncated", "bit flipped", "empty", "zeros", "foreign", "gone"])
def test_damaged_file_is_refused(path: Path, how: str) -> None:
    spoil(path, how)
    with pytest.raises(StudyError, match=r"model.pt cannot be read as a trained network: \w+"):
        load(path)


@pytest.mark.parametrize("content", [[1, 2], {"format": "another"}, torch.zeros(3)])
def test_another_file_of_torchs_is_refused(path: Path, content: object) -> None:
    torch.save(content, path)
    with pytest.raises(StudyError, match=r"is not a trained network of gradreg's; expected the model.pt of a run"):
        load(path)


def test_file_without_its_weights_is_refused(path: Path) -> None:
    kept = torch.load(path, weights_only=True)
    for name in ("mean", "state", "classes"):
        less = {key: value for key, value in kept.items() if key != name}
        buffer = io.BytesIO()
        torch.save(less, buffer)
        path.write_bytes(buffer.getvalue())
        with pytest.raises(StudyError, match="does not fit its network"):
            load(path)


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (3, 8, 8), (1, 8, 8), (3, 3, 8, 8), (64,)])
def test_inputs_of_another_shape_are_refused(path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes inputs of the shape \(B, 1, 8, 8\); got"):
        load(path)(torch.zeros(shape))
