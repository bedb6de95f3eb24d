"""The networks of the studies: LeNet-5 as in the paper, and a small convolutional net for 8 x 8 digits."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gradreg import _checks

Regularization = Literal["dropout", "batchnorm", "none"]
Initialization = Literal["scripts", "torch"]


class LeNet5(nn.Module):
    """LeNet-5 with max pooling, ReLU and dropout behind the last hidden layer; 61706 parameters.

    Args:
        regularization: "dropout" (rate 0.5 on the layer of 84), "batchnorm" in its place, or "none".
        initialization: "scripts" (uniform; He-like for convolutions, Glorot for dense layers, zero biases) or "torch".
        classes: number of outputs.

    Shapes: (B, 1, 28, 28) to logits (B, classes).

    Raises:
        ValueError: an unknown regularization or initialization.

    Example:
        >>> sum(p.numel() for p in LeNet5().parameters())
        61706

    Source: the paper's appendix B.1; the initialization and the place of batch normalization are the scripts'.
    """

    def __init__(
        self,
        regularization: Regularization = "dropout",
        initialization: Initialization = "scripts",
        classes: int = 10,
    ):
        _checks.choice(regularization, ("dropout", "batchnorm", "none"), "regularization", "LeNet5")
        super().__init__()
        between = {"dropout": lambda: nn.Dropout(0.5), "batchnorm": lambda: nn.BatchNorm1d(84), "none": nn.Identity}
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            between[regularization](),
            nn.Linear(84, classes),
        )
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 1, 28, 28)."""
        return self.classifier(self.features(x))


class SmallCNN(nn.Module):
    """Two convolutions and two dense layers for 8 x 8 images: small enough for a demonstration on one core.

    Shapes: (B, 1, 8, 8) to logits (B, classes).

    Args:
        initialization: "scripts" or "torch", as for `LeNet5`.
        classes: number of outputs.

    Example:
        >>> SmallCNN()(torch.randn(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(self, initialization: Initialization = "scripts", classes: int = 10):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 1, 8, 8)."""
        return self.layers(x)


def initialize(model: nn.Module, how: Initialization) -> None:
    """Draws the weights of convolutions and dense layers anew, from torch's global generator.

    Args:
        model: changed in place.
        how: "scripts": uniform with variance 4/(fan_in + fan_out) for convolutions, 2/(fan_in + fan_out) for dense
            layers, biases 0, as the paper's published scripts; "torch": left as torch made them.
    """
    _checks.choice(how, ("scripts", "torch"), "initialization", "initialize")
    if how == "torch":
        return
    for module in model.modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
        variance = (4 if isinstance(module, nn.Conv2d) else 2) / (fan_in + fan_out)
        bound = math.sqrt(3 * variance)
        with torch.no_grad():
            module.weight.uniform_(-bound, bound)
            if module.bias is not None:
                module.bias.zero_()
