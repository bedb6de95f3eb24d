"""The paper's section 2 in numbers: equations (1) to (5), Claim 1, the linear case, the layer-wise bound."""

import pytest
import torch
from models_for_tests import batch, build
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, one_hot

import gradreg as gr
from gradreg.models import LeNet5


class Point:
    """Jacobians of one batch, from the dense oracle."""

    def __init__(self) -> None:
        self.model, (self.x, self.y) = build("softplus"), batch()
        self.p = self.model(self.x).softmax(1).detach()
        self.hot = one_hot(self.y, 4).double()
        self.logits = gr.dense.jacobian(self.model, self.x)
        self.probabilities = gr.dense.jacobian(self.model, self.x, target=gr.Probabilities())
        self.loss = gr.dense.jacobian(self.model, self.x, self.y, target=gr.Loss(cross_entropy))
        # J_softmax = (p 1^T) * (I - p 1^T)^T
        p1 = self.p[:, :, None].expand(-1, -1, 4)
        self.softmax = p1 * (torch.eye(4, dtype=torch.float64) - p1).mT
        # J_xent = -[y/p]^T
        self.xent = -(self.hot / self.p)[:, None]


@pytest.fixture
def at() -> Point:
    return Point()


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-15)


def test_equation_1_probabilities_from_logits(at: Point) -> None:
    assert_same(at.probabilities, at.softmax @ at.logits)


def test_equation_2_loss_from_probabilities(at: Point) -> None:
    assert_same(at.loss, at.xent @ at.probabilities)


def test_equation_3_loss_from_logits_through_both(at: Point) -> None:
    assert_same(at.loss, at.xent @ at.softmax @ at.logits)


def test_equation_4_with_the_true_class_written_out(at: Point) -> None:
    pt = at.p.gather(1, at.y[:, None])[:, :, None]
    assert_same(at.loss, (-1 / pt) * (pt * (at.hot - at.p)[:, None]) @ at.logits)


def test_equation_5_the_gradient_of_the_loss_is_a_projection_of_the_logits_jacobian(at: Point) -> None:
    assert_same(at.loss, (at.p - at.hot)[:, None] @ at.logits)


@pytest.mark.parametrize("engine", [gr.DoubleBackward(), gr.ForwardMode()], ids=repr)
def test_equation_5_as_penalties(at: Point, engine: gr.Engine) -> None:
    """DoubleBack is LossDirection on the logits: one value, one parameter gradient."""
    parameters = list(at.model.parameters())
    a = gr.DoubleBack(2.0, engine=engine)(at.model, at.x, at.y)
    b = gr.JacobianPenalty(2.0, projection=gr.LossDirection(), engine=engine)(at.model, at.x, at.y)
    assert_same(a, b)
    for ga, gb in zip(
        torch.autograd.grad(a, parameters, allow_unused=True),
        torch.autograd.grad(b, parameters, allow_unused=True),
        strict=True,
    ):
        assert (ga is None) == (gb is None)
        if ga is not None and gb is not None:
            torch.testing.assert_close(ga, gb, rtol=1e-9, atol=1e-14)


def test_claim_1_spherical_and_normal_spectreg_estimate_frobreg(at: Point) -> None:
    """Bound: five standard errors over 3000 rows for each of 3 examples."""
    truth = gr.FrobReg(1.0)(at.model, at.x).item()
    for sphere in (False, True):
        penalty = gr.SpectReg(1.0, sphere=sphere, samples=100)
        g = Generator().manual_seed(4)
        means = torch.tensor([penalty(at.model, at.x, generator=g).item() for _ in range(30)])
        assert abs(means.mean() - truth) < 5 * means.std() / 30**0.5


def test_section_2_2_frobreg_of_a_linear_layer_is_weight_decay() -> None:
    layer = torch.nn.Linear(7, 5).double()
    x = torch.randn(4, 7, dtype=torch.float64)
    value = gr.FrobReg(1.0)(layer, x)
    assert_same(value, layer.weight.square().sum())
    assert_same(torch.autograd.grad(value, layer.weight)[0], 2 * layer.weight)


def test_section_2_2_layer_norms_bound_frobreg_of_a_relu_net() -> None:
    first, last = torch.nn.Linear(7, 9).double(), torch.nn.Linear(9, 5).double()
    net = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    x = torch.randn(20, 7, dtype=torch.float64)
    product = first.weight.square().sum() * last.weight.square().sum()
    assert gr.FrobReg(1.0)(net, x) <= product


def test_section_2_3_jacreg_vanishes_as_the_network_grows_sure_and_frobreg_does_not(at: Point) -> None:
    jacreg, frobreg = gr.JacReg(1.0), gr.FrobReg(1.0)
    unsure = (jacreg(at.model, at.x).item(), frobreg(at.model, at.x).item())
    with torch.no_grad():
        for parameter in at.model[-1].parameters():  # type: ignore[index]
            parameter.mul_(1000)
    assert jacreg(at.model, at.x).item() < 1e-9 * unsure[0]
    assert frobreg(at.model, at.x).item() == pytest.approx(unsure[1] * 1000**2)


def test_appendix_a_one_row_for_the_whole_batch() -> None:
    """Figure 4 written in torch: gradients(logits * random_normal((m,))), summed squares, mean over the batch."""
    model, (x, _) = build("lenet"), batch()
    leaf = x.clone().requires_grad_()
    row = torch.randn(1, 4, generator=Generator().manual_seed(6), dtype=torch.float64)
    gradient = torch.autograd.grad((model(leaf) * row).sum(), leaf)[0]
    found = gr.SpectReg(1.0, per="batch")(model, x, generator=Generator().manual_seed(6))
    assert_same(found.detach(), gradient.flatten(1).square().sum(1).mean())


def test_one_row_for_the_batch_sees_nothing_behind_batch_statistics() -> None:
    """sum_i r . z_i is the same for all inputs where the last layer follows a normalization by the batch."""
    model, x = LeNet5("batch-statistics").double(), torch.randn(20, 1, 28, 28, dtype=torch.float64)
    common = gr.SpectReg(1.0, per="batch")(model, x, generator=Generator().manual_seed(0))
    own = gr.SpectReg(1.0, per="example")(model, x, generator=Generator().manual_seed(0))
    assert common.item() < 1e-20 < 1e-3 < own.item()
