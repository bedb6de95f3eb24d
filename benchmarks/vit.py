"""A small vision transformer with explicit softmax attention, which can be differentiated twice."""

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention of several heads by matrix products and a softmax: fused kernels have no second derivative."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same."""
        q, k, v = self.mix(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and two dense layers, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.dense = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same."""
        x = x + self.attend(x)
        return x + self.dense(x)


class ViT(nn.Module):
    """Patches by a convolution, learned positions, blocks, the mean over patches, a dense layer.

    Args:
        channels, side: of the images.
        classes: number of outputs.
        patch: side of a patch.
        width, heads, blocks: of the transformer.

    Shapes: (B, channels, side, side) to logits (B, classes).

    Example:
        >>> ViT()(torch.randn(5, 3, 32, 32)).shape
        torch.Size([5, 10])

    Source: Dosovitskiy et al. 2021, with the mean in place of a class token.
    """

    def __init__(
        self,
        channels: int = 3,
        side: int = 32,
        classes: int = 10,
        patch: int = 4,
        width: int = 96,
        heads: int = 3,
        blocks: int = 2,
    ):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images."""
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.classifier(self.blocks(h).mean(1))
