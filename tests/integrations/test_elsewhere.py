"""The loss of an objective whose task's loss a framework takes: nothing for the task, a given one for penalties."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import gradreg as gr
from gradreg.integrations._elsewhere import TakenElsewhere

X, VALUES, CLASSES = torch.randn(4, 5), torch.randn(4, 3), torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (cross_entropy, CLASSES),
        (nn.CrossEntropyLoss(), CLASSES),
        (lambda z, y: cross_entropy(z, y, reduction="none"), CLASSES),
        (mse_loss, VALUES),
        (partial(mse_loss, reduction="sum"), VALUES),
        (nn.MSELoss(reduction="sum"), VALUES),
    ],
    ids=["function", "module", "one for each example", "several terms", "their sum", "their sum, module"],
)
def test_penalties_differentiate_what_they_would_be_given(loss: Any, y: torch.Tensor) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    found = gr.Objective(TakenElsewhere(loss), gr.DoubleBack(2.0))(model, X, y)
    assert found.task == 0
    torch.testing.assert_close(found.terms["doubleback"], gr.DoubleBack(2.0, loss=loss)(model, X, y))


def test_errors_name_the_loss() -> None:
    with pytest.raises(ValueError, match=r"the loss CrossEntropyLoss failed on outputs of shape \(4, 3\)"):
        gr.Objective(TakenElsewhere(nn.CrossEntropyLoss()), gr.DoubleBack(1.0))(nn.Linear(5, 3), X, CLASSES[:, None])
    with pytest.raises(ValueError, match=r"the loss mean returned shape \(\); expected one loss per example"):
        gr.Objective(TakenElsewhere(mean), gr.DoubleBack(1.0))(nn.Linear(5, 3), X, CLASSES)


def mean(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(z, y)
