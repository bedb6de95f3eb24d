"""The networks of the studies: the paper's LeNet-5 and residual networks, a small one for digits, two for any data."""

import math
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from gradreg import _checks

Regularization = Literal["dropout", "batchnorm", "batch-statistics", "none"]
Initialization = Literal["scripts", "torch"]


class LeNet5(nn.Module):
    """LeNet-5 with max pooling, ReLU and dropout behind the last hidden layer; 61706 parameters.

    Args:
        regularization: "dropout" (rate 0.5 on the layer of 84); in its place "batchnorm", or "batch-statistics", which
            normalizes by the batch in evaluation mode too, so that an answer depends on what else is asked; or "none".
        initialization: "scripts" (uniform; He-like for convolutions, Glorot for dense layers, zero biases) or "torch".
        classes: number of outputs.

    Shapes: (B, 1, 28, 28) to logits (B, classes).

    Raises:
        ValueError: an unknown regularization or initialization.

    Example:
        >>> sum(p.numel() for p in LeNet5().parameters())
        61706

    Source: the paper's appendix B.1; the initialization and the place of batch normalization are the scripts', which
    have it with the statistics of the batch at test time too.
    """

    def __init__(
        self,
        regularization: Regularization = "dropout",
        initialization: Initialization = "scripts",
        classes: int = 10,
    ):
        _checks.choice(regularization, get_args(Regularization), "regularization", "LeNet5")
        super().__init__()
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
            _between(regularization, 84),
            nn.Linear(84, classes),
        )
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 1, 28, 28)."""
        return self.classifier(self.features(x))


def _between(regularization: Regularization, width: int) -> nn.Module:
    """What stands behind the last hidden layer."""
    match regularization:
        case "dropout":
            return nn.Dropout(0.5)
        case "batchnorm":
            return nn.BatchNorm1d(width)
        case "batch-statistics":
            return nn.BatchNorm1d(width, track_running_stats=False)
        case _:
            return nn.Identity()


class SmallCNN(nn.Module):
    """Two convolutions and two dense layers for 8 x 8 images: small enough for a demonstration on one core.

    Shapes: (B, 1, 8, 8) to logits (B, classes).

    Args:
        initialization: "scripts" or "torch", as for `LeNet5`.
        classes: number of outputs.
        regularization: "none", or what stands in front of the last layer: "dropout", "batchnorm" or
            "batch-statistics", as for `LeNet5`.

    Example:
        >>> SmallCNN()(torch.randn(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        initialization: Initialization = "scripts",
        classes: int = 10,
        regularization: Regularization = "none",
    ):
        _checks.choice(regularization, get_args(Regularization), "regularization", "SmallCNN")
        super().__init__()
        # Without one the last layer keeps its name.
        between = [] if regularization == "none" else [_between(regularization, 64)]
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 64),
            nn.ReLU(),
            *between,
            nn.Linear(64, classes),
        )
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 1, 8, 8)."""
        return self.layers(x)


class ConvNet(nn.Module):
    """Convolutions with ReLU and 2 x 2 max pooling, for images of any size from 8 x 8 on.

    Each stage halves the sides and doubles the channels up to four times the first width, until the shorter side is
    4 to 7; then the mean over all places, and a dense layer. Convolutions are 3 x 3; where the shorter side is 48 or
    more, the first is 5 x 5 with stride 2, which keeps a step on 64 x 64 images about as cheap as one on 32 x 32. There
    is no batch normalization, which would couple the examples of a batch.

    Args:
        channels: of the images.
        size: their side, or height and width.
        classes: number of outputs.
        width: channels of the first stage.
        initialization: "scripts" or "torch", as for `LeNet5`.

    Shapes: (B, channels, H, W) to logits (B, classes).

    Raises:
        ValueError: images smaller than 8, or arguments that are not whole numbers of at least 1.

    Example:
        >>> ConvNet(3, 32, classes=10)(torch.randn(5, 3, 32, 32)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        channels: int,
        size: int | tuple[int, int],
        classes: int,
        width: int = 32,
        initialization: Initialization = "scripts",
    ):
        for value, name in ((channels, "channels"), (classes, "classes"), (width, "width")):
            _checks.positive_integer(value, name, "ConvNet")
        side = size if isinstance(size, int) else min(size)
        if side < 8:
            raise ValueError(f"ConvNet got size={size!r}; expected sides of at least 8. Enlarge the images or use MLP.")
        super().__init__()
        layers: list[nn.Module] = []
        given, made = channels, width
        while side >= 8:
            stem = not layers and side >= 48
            layers.append(
                nn.Conv2d(given, made, 5, stride=2, padding=2) if stem else nn.Conv2d(given, made, 3, padding=1)
            )
            # The same as ReLU before pooling, on a quarter of the numbers.
            layers += [nn.MaxPool2d(2), nn.ReLU()]
            side = (side + 1) // 2 // 2 if stem else side // 2
            given, made = made, min(2 * made, 4 * width)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, classes))
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        return self.classifier(self.features(x))


class MLP(nn.Module):
    """Dense layers with ReLU, for vectors of features; images are laid out as vectors.

    Args:
        features: numbers in each input.
        classes: number of outputs.
        width: of the hidden layers.
        hidden: how many hidden layers; 0 is linear classification.
        initialization: "scripts" or "torch", as for `LeNet5`.

    Shapes: (B, features), or any (B, ...) with as many numbers, to logits (B, classes).

    Raises:
        ValueError: arguments that are not whole numbers of at least 1 (``hidden``: of at least 0).

    Example:
        >>> MLP(20, classes=3)(torch.randn(5, 20)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        features: int,
        classes: int,
        width: int = 128,
        hidden: int = 2,
        initialization: Initialization = "scripts",
    ):
        for value, name in ((features, "features"), (classes, "classes"), (width, "width")):
            _checks.positive_integer(value, name, "MLP")
        if hidden != 0:
            _checks.positive_integer(hidden, "hidden", "MLP")
        super().__init__()
        sizes = [features, *[width] * hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for given, made in pairwise(sizes):
            layers += [nn.Linear(given, made), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of inputs (B, ...)."""
        return self.layers(x)


