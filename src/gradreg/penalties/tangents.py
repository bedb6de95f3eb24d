"""TangentProp: directions in which an image may move without changing its class, and the penalty along them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gradreg import _checks
from gradreg.jacobian.engine import Engine
from gradreg.jacobian.projection import Tangents
from gradreg.jacobian.target import Target
from gradreg.penalties.jacobian import JacobianPenalty
from gradreg.penalties.schedule import Factor

MOVES = ("shift", "rotation", "scaling", "stretch", "shear", "thickness")


@dataclass(frozen=True)
class ImageTangents:
    """The derivatives of an image by small moves, such as two shifts, a rotation and a scaling; for `gr.Tangents`.

    With I the image smoothed by a Gaussian of width ``sigma`` (so that it has derivatives, which are then analytic:
    the image convolved with those of the Gaussian), and u, v the places right and down from its middle, in units of
    half its longer side:

        shift       dI/du', dI/dv'              along the two axes, by a pixel each
        rotation    u dI/dv' - v dI/du'         about the middle
        scaling     u dI/du' + v dI/dv'         about the middle
        stretch     u dI/du' - v dI/dv'         narrower and as much taller, by the source "parallel hyperbolic"
        shear       v dI/du' + u dI/dv'         the same along the diagonals, by the source "diagonal hyperbolic"
        thickness   ||(dI/du', dI/dv')||        bright shapes grow by a pixel on all sides, in each channel

    u', v' are the same in pixels. So every tangent is a move of at most about a pixel at the edge. Beyond the edge the
    image goes on as at the edge. Shifts, rotation, scaling, stretch and shear together are all affine moves. The
    source squares the thickness, so that its size beside the other tangents depends on the unit of the pixels.

    Args:
        moves: which of "shift" (two tangents), "rotation", "scaling", "stretch", "shear", "thickness", joined by "+".
        sigma: width of the Gaussian in pixels, > 0.

    Raises:
        ValueError: an unknown move, a width that is not > 0, or inputs that are no images (B, C, H, W).

    Example:
        >>> gr.ImageTangents("shift+rotation")(torch.rand(4, 1, 8, 8)).shape
        torch.Size([3, 4, 1, 8, 8])

    Source: Simard et al. 1991 (TangentProp); Simard et al. 1998 for the tangents of images and the Gaussian.
    """

    moves: str = "shift+rotation+scaling"
    sigma: float = 1.0

    def __post_init__(self) -> None:
        for move in self.moves.split("+"):
            _checks.choice(move, MOVES, "moves", "ImageTangents")
        _checks.not_negative(self.sigma, "sigma", "ImageTangents")
        if self.sigma == 0:
            raise ValueError("ImageTangents got sigma=0; expected the width of a Gaussian in pixels, such as 1.")

    def __call__(self, x: Tensor) -> Tensor:
        """The tangents (T, B, C, H, W) of images (B, C, H, W)."""
        if x.ndim != 4:
            raise ValueError(
                f"ImageTangents got inputs of shape {tuple(x.shape)}; expected images (B, C, H, W). For other inputs "
                "give directions of your own: gr.Tangents(directions)."
            )
        right, down = self._derivatives(x)
        half = max(x.shape[2:]) / 2
        v, u = (torch.arange(n, dtype=x.dtype, device=x.device) - (n - 1) / 2 for n in x.shape[2:])
        v, u = v[:, None] / half, u[None, :] / half
        found = []
        for move in self.moves.split("+"):
            match move:
                case "shift":
                    found += [right, down]
                case "rotation":
                    found.append(u * down - v * right)
                case "scaling":
                    found.append(u * right + v * down)
                case "stretch":
                    found.append(u * right - v * down)
                case "shear":
                    found.append(v * right + u * down)
                case _:
                    found.append(torch.hypot(right, down))
        return torch.stack(found)

    def _derivatives(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the smoothed image, by the place to the right and by the place down, per pixel."""
        (smooth_down, slope_down), (smooth_right, slope_right) = (self._matrices(size, x) for size in x.shape[2:])
        return smooth_down @ x @ slope_right.T, slope_down @ x @ smooth_right.T

    def _matrices(self, size: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian and its derivative as matrices (size, size), which take a line of pixels to one."""
        reach = max(1, round(3 * self.sigma))
        place = torch.arange(-reach, reach + 1, dtype=torch.float64, device=x.device)
        smooth = torch.exp(-0.5 * (place / self.sigma) ** 2)
        smooth = smooth / smooth.sum()
        slope = place * smooth
        slope = slope / (place * slope).sum()  # so that the derivative of a ramp is its slope
        # Beyond the edge is the pixel at the edge.
        taken = (torch.arange(size, device=x.device)[:, None] + place.long()).clamp(0, size - 1)
        empty = torch.zeros(size, size, dtype=torch.float64, device=x.device)
        found = [empty.scatter_add(1, taken, kernel.expand(size, -1)).to(x.dtype) for kernel in (smooth, slope)]
        return found[0], found[1]


class TangentProp(JacobianPenalty):
    """``weight * mean_i sum_t ||J_g(x_i) t||^2``: how fast the outputs change along given directions t.

    Teaches a network what may happen to its inputs: an image that is shifted or turned a little keeps its class.

    Args:
        weight: multiplies the mean; no hidden 1/2. The source has one.
        directions: ``directions(x)`` returns (T, B, ...), or that tensor itself. Default: `ImageTangents` of ``moves``.
        moves, sigma: see `ImageTangents`.
        samples: None takes each of the T tangents; 1 takes a sum of all with random signs, which is the same in the
            mean, for the cost of one: see `Tangents`.
        target, engine, every, fraction, ramp, name: see `JacobianPenalty`.

    Raises:
        ValueError: inputs that are no images, where directions are not given.

    Example:
        >>> images = torch.rand(4, 1, 8, 8)
        >>> penalty = gr.TangentProp(0.1, moves="shift+rotation")
        >>> penalty(SmallCNN(), images).backward()

    Cost: (1.33 + T)x a plain step at the floor for T tangents, 4 by default: a gradient, a product J t for each,
    and the backward pass of all; 2.33x with ``samples=1``.

    Source: Simard et al. 1991 (TangentProp); the paper's section 3.
    """

    def __init__(
        self,
        weight: float,
        directions: Tensor | Callable[[Any], Tensor] | None = None,
        *,
        moves: str = "shift+rotation+scaling",
        sigma: float = 1.0,
        samples: int | None = None,
        target: Target | Callable[..., Tensor] | None = None,
        engine: Engine | Literal["auto"] | None = None,
        every: int = 1,
        fraction: float = 1.0,
        ramp: Factor | int | None = None,
        name: str | None = None,
    ):
        super().__init__(
            weight,
            target=target,
            projection=Tangents(ImageTangents(moves, sigma) if directions is None else directions, samples),
            engine=engine,
            every=every,
            fraction=fraction,
            ramp=ramp,
            name=name,
        )
