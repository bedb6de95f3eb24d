"""A training loop of your own with one line more: SpectReg on 100 labels of scikit-learn's digits, three seeds.

python examples/training_loop.py
"""

import sys

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gradreg as gr
from gradreg.data.digits import load_digits
from gradreg.data.splits import Split, split
from gradreg.models import SmallCNN


def train(data: Split, objective: gr.Objective, epochs: int) -> nn.Module:
    """Adam, with the learning rate divided by 10 at half and three quarters of the time."""
    model = SmallCNN()
    loader = DataLoader(TensorDataset(data.x, data.y), batch_size=20, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2, epochs * 3 // 4])
    for _ in range(epochs):
        for x, y in loader:
            objective(model, x, y).total.backward()  # in place of cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
    return model.eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """In percent."""
    with torch.no_grad():
        return 100 * (model(x).argmax(1) == y).float().mean().item()


def main(epochs: int = 40, seeds: int = 3) -> None:
    """Trains with and without the penalty, and prints test accuracy and steepness."""
    torch.set_num_threads(1)  # faster for a net this small
    for seed in range(seeds):
        data = split(load_digits(), train_size=100, validation_size=400, test_size=797, seed=seed, with_test=True)
        assert data.test_x is not None
        assert data.test_y is not None
        for name, penalties in {"baseline": [], "SpectReg(0.03)": [gr.SpectReg(0.03)]}.items():
            torch.manual_seed(seed)
            model = train(data, gr.Objective(nn.functional.cross_entropy, *penalties), epochs)
            norm = gr.metrics.jacobian_norms(model, data.test_x).mean()
            found = accuracy(model, data.test_x, data.test_y)
            print(f"seed {seed} {name:15} test accuracy {found:.1f} %, mean norm of the Jacobian {norm:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
