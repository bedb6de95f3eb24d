"""How far finite differences are from the exact SpectReg on a net with kinks: the table of docs/engines.md."""

import torch
from torch import Generator, Tensor, nn

import gradreg as gr


def gradient(value: Tensor, model: nn.Module) -> Tensor:
    """All parameters' gradients in one vector."""
    parameters = list(model.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, parameters, strict=True)]
    )


def main() -> None:
    torch.set_default_dtype(torch.float64)
    print("| activation | step | value off by | parameter gradient off by |\n|---|---:|---:|---:|")
    for activation in (nn.ReLU, nn.Softplus):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(64, 200), activation(), nn.Linear(200, 10))
        x = torch.randn(50, 64)

        def penalty(engine: gr.Engine, model: nn.Module = model, x: Tensor = x) -> Tensor:
            return gr.SpectReg(1.0, engine=engine)(model, x, generator=Generator().manual_seed(3))

        exact = penalty(gr.DoubleBackward())
        truth = gradient(exact, model)
        for step in (1.0, 0.3, 0.1, 0.03, 0.01, 0.001):
            value = penalty(gr.FiniteDifference(step))
            error = (gradient(value, model) - truth).norm() / truth.norm()
            print(f"| {activation.__name__} | {step:g} | {abs(value / exact - 1):.2%} | {error:.2%} |")


if __name__ == "__main__":
    main()
