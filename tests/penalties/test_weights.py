"""Penalties on single layers against dense Jacobians and singular values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hard_models_for_tests import Once
from models_for_tests import batch, build, parameter_gradient
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import gradreg as gr
from gradreg.penalties.weights import largest_singular_value


def generator() -> Generator:
    return Generator().manual_seed(3)


def blocks(model: list[nn.Module]) -> list[nn.Sequential]:
    """What lies between the inputs of one layer with weights and of the next."""
    found: list[list[nn.Module]] = [[]]
    for layer in model:
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and any(isinstance(m, (nn.Linear, nn.Conv2d)) for m in found[-1]):
            found.append([])
        found[-1].append(layer)
    return [nn.Sequential(*layers) for layers in found]


def layer_jacobians(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The dense Jacobian of each block at its own input."""
    layers = list(model.children())
    found, first = [], next(i for i, m in enumerate(layers) if isinstance(m, (nn.Linear, nn.Conv2d)))
    h = nn.Sequential(*layers[:first])(x)
    for block in blocks(layers[first:]):
        # By autograd itself, since the input of a block is no leaf.
        z = block(h)
        rows = [torch.autograd.grad(z.flatten(1)[:, k].sum(), h, create_graph=True)[0] for k in range(z[0].numel())]
        found.append(torch.stack([row.flatten(1) for row in rows], 1))
        h = z
    return found


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", ["mlp", "softplus", "lenet"])
def test_layerwise_frobenius_equals_its_formula(name: str, samples: int) -> None:
    model, (x, _) = build(name), batch()
    assert isinstance(model, nn.Sequential)
    x.requires_grad_()
    g = generator()
    expected = torch.zeros((), dtype=x.dtype)
    for jacobian in layer_jacobians(model, x):
        for _ in range(samples):
            rows = torch.randn(len(x), jacobian.shape[1], generator=g, dtype=x.dtype)
            expected = expected + torch.einsum("bm,bmn->bn", rows, jacobian).square().sum(1).mean() / samples
    found = gr.LayerwiseFrobenius(0.7, samples=samples)(model, x.detach(), generator=generator())
    torch.testing.assert_close(found, 0.7 * expected, rtol=1e-9, atol=0)
    a, b = parameter_gradient(found, model), parameter_gradient(0.7 * expected, model)
    assert (a - b).norm() <= 1e-9 * b.norm()


def test_layerwise_frobenius_is_unbiased() -> None:
    """Within 4 standard errors of 400 draws, per layer for all examples at once."""
    model, (x, _) = build("mlp"), batch()
    assert isinstance(model, nn.Sequential)
    exact = sum(j.square().sum((1, 2)).mean() for j in layer_jacobians(model, x.requires_grad_()))
    g = generator()
    draws = torch.stack([gr.LayerwiseFrobenius(1.0)(model, x.detach(), generator=g).detach() for _ in range(400)])
    assert abs(draws.mean() - exact) < 4 * draws.std() / 20


def test_layerwise_frobenius_of_linear_layers_is_the_norm_of_their_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, dtype=torch.float64), nn.Linear(5, 3, dtype=torch.float64))
    x = torch.randn(2000, 6, dtype=torch.float64)
    found = gr.LayerwiseFrobenius(1.0)(model, x, generator=generator())
    exact = sum(layer.weight.square().sum() for layer in model if isinstance(layer, nn.Linear))
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0)


def test_layerwise_frobenius_shares_a_forward_pass_with_other_penalties() -> None:
    model, (x, y) = build("lenet"), batch()
    both = gr.Objective(cross_entropy, gr.LayerwiseFrobenius(0.1), gr.SpectReg(0.1))(model, x, y, generator=generator())
    alone = gr.LayerwiseFrobenius(0.1)(model, x, generator=generator())
    torch.testing.assert_close(both.terms["layerwisefrobenius"], alone, rtol=1e-12, atol=0)
    g = generator()
    gr.LayerwiseFrobenius(0.1)(model, x, generator=g)
    torch.testing.assert_close(both.terms["spectreg"], gr.SpectReg(0.1)(model, x, generator=g), rtol=1e-12, atol=0)
    both.total.backward()


class Detached(nn.Linear):
    """Whose outputs say nothing of where they come from."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).detach()


class Branches(nn.Module):
    """The second layer does not see the first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 3, dtype=torch.float64), nn.Linear(8, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x)


def test_branches_count_for_what_the_outputs_owe_them() -> None:
    """h_0 and h_1 are both the input; h_1 does not depend on h_0, and of h_2 only the second layer is counted."""
    model, x = Branches(), torch.randn(4, 8, dtype=torch.float64)
    g = generator()
    torch.randn(4, 8, generator=g, dtype=torch.float64)  # of the pair that counts nothing
    rows = torch.randn(4, 3, generator=g, dtype=torch.float64)
    found = gr.LayerwiseFrobenius(1.0)(model, x, generator=generator())
    torch.testing.assert_close(found, (rows @ model.two.weight).square().sum(1).mean())


