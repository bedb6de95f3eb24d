"""Docstrings: every public name has an example, and every example runs and gives what it says."""

import doctest
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import gradreg as gr
from gradreg import data, models
from gradreg.data.splits import split

PUBLIC = {name: getattr(gr, name) for name in gr.__all__ if not isinstance(getattr(gr, name), ModuleType)}
FUNCTIONS = {
    "dense.jacobian": gr.dense.jacobian,
    "convert.weight": gr.convert.weight,
    **{f"metrics.{name}": getattr(gr.metrics, name) for name in gr.metrics.__all__ if name != "Norm"},
    "models.LeNet5": models.LeNet5,
    "models.SmallCNN": models.SmallCNN,
    "data.splits.split": split,
}
# Contracts and errors: there is nothing to write but a subclass or an except clause.
WITHOUT = {
    "Seen",
    "Linearization",
    "Target",
    "Site",
    "Projection",
    "Engine",
    "Magnitude",
    "Result",
    "Adjustment",
    "metrics.Attack",
    "metrics.Norms",
    "metrics.Profile",
    "metrics.Segments",
    "metrics.evaluating",
    "UnsupportedOperationError",
}


@pytest.fixture
def names() -> dict[str, Any]:
    """What an example may use without saying where it comes from."""
    model = nn.Sequential()
    model.add_module("embedding", nn.Identity())
    model.add_module("layer2", nn.Linear(8, 8))
    model.add_module("head", nn.Linear(8, 3))
    x, y = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    return {
        "gr": gr,
        "torch": torch,
        "cross_entropy": nn.functional.cross_entropy,
        "model": model,
        "x": x,
        "y": y,
        "x_test": x,
        "x_held_out": x,
        "y_held_out": y,
        "loader": [(x, y)],
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "split": split,
        "LeNet5": models.LeNet5,
        "SmallCNN": models.SmallCNN,
        "data": data,
    }


@pytest.mark.parametrize("name", [*PUBLIC, *FUNCTIONS, "package"])
def test_examples_run_and_give_what_they_say(name: str, names: dict[str, Any]) -> None:
    documented = gr if name == "package" else {**PUBLIC, **FUNCTIONS}[name]
    examples = doctest.DocTestParser().get_examples(documented.__doc__ or "")
    assert examples or name in WITHOUT
    for example in examples:
        if example.want:
            result = eval(example.source, names)
            assert repr(result) == example.want.strip(), example.source
        else:
            exec(example.source, names)
