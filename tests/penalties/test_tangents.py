"""TangentProp: built-in tangents against derivatives known in closed form, the penalty against its formula."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models_for_tests import batch, build, parameter_gradient
from torch import Generator, Tensor

import gradreg as gr
from gradreg.models import SmallCNN

SIZE, SIGMA = 32, 1.5


def places() -> tuple[Tensor, Tensor]:
    """Pixels to the right of the middle and below it."""
    place = torch.arange(SIZE, dtype=torch.float64) - (SIZE - 1) / 2
    return place[None, :], place[:, None]


def blob(u: Tensor, v: Tensor, width: float = 3.0) -> Tensor:
    """A Gaussian around (2, -3)."""
    return torch.exp(-((u - 2) ** 2 + (v + 3) ** 2) / (2 * width**2))


def closed_form() -> dict[str, Tensor]:
    """The derivatives of the smoothed blob: a wider and lower blob."""
    u, v = places()
    width = math.sqrt(3.0**2 + SIGMA**2)
    smooth = 3.0**2 / width**2 * blob(u, v, width)
    right, down = -(u - 2) / width**2 * smooth, -(v + 3) / width**2 * smooth
    u, v = u / (SIZE / 2), v / (SIZE / 2)
    return {
        "right": right,
        "down": down,
        "rotation": u * down - v * right,
        "scaling": u * right + v * down,
        "stretch": u * right - v * down,
        "shear": v * right + u * down,
        "thickness": (right**2 + down**2).sqrt(),
    }


def test_tangents_are_the_derivatives_of_the_smoothed_image() -> None:
    """Against the closed form for a Gaussian; the kernel is cut off at three widths, which costs about 1 %."""
    image = blob(*places())[None, None]
    found = gr.ImageTangents("shift+rotation+scaling+stretch+shear+thickness", SIGMA)(image)
    torch.testing.assert_close(gr.ImageTangents(sigma=SIGMA)(image), found[:4])
    for tangent, (name, expected) in zip(found, closed_form().items(), strict=True):
        assert (tangent[0, 0] - expected).abs().max() < 0.02 * expected.abs().max(), name


def test_derivative_of_a_ramp_is_its_slope() -> None:
    ramp = (3 * torch.arange(16.0) - 7).expand(2, 3, 16, 16)
    right, down = gr.ImageTangents("shift", sigma=0.7)(ramp)
    torch.testing.assert_close(right[..., 4:-4], torch.full((2, 3, 16, 8), 3.0))
    torch.testing.assert_close(down, torch.zeros_like(down), rtol=0, atol=1e-4)


def test_a_move_along_a_tangent_is_the_moved_image() -> None:
    """A turn of one degree, against the blob turned in closed form, both smoothed."""
    u, v = places()
    angle = math.radians(1)
    turned = blob(u * math.cos(angle) - v * math.sin(angle), v * math.cos(angle) + u * math.sin(angle))[None, None]
    (tangent,) = gr.ImageTangents("rotation", sigma=SIGMA)(blob(u, v)[None, None])
    width = math.sqrt(3.0**2 + SIGMA**2)
    smooth = 3.0**2 / width**2 * blob(u, v, width)
    smooth_turned = (
        3.0**2
        / width**2
        * blob(u * math.cos(angle) - v * math.sin(angle), v * math.cos(angle) + u * math.sin(angle), width)
    )
    assert turned.shape == tangent.shape
    # A radian moves the pixel at the edge by half the side.
    change = (smooth_turned - smooth) / (angle * SIZE / 2)
    assert (tangent[0, 0] - change).abs().max() < 0.04 * change.abs().max()


def test_stretch_and_shear_are_the_moves_of_that_name() -> None:
    """A blob narrower by a part e and as much taller, and one pressed along a diagonal, in closed form."""
    u, v = places()
    e = 1e-3
    for move, moved in (("stretch", (u * (1 + e), v / (1 + e))), ("shear", (u + e * v, v + e * u))):
        (tangent,) = gr.ImageTangents(move, sigma=0.5)(blob(u, v)[None, None])
        # A part e moves the pixel at the edge by e times half the side.
        change = (blob(*moved) - blob(u, v)) / (e * SIZE / 2)
        assert (tangent[0, 0] - change).abs().max() < 0.06 * change.abs().max(), move


def test_thickness_grows_a_disc() -> None:
    """Against a disc with a soft edge whose radius grows."""
    u, v = places()

    def disc(radius: float) -> Tensor:
        return torch.sigmoid((radius - (u**2 + v**2).sqrt()) / 1.5)

    (tangent,) = gr.ImageTangents("thickness", sigma=0.5)(disc(8)[None, None])
    change = (disc(8 + 1e-3) - disc(8)) / 1e-3
    assert (tangent[0, 0] - change).abs().max() < 0.06 * change.max()


def test_thickness_is_taken_in_each_channel() -> None:
    image = torch.stack([blob(*places()), -2 * blob(*places())])[None]
    (tangent,) = gr.ImageTangents("thickness")(image)
    torch.testing.assert_close(tangent[:, 1], 2 * tangent[:, 0])


@pytest.mark.parametrize("engine", [gr.DoubleBackward(), gr.ForwardMode()], ids=repr)
@pytest.mark.parametrize("given", [False, True])
def test_tangentprop_equals_its_formula(engine: gr.Engine, given: bool) -> None:
    model, (x, _) = build("lenet"), batch()
    directions = torch.randn(2, *x.shape, generator=Generator().manual_seed(1), dtype=x.dtype) if given else None
    found = gr.TangentProp(0.7, directions, engine=engine)(model, x)
    tangents = gr.ImageTangents()(x) if directions is None else directions
    jacobian = gr.dense.jacobian(model, x, create_graph=True)
    expected = 0.7 * torch.einsum("bmn,tbn->tbm", jacobian, tangents.flatten(2)).square().sum((0, 2)).mean()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    a, b = parameter_gradient(found, model), parameter_gradient(expected, model)
    assert (a - b).norm() <= 1e-9 * b.norm()


def test_random_signs_are_the_same_in_the_mean() -> None:
    """All sixteen choices of signs average to the sum over the tangents exactly; 400 draws come near to it."""
    model, (x, _) = build("lenet"), batch()
    every = gr.TangentProp(1.0)(model, x)
    tangents = gr.ImageTangents()(x)
    exact = torch.stack(
        [
            gr.TangentProp(1.0, (tangents * torch.tensor(s).view(4, *[1] * x.ndim)).sum(0, keepdim=True))(model, x)
            for s in itertools.product((-1.0, 1.0), repeat=4)
        ]
    )
    torch.testing.assert_close(exact.mean(), every, rtol=1e-9, atol=0)
    # Signs by example: the standard deviation of a draw is at most that of signs common to the batch.
    drawn = gr.TangentProp(1.0, samples=400)(model, x, generator=Generator().manual_seed(0))
    assert (drawn - every).abs() < 5 * exact.std() / 400**0.5


def test_one_sample_takes_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, column = [], gr.DoubleBackward.column
    monkeypatch.setattr(gr.DoubleBackward, "column", lambda *args: taken.append(1) or column(*args))
    model, (x, _) = build("lenet"), batch()
    gr.TangentProp(1.0, samples=1)(model, x)
    assert len(taken) == 1
    gr.TangentProp(1.0, samples=1, moves="rotation")(model, x)
    assert len(taken) == 2


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: gr.ImageTangents("shift+flip"), "got moves='flip'; expected 'shift' or 'rotation' or 'scaling'"),
        (lambda: gr.TangentProp(1.0, samples=0), "Tangents got samples=0; expected a whole number >= 1"),
        (lambda: gr.ImageTangents(sigma=0), "ImageTangents got sigma=0; expected the width of a Gaussian in pixels"),
        (lambda: gr.ImageTangents(sigma=-1), "ImageTangents got sigma=-1; expected a finite number >= 0"),
        (lambda: gr.ImageTangents()(torch.ones(2, 8)), r"got inputs of shape \(2, 8\); expected images \(B, C, H, W\)"),
        (
            lambda: gr.TangentProp(1.0, torch.ones(3))(SmallCNN(), torch.ones(2, 1, 8, 8)),
            r"Tangents got directions of shape \(3,\)",
        ),
    ],
)
def test_wrong_use_is_answered_with_what_to_write(make: Callable[[], Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make()
