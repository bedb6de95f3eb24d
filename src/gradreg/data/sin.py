"""SIN: the paper's synthetic regression y = sin(5 x) on [-1, 1], and its doubled variant."""

import math
from typing import TYPE_CHECKING

from gradreg.data.dataset import Dataset

if TYPE_CHECKING:
    from torch import Tensor

FREQUENCY, NOISE, TWIN = 5.0, 0.1, 0.001
POOL, VALIDATION, GRID = 20000, 1000, 900
_SEED = 20171209


def target(x: float) -> float:
    """The function without noise."""
    return math.sin(FREQUENCY * x)


def grid() -> list[float]:
    """The 900 test inputs: evenly from -1 to 1, both ends included."""
    return [-1 + 2 * i / (GRID - 1) for i in range(GRID)]


def load_sin(*, doubled: bool = False) -> Dataset:
    """Points (x, sin(5 x) + noise): x uniform in [-1, 1], noise Gaussian with standard deviation 0.1.

    Training points are drawn from a fixed pool of 20000, so that each seed gets 100 of its own, as if drawn from the
    distribution itself. The test points are the fixed grid of 900, without noise. The paper does not say what its
    weights were chosen on; here that is 1000 validation points drawn like the training points, noise included, since
    nobody has labels without noise to choose by: their MSE is above that on the test points by about the noise's
    variance, 0.01, the same for every method. Inputs are left as they are: a slope is dy/dx in the paper's own unit.

    Args:
        doubled: each training point (x, y) comes a second time as (x + 0.001, y): flat at every training point, which
            only a function of many steps can be. A seed draws the same points as without.

    Example:
        >>> data = load_sin()
        >>> data.test_x.shape, data.test_y.shape
        (torch.Size([900, 1]), torch.Size([900, 1]))

    Source: the paper's appendix B.4 and section 4.7.
    """
    import torch

    from gradreg import _random

    def drawn(size: int, purpose: str) -> "tuple[Tensor, Tensor]":
        generator = _random.generator_for(_SEED, purpose)
        x = 2 * torch.rand(size, 1, generator=generator, dtype=torch.float64) - 1
        y = torch.sin(FREQUENCY * x) + NOISE * torch.randn(size, 1, generator=generator, dtype=torch.float64)
        return x.float(), y.float()

    x, y = drawn(POOL, "sin/training")
    validation_x, validation_y = drawn(VALIDATION, "sin/validation")
    test_x = torch.tensor(grid(), dtype=torch.float64)[:, None]
    return Dataset(
        name="sin",
        x=x,
        y=y,
        classes=(),
        test_x=test_x.float(),
        test_y=torch.sin(FREQUENCY * test_x).float(),
        validation_x=validation_x,
        validation_y=validation_y,
        standardize=False,
        twin=TWIN if doubled else 0.0,
    )
