"""A small vision transformer with torch's own attention, on 100 labels of scikit-learn's digits.

The fused kernels of scaled_dot_product_attention have no second derivative, the math kernel has one.

The weight is the best of 0.01, 0.03, 0.1, 0.3 and 1 at 400 validation digits, none of them a test digit, with another
training set (--validation --first-seed 100 --seeds 1).

python examples/vit_digits.py [--smoke] [--weight 0.1] [--seeds 3]
"""

import argparse
from collections.abc import Sequence

import torch
from _summary import summarize
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import gradreg as gr
from gradreg.data.digits import load_digits
from gradreg.data.splits import Split, split

NOTE = (
    "The default weight is the best of 0.01, 0.03, 0.1, 0.3 and 1 at 400 validation digits, with another training set "
    "(--validation --first-seed 100 --seeds 1)."
)


class Block(nn.Module):
    """Attention and two dense layers, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before, self.mix, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same."""
        q, k, v = self.mix(self.before(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.dense(x)


class ViT(nn.Module):
    """Images (B, 1, 8, 8) to logits (B, 10): patches of 2 x 2, learned positions, two blocks, the mean over patches."""

    def __init__(self, width: int = 32, heads: int = 4):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.Sequential(Block(width, heads), Block(width, heads))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        patches = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(patches).mean(1))


def train(data: Split, penalties: Sequence[gr.Penalty], epochs: int, seed: int) -> nn.Module:
    """Adam on batches of 20."""
    torch.manual_seed(seed)
    model = ViT()
    objective = gr.Objective(cross_entropy, *penalties)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.x)).split(20):
            with sdpa_kernel(SDPBackend.MATH):
                result = objective(model, data.x[batch], data.y[batch])
            result.total.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def main(arguments: list[str] | None = None) -> None:
    """Trains with and without the penalty, and prints both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="others than the usual ones, to choose a weight by")
    parser.add_argument(
        "--validation", action="store_true", help="accuracy at validation points, to choose a weight by"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    epochs, seeds = (2, 1) if options.smoke else (80, options.seeds)
    digits = load_digits()
    found: dict[str, list[float]] = {"no penalty": [], f"SpectReg({options.weight:g})": []}
    for seed in range(options.first_seed, options.first_seed + seeds):
        data = split(digits, train_size=100, validation_size=400, test_size=797, seed=seed, with_test=True)
        assert data.test_x is not None
        assert data.test_y is not None
        x, y = (data.validation_x, data.validation_y) if options.validation else (data.test_x, data.test_y)
        for name, penalties in zip(found, ([], [gr.SpectReg(options.weight)]), strict=True):
            model = train(data, penalties, epochs, seed)
            with torch.no_grad():
                found[name].append(100 * (model(x).argmax(1) == y).double().mean().item())
    summarize(found, points="validation" if options.validation else "test", note=NOTE)


if __name__ == "__main__":
    main()