class ResNet(nn.Module):
    """The paper's residual network for images of 32 x 32: three levels of blocks; 2412730 parameters.

    A 3 x 3 convolution with batch normalization and ReLU, then three levels of ``blocks`` blocks with ``width``,
    ``2 width`` and ``4 width`` filters, the mean over all places, and a dense layer. A block is convolution, batch
    normalization, ReLU, convolution, batch normalization, the sum with its shortcut, ReLU. The first blocks of levels 2
    and 3 halve the sides with stride 2; their shortcuts are averaged over 2 x 2 places and padded with channels of
    zeros, so that shortcuts have no weights. Convolutions have no biases: batch normalization would take them away.

    Args:
        channels: of the images.
        classes: number of outputs.
        width: filters of the first level.
        blocks: blocks of each level.
        initialization: "scripts" or "torch", as for `LeNet5`.

    Shapes: (B, channels, H, W) to logits (B, classes); any sides.

    Raises:
        ValueError: arguments that are not whole numbers of at least 1.

    Example:
        >>> sum(p.numel() for p in ResNet().parameters())
        2412730

    Source: the paper's appendix B.2, which names the block, the filters and "around 2.5 million parameters"; He et al.
    2015 for the rest. Number of blocks and shortcuts are our choice: with 3 blocks the number of parameters fits.
    """

    def __init__(
        self,
        channels: int = 3,
        classes: int = 10,
        width: int = 48,
        blocks: int = 3,
        initialization: Initialization = "scripts",
    ):
        for value, name in ((channels, "channels"), (classes, "classes"), (width, "width"), (blocks, "blocks")):
            _checks.positive_integer(value, name, "ResNet")
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        widths = [width * 2**level for level in range(3) for _ in range(blocks)]
        self.blocks = nn.Sequential(*(_Block(given, made) for given, made in pairwise([width, *widths])))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        return self.classifier(self.blocks(self.stem(x)))


class ResNet18(nn.Module):
    """The residual network of 18 layers for ImageNet, here for images of 64 x 64; 11279112 parameters for 200 classes.

    A 7 x 7 convolution with stride 2, batch normalization and ReLU, max pooling over 3 x 3 with stride 2, then four
    levels of two blocks with ``width``, ``2 width``, ``4 width`` and ``8 width`` filters, the mean over all places, and
    a dense layer. The first blocks of levels 2 to 4 halve the sides with stride 2; their shortcuts are 1 x 1
    convolutions with stride 2 and batch normalization. Images of 64 x 64 come to 16 x 16, 8 x 8, 4 x 4 and 2 x 2.

    Args:
        channels: of the images.
        classes: number of outputs.
        width: filters of the first level.
        initialization: "scripts" or "torch", as for `LeNet5`.

    Shapes: (B, channels, H, W) to logits (B, classes); any sides.

    Raises:
        ValueError: arguments that are not whole numbers of at least 1.

    Example:
        >>> sum(p.numel() for p in ResNet18().parameters())
        11279112

    Source: the paper's appendix B.3 ("around 11.3 million parameters"); He et al. 2015, table 1 and option B of its
    shortcuts, which is the one that gives this number.
    """

    def __init__(
        self, channels: int = 3, classes: int = 200, width: int = 64, initialization: Initialization = "scripts"
    ):
        for value, name in ((channels, "channels"), (classes, "classes"), (width, "width")):
            _checks.positive_integer(value, name, "ResNet18")
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = [width * 2**level for level in range(4) for _ in range(2)]
        self.blocks = nn.Sequential(*(_ProjectedBlock(given, made) for given, made in pairwise([width, *widths])))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes))
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        return self.classifier(self.blocks(self.stem(x)))


class _Block(nn.Module):
    """Two convolutions beside a shortcut; half the sides where the number of channels grows."""

    def __init__(self, given: int, made: int):
        super().__init__()
        self.stride = 1 if given == made else 2
        self.residual = nn.Sequential(
            nn.Conv2d(given, made, 3, stride=self.stride, padding=1, bias=False),
            nn.BatchNorm2d(made),
            nn.ReLU(),
            nn.Conv2d(made, made, 3, padding=1, bias=False),
            nn.BatchNorm2d(made),
        )
        self.more = made - given

    def shortcut(self, x: Tensor) -> Tensor:
        """Averaged over 2 x 2 and padded with channels of zeros where the number of channels grows: no weights."""
        if not self.more:
            return x
        return nn.functional.pad(nn.functional.avg_pool2d(x, 2, ceil_mode=True), (0, 0, 0, 0, 0, self.more))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        return torch.relu(self.residual(x) + shortcut)


class _ProjectedBlock(_Block):
    """A block whose shortcut is a convolution of 1 x 1 with batch normalization where the number of channels grows."""

    def __init__(self, given: int, made: int):
        super().__init__(given, made)
        self.projection: nn.Module = nn.Identity()
        if self.more:
            self.projection = nn.Sequential(
                nn.Conv2d(given, made, 1, stride=self.stride, bias=False), nn.BatchNorm2d(made)
            )

    def shortcut(self, x: Tensor) -> Tensor:
        return self.projection(x)


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
