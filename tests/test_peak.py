"""The peak of memory: counted, so exact and the same each time."""

import os

import pytest
import torch
from torch import Tensor

from gradreg._peak import peak_bytes

CPU = torch.device("cpu")


def test_the_peak_is_what_lives_at_once() -> None:
    kept: list[Tensor] = []

    def step() -> None:
        for _ in range(3):
            torch.empty(250_000)  # 1 MB each, one after another
        kept.append(torch.empty(500_000))
        kept.clear()

    assert [peak_bytes(step, CPU) for _ in range(2)] == [2_000_000] * 2


def test_what_lived_before_does_not_count() -> None:
    x = torch.zeros(1000)
    assert peak_bytes(lambda: x.add_(1), CPU) < 4000
    assert 4000 <= peak_bytes(lambda: x + 1, CPU) < 8000


def test_standard_error_is_put_back(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        peak_bytes(fail, CPU)
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_on_a_gpu() -> None:
    found = peak_bytes(lambda: torch.empty(500_000, device="cuda"), torch.device("cuda"))
    assert 2_000_000 <= found < 4_000_000
