"""Random projections: unbiased for ||J||_F^2 within a stated bound, drawn as documented."""

import pytest
import torch
from models_for_tests import batch, build, parameter_gradient
from torch import Generator

import gradreg as gr

SAMPLES = 4000
RANDOM = [
    gr.Normal(SAMPLES),
    gr.Sphere(SAMPLES),
    gr.Rademacher(SAMPLES),
    gr.Normal(SAMPLES, per="batch"),
    gr.Sphere(SAMPLES, per="batch"),
    gr.Rademacher(SAMPLES, per="batch"),
    gr.Normal(SAMPLES, side="input"),
    gr.Sphere(SAMPLES, side="input"),
    gr.Rademacher(SAMPLES, side="input"),
    gr.RandomClass(SAMPLES),
]


def linear() -> tuple[torch.nn.Module, torch.Tensor]:
    """A linear model, so that one product with its weight is all that a row costs; 4 outputs, 6 inputs."""
    torch.manual_seed(2)
    return torch.nn.Linear(6, 4).double(), torch.randn(5, 6, dtype=torch.float64)


@pytest.mark.parametrize("projection", RANDOM, ids=repr)
def test_random_projections_are_unbiased_for_the_squared_frobenius_norm(projection: gr.Projection) -> None:
    """Bound: five standard errors of the mean over 4000 samples, the standard error estimated from 40 blocks of 100."""
    model, x = linear()
    block = type(projection)(**{**vars(projection), "samples": 100})
    penalty = gr.JacobianPenalty(1.0, projection=block)
    g = Generator().manual_seed(0)
    means = torch.stack([penalty(model, x, generator=g).detach() for _ in range(SAMPLES // 100)])
    truth = model.weight.square().sum()  # type: ignore[union-attr]
    assert abs(means.mean() - truth) < 5 * means.std() / len(means) ** 0.5


def test_the_error_of_the_estimate_falls_with_the_root_of_the_samples() -> None:
    """16 times the samples, a quarter of the spread; 300 repeats know a spread to 4 %, the bound gives it 20 %."""
    model, x = linear()
    g = Generator().manual_seed(0)

    def spread(samples: int) -> float:
        penalty = gr.SpectReg(1.0, samples=samples)
        return float(torch.stack([penalty(model, x, generator=g).detach() for _ in range(300)]).std())

    assert abs(spread(1) / spread(16) / 4 - 1) < 0.2


def test_probes_on_the_input_side_have_a_noisier_parameter_gradient() -> None:
    """The value's variance is the same, the gradient's n/m times larger: here n/m = 16. The bound allows 8 to 32."""
    torch.manual_seed(2)
    model, x = torch.nn.Linear(64, 4).double(), torch.randn(1, 64, dtype=torch.float64)
    g = Generator().manual_seed(0)

    def noise(side: str) -> float:
        penalty = gr.JacobianPenalty(1.0, projection=gr.Normal(side=side))  # type: ignore[arg-type]
        grads = torch.stack([parameter_gradient(penalty(model, x, generator=g), model) for _ in range(1000)])
        return float((grads - grads.mean(0)).square().sum(1).mean())

    assert 8 < noise("input") / noise("output") < 32


def test_rows_differ_between_examples_by_default_and_are_one_with_per_batch() -> None:
    """A linear model has one Jacobian, so each example's value tells its row."""
    torch.manual_seed(2)
    model, x = torch.nn.Linear(6, 4).double(), torch.randn(5, 6, dtype=torch.float64, requires_grad=True)

    def rows(per: str) -> torch.Tensor:
        seen: list[torch.Tensor] = []

        class Keep(gr.Normal):
            def draw(self, at, engine, generator):  # type: ignore[no-untyped-def]
                for sample in super().draw(at, engine, generator):
                    seen.extend(row[0] for row in sample)
                    yield sample

        gr.JacobianPenalty(1.0, projection=Keep(per=per))(model, x)  # type: ignore[arg-type]
        return seen[0]

    assert len(rows("example").unique(dim=0)) == 5
    assert len(rows("batch").unique(dim=0)) == 1


def test_sphere_rows_have_squared_length_m_on_either_side() -> None:
    """On the input side over all tensors of the site together."""
    a, b = torch.randn(7, 2, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    model = torch.nn.Bilinear(2, 3, 4).double()
    lengths: list[torch.Tensor] = []

    class Keep(gr.Sphere):
        def draw(self, at, engine, generator):  # type: ignore[no-untyped-def]
            for sample in super().draw(at, engine, generator):
                for row in sample:
                    lengths.append(sum(part.square().flatten(1).sum(1) for part in row))  # type: ignore[arg-type]
                    yield [row]

    gr.JacobianPenalty(1.0, projection=Keep())(model, gr.Args(a, b))
    gr.JacobianPenalty(1.0, projection=Keep(side="input"))(model, gr.Args(a, b))
    torch.testing.assert_close(lengths[0], torch.full((7,), 4.0, dtype=torch.float64))
    torch.testing.assert_close(lengths[1], torch.full((7,), 5.0, dtype=torch.float64))


def test_top_singular_is_a_lower_bound_that_iterations_raise() -> None:
    model, (x, _) = build("softplus"), batch()
    truth = (torch.linalg.matrix_norm(gr.dense.jacobian(model, x), 2) ** 2).mean()
    found = [
        gr.JacobianPenalty(1.0, projection=gr.TopSingular(k))(model, x, generator=Generator().manual_seed(1)).item()
        for k in (1, 3, 10)
    ]
    assert found[0] < found[1] < found[2] <= truth * (1 + 1e-12)
