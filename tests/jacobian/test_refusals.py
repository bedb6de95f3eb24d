"""Refusals that no cell of the table in docs/compatibility.md has; what needs several processes is in test_parallel."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradreg as gr


class LosesItsGraph(nn.Module):
    """As scripted models do: from the second run on, what it returns has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.runs = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        z = torch.tanh(self.layer(x))
        return z if self.runs == 1 else z.detach()


def test_a_second_run_without_a_graph_is_refused() -> None:
    """The penalty would be right, and nothing would learn from it."""
    message = r"lost its graph when it was run again.*torch.jit.*Use engine=gr.DoubleBackward\(\)"
    with pytest.raises(gr.UnsupportedOperationError, match=message):
        gr.SpectReg(0.1, engine=gr.FiniteDifference())(LosesItsGraph(), torch.randn(5, 4))


def test_frozen_models_and_measuring_without_gradients_are_no_lost_graphs() -> None:
    frozen = nn.Linear(4, 3).requires_grad_(False)
    penalty = gr.SpectReg(0.1, engine=gr.FiniteDifference())
    assert penalty(frozen, torch.randn(5, 4)) > 0
    with torch.no_grad():
        assert penalty(nn.Linear(4, 3), torch.randn(5, 4)) > 0


def test_a_model_that_forward_mode_cannot_follow() -> None:
    class Marks(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).requires_grad_()

    message = r"cannot follow, which engine=ForwardMode\(\) needs. Use engine=gr.DoubleBackward\(\) or.*requires_grad_"
    with pytest.raises(gr.UnsupportedOperationError, match=message):
        gr.SpectReg(0.1, engine=gr.ForwardMode())(Marks(4, 3), torch.randn(5, 4))


@pytest.mark.parametrize("x", [torch.randn(5, 4).double(), gr.Args(torch.randn(5, 4).double())], ids=["tensor", "args"])
def test_inputs_of_another_precision_get_a_note(x: Tensor | gr.Args) -> None:
    with pytest.raises(RuntimeError) as caught:
        gr.SpectReg(0.1)(nn.Linear(4, 3), x)
    (note,) = caught.value.__notes__
    assert "these are torch.float64, the parameters torch.float32. Write x.to(torch.float32), or model.to" in note


def test_other_errors_of_a_model_get_no_note() -> None:
    with pytest.raises(RuntimeError) as caught:
        gr.SpectReg(0.1)(nn.Linear(4, 3), torch.randn(5, 7))
    assert not hasattr(caught.value, "__notes__")


def test_a_loss_that_gets_an_object_says_how_to_reach_its_tensor() -> None:
    @dataclass
    class Answer:
        logits: Tensor

    layer = nn.Linear(4, 3)
    objective = gr.Objective(cross_entropy, gr.SpectReg(0.1, target=lambda out: out.logits))
    with pytest.raises(TypeError) as caught:
        objective(lambda x: Answer(layer(x)), torch.randn(5, 4), torch.zeros(5).long())
    assert any("lambda outputs, y: cross_entropy(outputs.logits, y)" in note for note in caught.value.__notes__)


class PartlyCompiled(nn.Linear):
    """Compiles a function of its own, which cannot be seen from outside."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.part = torch.compile(lambda x: torch.tanh(nn.functional.linear(x, self.weight)), backend="aot_eager")

    def forward(self, input: Tensor) -> Tensor:
        return self.part(input)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
def test_a_compiled_part_of_a_model_keeps_its_own_operations() -> None:
    """Its graph would otherwise be traced through gradreg's exchanges."""
    torch.manual_seed(1)
    model, x = PartlyCompiled().double(), torch.randn(5, 4, dtype=torch.float64)
    plain = gr.FrobReg(0.1)(lambda x: torch.tanh(x @ model.weight.T), x)
    torch.testing.assert_close(gr.FrobReg(0.1, engine=gr.ForwardMode())(model, x), plain, rtol=1e-9, atol=0)
    with pytest.raises(gr.UnsupportedOperationError, match=r"compiled by torch.compile .* gr.CompiledObjective"):
        gr.FrobReg(0.1)(model, x)


@pytest.mark.parametrize("name", ["1", "_orig_mod.1", "in place", "itself in place"])
def test_hidden_sites_within_compiled_models_are_refused(name: str) -> None:
    """torch would leave their hooks out, or say that nothing depends on them."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    compiled: Any = model
    if name == "in place":
        model.compile(backend="aot_eager")
    elif name == "itself in place":
        model[1].compile(backend="aot_eager")
    else:
        compiled = torch.compile(model, backend="aot_eager")
    site = gr.Hidden("1" if "place" in name else name)
    with pytest.raises(ValueError, match=r"the site '.*1' is within what torch.compile has.*gr.CompiledObjective; or"):
        gr.SpectReg(0.1, site=site, engine=gr.FiniteDifference())(compiled, torch.randn(5, 4))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
def test_a_compiled_layer_may_be_the_site_and_stand_before_it() -> None:
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), torch.randn(5, 4).double()
    penalty = gr.FrobReg(0.1, site=gr.Hidden("0"))
    plain = penalty(model, x)
    compiled = torch.compile(model[0], backend="aot_eager")
    assert isinstance(compiled, nn.Module)
    model[0] = compiled
    torch.testing.assert_close(penalty(model, x), plain, rtol=1e-9, atol=0)


class EndsMarked(nn.Module):
    """Its last operation before the outputs is marked @once_differentiable, and curved."""

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            return 3 * ctx.saved_tensors[0] ** 2 * g

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.Cube.apply(self.layers(x))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("penalty", "outputs"),
    [(gr.SpectReg(1.0), 3), (gr.FrobReg(1.0), 3), (gr.GradientPenalty(1.0), 1)],
    ids=["spectreg", "frobreg", "critic"],
)
def test_a_function_without_a_second_derivative_is_refused_as_the_last_operation(
    penalty: gr.Penalty, outputs: int
) -> None:
    """The row that reaches it first depends on no parameter, so torch itself says nothing."""
    with pytest.raises(gr.UnsupportedOperationError, match=r"^Cube has no double backward, which engine=Double"):
        penalty(EndsMarked(outputs), torch.randn(4, 6))


def test_auto_goes_past_such_a_function_and_the_probe_names_it() -> None:
    model, x = EndsMarked(), torch.randn(4, 6)
    penalty = gr.SpectReg(1.0, engine="auto")
    penalty(model, x)
    assert penalty.engine == gr.FiniteDifference()
    report = gr.probe(model, x, repeats=0)
    assert [name for name, found in report.engines.items() if found.works] == ["FiniteDifference"]
    failure = report.engines["DoubleBackward"].failure
    assert failure is not None
    assert failure.operation == "Cube"
    assert failure.layers == ("",)