def matrices(model: nn.Module) -> list[Tensor]:
    return [m.weight.flatten(1) for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


@pytest.mark.parametrize("name", ["mlp", "lenet", "residual-groupnorm"])
def test_spectral_norm_equals_the_largest_singular_values(name: str) -> None:
    model, (x, _) = build(name), batch()
    found = gr.SpectralNorm(0.7, iterations=2000)(model, x, generator=generator())
    expected = 0.7 * torch.stack([torch.linalg.matrix_norm(w, 2) ** 2 for w in matrices(model)]).sum()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    a, b = parameter_gradient(found, model), parameter_gradient(expected, model)
    assert (a - b).norm() <= 1e-6 * b.norm()


def test_few_iterations_give_a_lower_bound() -> None:
    torch.manual_seed(0)
    w = torch.randn(30, 40, dtype=torch.float64)
    top = torch.linalg.matrix_norm(w, 2)
    found = [largest_singular_value(w, k, generator()) for k in (1, 5, 50)]
    assert 0.5 * top < found[0] < found[1] < found[2] < top


def test_spectral_norm_of_a_divided_batch_is_that_of_the_model() -> None:
    """Beside a penalty that is taken on a part of the batch."""
    model, (x, y) = build("mlp"), batch(4)
    objective = gr.Objective(cross_entropy, gr.SpectReg(0.1, fraction=0.5), gr.SpectralNorm(0.1, iterations=500))
    found = objective(model, x, y, generator=generator()).terms["spectralnorm"]
    expected = gr.SpectralNorm(0.1, iterations=500)(model, x, generator=generator())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("penalty", [gr.LayerwiseFrobenius(0.1), gr.SpectralNorm(0.1)], ids=repr)
def test_step_is_compiled_as_it_is(penalty: gr.Penalty) -> None:
    model, (x, y) = build("lenet"), batch()
    objective = gr.Objective(cross_entropy, penalty)
    step = gr.CompiledObjective(objective, model, backend="eager", fallback=False)
    for number in range(3):
        expected = objective(model, x, y, generator=generator(), step=number)
        gradient = parameter_gradient(expected.total, model)
        model.zero_grad()
        found = step(x, y, generator=generator(), step=number)
        torch.testing.assert_close(found.total, expected.total.detach())
        own = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        torch.testing.assert_close(own, gradient)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: gr.SpectralNorm(1.0)(lambda x: x, torch.ones(2, 8)), "looks at the layers of a torch.nn.Module"),
        (lambda: gr.LayerwiseFrobenius(1.0)(lambda x: x, torch.ones(2, 8)), "looks at the layers of a torch.nn.Module"),
        (lambda: gr.SpectralNorm(1.0)(nn.ReLU(), torch.ones(2, 8)), "SpectralNorm found no layer with weights"),
        (lambda: gr.LayerwiseFrobenius(1.0)(nn.ReLU(), torch.ones(2, 8)), "LayerwiseFrobenius found no layer with"),
        (lambda: gr.SpectralNorm(1.0).of(torch.ones(2, 3), torch.ones(2, 8)), r"Write penalty\(model, x\)"),
        (lambda: gr.LayerwiseFrobenius(1.0).of(torch.ones(2, 3), torch.ones(2, 8)), r"Write penalty\(model, x\)"),
        (
            lambda: gr.LayerwiseFrobenius(1.0)(nn.Sequential(nn.Flatten(0), nn.Linear(16, 2)), torch.ones(2, 8)),
            r"the input of a layer has shape \(16,\), but the batch has 2 examples",
        ),
        (lambda: gr.LayerwiseFrobenius(1.0)(Detached(8, 3), torch.ones(2, 8)), "does not depend on the inputs of its"),
        (lambda: gr.SpectralNorm(1.0, iterations=0), "SpectralNorm got iterations=0; expected a whole number >= 1"),
        (lambda: gr.LayerwiseFrobenius(1.0, samples=0), "LayerwiseFrobenius got samples=0; expected a whole number"),
    ],
)
def test_wrong_use_is_answered_with_what_to_write(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises((ValueError, TypeError), match=expected):
        make()


class Called(nn.Module):
    """Two layers, called in a way of their own."""

    def __init__(self, how: Callable[["Called", Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.how = nn.Linear(6, 5), nn.Linear(5, 3), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def test_layerwise_frobenius_of_layers_that_are_called_by_name() -> None:
    torch.manual_seed(0)
    model, x = Called(lambda m, x: m.second(input=m.first(input=x).tanh())), torch.randn(4, 6)
    found = gr.LayerwiseFrobenius(1.0)(model, x, generator=generator())
    model.how = lambda m, x: m.second(m.first(x).tanh())
    torch.testing.assert_close(found, gr.LayerwiseFrobenius(1.0)(model, x, generator=generator()), rtol=0, atol=0)


def encoder() -> nn.Module:
    layers = [nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True) for _ in range(2)]
    return nn.Sequential(*layers, nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            Called(lambda m, x: m.second(Once.apply(m.first(x)))),  # type: ignore[arg-type]
            (4, 6),
            r"^Once has no double backward.*Use gr\.SpectReg with engine=gr\.FiniteDifference\(\)",
        ),
        (
            Called(lambda m, x: Once.apply(m.second(m.first(x)))),  # type: ignore[arg-type]
            (4, 6),
            r"^Once has no double backward",
        ),
        (encoder(), (4, 5, 6), r"attention\S* has no double backward.*Use gr\.SpectReg"),
        (
            Called(lambda m, x: m.second(checkpoint(m.first, x, use_reentrant=False).tanh())),  # type: ignore[union-attr]
            (4, 6),
            r"layers whose activations are checkpointed.*Leave the checkpoint out, or use gr\.SpectReg",
        ),
    ],
    ids=["marked", "marked at the end", "attention", "checkpoint"],
)
def test_layerwise_frobenius_refuses_what_it_cannot_differentiate(
    model: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(gr.UnsupportedOperationError, match=message):
        gr.LayerwiseFrobenius(1.0)(model, torch.randn(shape))
