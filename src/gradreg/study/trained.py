"""A trained network as a file: what a user takes home from a comparison.

>>> from gradreg.study.trained import load
>>> classifier = load("model.pt")
>>> classifier.predict(images)  # float images in [0, 1]
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradreg.data.dataset import Dataset
from gradreg.study.config import StudyError
from gradreg.study.networks import network
from gradreg.study.train import Training


class Trained(nn.Module):
    """A network with the standardization of its inputs.

    Attributes:
        network: takes standardized inputs.
        classes: names of the labels; () of a regression.
        shape: of one input, such as (3, 32, 32).
        run: what was trained, as plain data.

    Shapes: (B, *shape), scaled as the data set was (images: [0, 1]), to logits (B, classes).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kept: dict[str, Any]):
        super().__init__()
        self.classes: tuple[str, ...] = tuple(kept["classes"])
        self.shape: tuple[int, ...] = tuple(kept["shape"])
        self.run: dict[str, Any] = kept["run"]
        self.network = network(self.run["model"]["name"], self.shape, len(self.classes) or kept["outputs"])
        self.network.load_state_dict(kept["state"])
        rest = (1,) * (len(self.shape) - 1)
        self.register_buffer("mean", kept["mean"].reshape(-1, *rest))
        self.register_buffer("std", kept["std"].reshape(-1, *rest))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of inputs as the data set holds them."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"the network takes inputs of the shape (B, {', '.join(map(str, self.shape))}); got {tuple(x.shape)}."
            )
        return self.network((x - self.mean) / self.std)

    @torch.no_grad()
    def predict(self, x: Tensor) -> list[Any]:
        """The name of the most probable class of each input; of a regression its number, or list of numbers."""
        if not self.classes:
            z = self(x)
            return (z.squeeze(1) if z.shape[1] == 1 else z).tolist()
        return [self.classes[i] for i in self(x).argmax(1).tolist()]


def load(path: str | Path) -> Trained:
    """A trained network from its file, in evaluation mode, on the CPU.

    Args:
        path: ``model.pt`` of a run, or of a study's report.

    Raises:
        StudyError: the file is not there, damaged, or not one of gradreg's.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        kept = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise StudyError(f"{path} cannot be read as a trained network: {type(error).__name__}: {error}") from error
    if not isinstance(kept, dict) or kept.get("format") != "gradreg trained network 1":
        raise StudyError(f"{path} is not a trained network of gradreg's; expected the model.pt of a run or a report.")
    try:
        return Trained(kept)
    except (KeyError, RuntimeError) as error:  # of weights that do not fit
        raise StudyError(
            f"{path} does not fit its network, whose source may have changed since: {type(error).__name__}: {error}"
        ) from error


def pack_model(training: Training, data: Dataset) -> bytes:
    """The file's content for a training that has ended."""
    state = {name: value.cpu() for name, value in training.model.state_dict().items()}
    kept = {
        "format": "gradreg trained network 1",
        "state": state,
        "mean": training.parts.mean,
        "std": training.parts.std,
        "classes": list(data.classes),
        "outputs": data.outputs,
        "shape": list(training.parts.x.shape[1:]),
        "run": training.run.as_dict(),
    }
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    return buffer.getvalue()
