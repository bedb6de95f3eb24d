"""Small models that cover what penalties meet, all in float64: the cases of the table tests."""

import torch
from torch import Tensor, nn


def mlp(outputs: int = 4) -> nn.Module:
    """ReLU: kinks, piecewise linear."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))


def softplus_net() -> nn.Module:
    """Smooth: finite differences converge with their order."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), nn.Softplus(), nn.Linear(12, 12), nn.Softplus(), nn.Linear(12, 4)
    )


def lenet() -> nn.Module:
    """Convolution, max pooling, ReLU on 8x8 images: LeNet-5's kinds of layer, smaller."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 12),
        nn.ReLU(),
        nn.Linear(12, 4),
    )


class Residual(nn.Module):
    """A residual block with a normalization of choice between two convolutions."""

    def __init__(self, norm: type[nn.Module] | None = None):
        super().__init__()
        make = norm or (lambda channels: nn.GroupNorm(2, channels))
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), make(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), make(4)
        )
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.block(x))
        return self.head(x.mean((2, 3)))


def frozen_batchnorm() -> nn.Module:
    """Batch normalization in evaluation mode, with statistics that are not the initial ones."""
    model = Residual(nn.BatchNorm2d)
    with torch.no_grad():
        model(torch.randn(32, 1, 8, 8))
    return model.eval()


MODELS = {
    "mlp": mlp,
    "softplus": softplus_net,
    "lenet": lenet,
    "residual-groupnorm": Residual,
    "frozen-batchnorm": frozen_batchnorm,
}


def build(name: str) -> nn.Module:
    """A model of the table, always with the same weights, in float64."""
    torch.manual_seed(7)
    return MODELS[name]().double()


def batch(size: int = 3, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Images (B, 1, 8, 8) in float64 and labels."""
    g = torch.Generator().manual_seed(11)
    return (
        torch.randn(size, 1, 8, 8, dtype=torch.float64, generator=g),
        torch.randint(classes, (size,), generator=g),
    )


def parameter_gradient(value: Tensor, model: nn.Module) -> Tensor:
    """All parameters' gradients in one vector; zero where a parameter does not matter."""
    parameters = list(model.parameters())
    grads = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(grads, parameters, strict=True)]
    )
