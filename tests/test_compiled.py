"""`CompiledObjective`: the same training as with ordinary steps, or a word about why not.

Most cases run the traced graph without compilation; three compile.
"""

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import cross_entropy, mse_loss

import gradreg as gr
from gradreg._traced import _allow_other_layouts
from gradreg.models import LeNet5

ENGINES = [gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference(central=True)]
PRESETS: dict[str, Callable[[Any], gr.Penalty]] = {
    "spectreg": lambda engine: gr.SpectReg(0.1, engine=engine),
    "doubleback": lambda engine: gr.DoubleBack(1.0, engine=engine),
    "jacreg": lambda engine: gr.JacReg(1.0, engine=engine),
    "frobreg": lambda engine: gr.FrobReg(0.1, engine=engine),
    "outputs": lambda engine: gr.ConfidencePenalty(0.5) + gr.LabelSmoothing(0.1),
    "top-singular": lambda engine: gr.JacobianPenalty(0.1, engine=engine, projection=gr.TopSingular()),
    "random-class": lambda engine: gr.JacobianPenalty(0.1, engine=engine, projection=gr.RandomClass(2)),
    "probe": lambda engine: gr.JacobianPenalty(0.1, engine=engine, projection=gr.Rademacher(side="input")),
    "hidden": lambda engine: gr.SpectReg(0.1, engine=engine, site=gr.Hidden("1", "4")),
    "sum": lambda engine: gr.SpectReg(0.1, engine=engine, sphere=True) + gr.DoubleBack(1.0) + gr.LabelSmoothing(0.1),
}


def smooth() -> nn.Module:
    """Dropout and batch normalization behind smooth activations."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Softplus(), nn.Linear(8, 8), nn.Dropout(0.5), nn.Tanh(),
        nn.Linear(8, 3),
    )  # fmt: skip


def batches(count: int, size: int = 5, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    g = Generator().manual_seed(11)
    return [
        (torch.randn(size, 3, 4, dtype=dtype, generator=g), torch.randint(3, (size,), generator=g))
        for _ in range(count)
    ]


def train(step: Callable[..., gr.Result], model: nn.Module, data: list[Any], own: bool) -> list[gr.Result]:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    generator = Generator().manual_seed(5) if own else None
    torch.manual_seed(1)
    results = []
    for x, y in data:
        results.append(step(x, y, generator=generator))
        optimizer.step()
        optimizer.zero_grad()
    return results


def compare(
    objective: gr.Objective,
    model: nn.Module,
    data: list[Any],
    *,
    own: bool = True,
    backend: str = "eager",
    kinds: int = 1,
) -> float:
    """Trains two copies; returns the largest difference of parameters and buffers."""
    other = copy.deepcopy(model)
    compiled = gr.CompiledObjective(objective, other, backend=backend, fallback=False)

    def ordinary(x: Any, y: Any, generator: Generator | None) -> gr.Result:
        result = objective(model, x, y, generator=generator)
        result.total.backward()
        return result

    expected = train(ordinary, model, data, own)
    state = torch.get_rng_state()
    found = train(compiled, other, data, own)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(compiled._traced) == kinds
    for a, b in zip(found, expected, strict=True):
        assert not a.total.requires_grad
        assert list(a.terms) == list(b.terms)
        torch.testing.assert_close([a.total, a.task, *a.terms.values()], [b.total, b.task, *b.terms.values()])
    pairs = zip(other.state_dict().values(), model.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
@pytest.mark.parametrize("preset", PRESETS)
def test_training_is_the_same_with_every_preset_and_engine(preset: str, engine: gr.Engine) -> None:
    """With dropout and batch statistics, projections from a generator; 1e-12 in float64 after four steps."""
    objective = gr.Objective(cross_entropy, PRESETS[preset](engine))
    assert compare(objective, smooth().double(), batches(4)) < 1e-12


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
def test_projections_from_the_global_random_state_are_the_same(engine: gr.Engine) -> None:
    """They come in turn with dropout's masks."""
    objective = gr.Objective(cross_entropy, gr.SpectReg(0.1, engine=engine, samples=2))
    assert compare(objective, smooth().double(), batches(4), own=False) < 1e-12


@pytest.mark.parametrize(("backend", "own"), [("aot_eager", False), ("inductor", True)])
def test_a_hundred_steps_of_lenet_with_dropout(backend: str, own: bool) -> None:
    """In float32 with Adam at 0.001: 1e-4 of the parameters, whose order of sums is another in compiled code."""
    data = [(torch.randn(5, 1, 28, 28), torch.randint(10, (5,))) for _ in range(100)]
    _compare_lenet5(data, backend, own)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("own", [False, True])
def test_100_compiled_steps_on_a_gpu_are_100_ordinary_ones(own: bool) -> None:
    """As CUDA graphs, by inductor, with dropout's masks and the projections of ordinary steps."""
    torch.manual_seed(1)
    data = [(torch.randn(5, 1, 28, 28).double().cuda(), torch.randint(10, (5,)).cuda()) for _ in range(100)]
    with torch.backends.cudnn.flags(enabled=False):  # whose kernels sum in orders of their own
        _compare_lenet5(data, "inductor", own, atol=1e-8)


def _compare_lenet5(data: list[tuple[Tensor, Tensor]], backend: str, own: bool, atol: float = 1e-4) -> None:
    model = LeNet5().to(data[0][0])
    other = copy.deepcopy(model)
    objective = gr.Objective(cross_entropy, gr.SpectReg(0.03))
    compiled = gr.CompiledObjective(objective, other, backend=backend, fallback=False)
    for net, step in ((model, None), (other, compiled)):
        optimizer, generator = torch.optim.Adam(net.parameters()), Generator().manual_seed(0) if own else None
        torch.manual_seed(2)
        for x, y in data:
            if step is None:
                objective(net, x, y, generator=generator).total.backward()
            else:
                step(x, y, generator=generator)
            optimizer.step()
            optimizer.zero_grad()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=atol)


def test_compiled_batch_normalization_and_second_runs() -> None:
    """Inductor with a finite difference, which magnifies rounding."""
    objective = gr.Objective(cross_entropy, gr.SpectReg(0.1, engine=gr.FiniteDifference(central=True)))
    assert compare(objective, smooth().double(), batches(3), own=False, backend="inductor") < 1e-6


def test_other_shapes_modes_and_frozen_parameters_get_their_own_graph() -> None:
    model, objective = smooth().double(), gr.Objective(cross_entropy, gr.SpectReg(0.1))
    data = [*batches(2), *batches(2, size=3), *batches(2)]
    assert compare(objective, model, data, kinds=2) < 1e-12
    step = gr.CompiledObjective(objective, model, backend="eager", fallback=False)
    (x, y), g = batches(1)[0], Generator()
    for _ in range(2):
        step(x, y, generator=g)
    means = model[2].running_mean.clone()  # type: ignore[index]
    model.eval()
    for _ in range(2):
        step(x, y, generator=g)
    assert torch.equal(model[2].running_mean, means)  # type: ignore[index]
    model[1].requires_grad_(False)  # type: ignore[index]
    model.zero_grad()
    for _ in range(2):
        step(x, y, generator=g)
    assert len(step._traced) == 3
    assert model[1].weight.grad is None  # type: ignore[index]
    assert model[4].weight.grad is not None  # type: ignore[index]


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_are_added(to_none: bool) -> None:
    model, objective = smooth().double().eval(), gr.Objective(cross_entropy, gr.FrobReg(0.1))
    step, (x, y) = gr.CompiledObjective(objective, model, backend="eager", fallback=False), batches(1)[0]
    for _ in range(3):
        model.zero_grad(set_to_none=to_none)
        step(x, y)
        once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        step(x, y)
        twice = [p.grad for p in model.parameters() if p.grad is not None]
        torch.testing.assert_close(twice, [2 * g for g in once])


class Sum(nn.Module):
    """Two parameters with one gradient tensor, one weight under two names, a buffer that is exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.head = nn.Linear(12, 3)
        self.register_buffer("last", torch.zeros(12))

    def forward(self, image: Tensor, scale: float = 1.0) -> dict[str, Any]:
        h = self.second(torch.tanh(self.first(image.flatten(1))))
        self.last = h.detach().mean(0)
        return {"logits": scale * self.head(torch.tanh(h)) + (self.a + self.b), "scale": scale}


def test_shared_gradients_tied_weights_trees_and_exchanged_buffers() -> None:
    def loss(outputs: Any, y: Tensor) -> Tensor:
        return cross_entropy(outputs["logits"], y)

    model = Sum().double()
    penalty = gr.SpectReg(0.1, target=lambda outputs: outputs["logits"], site=gr.Input("image"))
    data = [
        (gr.Args(image=x, scale=s), y) for (x, y), s in zip(batches(6), (1.0, 1.0, 2.0, 2.0, 1.0, 2.0), strict=True)
    ]
    assert compare(gr.Objective(loss, penalty), model, data, kinds=2) < 1e-12
    step = gr.CompiledObjective(gr.Objective(loss, penalty), model, backend="eager", fallback=False)
    step(*data[0])
    model.zero_grad()
    outputs = step(*data[0]).outputs
    assert outputs["scale"] == 1.0
    assert outputs["logits"].shape == (5, 3)
    assert model.a.grad is not None
    assert model.b.grad is not None
    assert model.a.grad.data_ptr() != model.b.grad.data_ptr()


def test_float_labels_no_labels_and_unlabelled_inputs() -> None:
    model = smooth().double().eval()
    floats = [(x, torch.randn(5, 3, dtype=torch.float64)) for x, _ in batches(3)]
    assert compare(gr.Objective(mse_loss, gr.DoubleBack(0.1)), copy.deepcopy(model), floats) < 1e-12
    none = [(x, None) for x, _ in batches(3)]
    assert compare(gr.Objective(lambda z, y: z.square().mean(), gr.SpectReg(0.1)), copy.deepcopy(model), none) < 1e-12
    objective, (x, y), more = gr.Objective(cross_entropy, gr.FrobReg(0.1)), batches(1)[0], batches(1, size=7)[0][0]
    step = gr.CompiledObjective(objective, model, backend="eager", fallback=False)
    expected = objective(model, x, y, unlabeled=more).total.detach()
    for _ in range(2):
        torch.testing.assert_close(step(x, y, unlabeled=more).total, expected)


def test_a_loss_module_with_parameters_and_class_weights() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
            self.held = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(self.scale * z, y, weight=self.held)

    model, loss, (x, y) = smooth().double().eval(), Scaled(), batches(1)[0]
    step = gr.CompiledObjective(gr.Objective(loss), model, backend="eager", fallback=False)
    gradients = []
    for _ in range(2):
        loss.zero_grad()
        step(x, y)
        assert loss.scale.grad is not None
        gradients.append(loss.scale.grad.clone())
    assert torch.equal(*gradients)


def test_a_changed_weight_autocast_and_no_grad_are_seen() -> None:
    model, objective, (x, y) = smooth().eval(), gr.Objective(cross_entropy, gr.FrobReg(0.1)), batches(1)[0]
    x = x.float()
    step = gr.CompiledObjective(objective, model, backend="eager", fallback=False)
    for weight in (0.1, 0.2):
        objective.penalties["frobreg"].weight = weight
        for _ in range(2):
            with torch.no_grad():
                found = step(x, y)
            torch.testing.assert_close(found.total, objective(model, x, y).total.detach())
    with torch.autocast("cpu", torch.bfloat16):
        expected = objective(model, x, y)
        step(x, y)
        found = step(x, y)
    assert found.outputs.dtype == torch.bfloat16
    torch.testing.assert_close(found.total, expected.total.detach())
    assert len(step._traced) == 3


# --- what is refused --------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """A layer, and something that no graph can hold."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.layer, self.what = nn.Linear(12, 3), what
        self.calls, self.kept = 0, torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x.flatten(1))
        match self.what:
            case "branch":
                return z if z.sum() > 0 else 2 * z
            case "item":
                return z * z.detach().abs().max().item()
            case "counter":
                self.calls += 1
                return z / self.calls
            case "random":
                return z * (1 + random.random())
            case "state":
                self.kept = 0.5 * self.kept + z.detach().mean(0)
            case "write":
                self.kept.mul_(0.5).add_(z.detach().mean(0))
            case "generator":
                return z + torch.randn(3, generator=self.generator)
        return z + self.kept

    generator = Generator()


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("branch", "DataDependent|data-dependent"),
        ("counter", "the model's forward moves calls: state in Python"),
        ("random", r"the model's forward moves random: .*Keep it in a buffer, or use torch's random numbers"),
        ("state", "the model's forward moves kept"),
        ("write", r"writes to a tensor of shape \(3,\) that is no buffer of the model; register it"),
        ("generator", "draws from a generator of its own, which a graph cannot hold; use torch"),
    ],
)
def test_what_cannot_be_traced_goes_on_with_ordinary_steps(what: str, cause: str) -> None:
    model = Odd(what)
    other, objective, data = copy.deepcopy(model), gr.Objective(cross_entropy, gr.SpectReg(0.1)), batches(4)
    data = [(x.float(), y) for x, y in data]
    step = gr.CompiledObjective(objective, other, backend="eager")
    for net, run in ((model, lambda x, y: objective(model, x, y).total.backward()), (other, step)):
        torch.manual_seed(3)
        random.seed(4)
        Odd.generator.manual_seed(5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for x, y in data:
                run(x, y)
        shown = [str(w.message) for w in caught]
        assert len(shown) == (net is other), shown
    with pytest.warns(UserWarning, match="goes on with ordinary steps, which are as right: a step of Odd cannot be"):
        warnings.warn_explicit(shown[0], UserWarning, "", 0)
    with pytest.warns(UserWarning, match=cause):
        warnings.warn_explicit(shown[0], UserWarning, "", 0)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
    assert type(other.kept) is Tensor


def test_a_number_taken_from_a_tensor_stays_a_value_of_the_graph() -> None:
    data = [(x.float(), y) for x, y in batches(4)]
    assert compare(gr.Objective(cross_entropy, gr.SpectReg(0.1)), Odd("item"), data) == 0


def test_without_fallback_the_cause_is_raised() -> None:
    step = gr.CompiledObjective(gr.Objective(cross_entropy), Odd("counter"), backend="eager", fallback=False)
    x, y = batches(1)[0]
    step(x.float(), y)
    with pytest.raises(RuntimeError, match=r"cannot compile a step of Odd\. RuntimeError: .* calls.*Use the objective"):
        step(x.float(), y)


def test_a_missing_compiler_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr(torch, "compile", none)
    step, (x, y) = gr.CompiledObjective(gr.Objective(cross_entropy), smooth().double()), batches(1)[0]
    step(x, y)
    with pytest.warns(UserWarning, match="cannot be compiled. RuntimeError: no C"):
        step(x, y)
    assert step(x, y).total > 0


def test_parameters_that_would_lose_their_gradient_are_refused() -> None:
    outside, (x, y) = nn.Parameter(torch.ones(3, dtype=torch.float64)), batches(1)[0]
    objective = gr.Objective(lambda z, y: cross_entropy(z * outside, y))
    step = gr.CompiledObjective(objective, smooth().double(), backend="eager")
    with pytest.warns(UserWarning, match=r"a parameter of shape \(3,\) that belongs neither to the model nor"):
        step(x, y)
    assert outside.grad is not None
    plain = torch.ones(3, dtype=torch.float64, requires_grad=True)
    objective = gr.Objective(lambda z, y: cross_entropy(z * plain, y))
    step = gr.CompiledObjective(objective, smooth().double(), backend="eager", fallback=False)
    step(x, y)
    with pytest.raises(RuntimeError, match="requires grad and is no parameter of the model"):
        step(x, y)


def test_hooks_on_gradients_are_refused() -> None:
    model, (x, y) = smooth().double(), batches(1)[0]
    model[1].weight.register_hook(lambda g: 2 * g)  # type: ignore[index]
    step = gr.CompiledObjective(gr.Objective(cross_entropy), model, backend="eager", fallback=False)
    with pytest.raises(RuntimeError, match="a parameter has hooks on its gradient"):
        step(x, y)


def test_many_shapes_are_named_and_run_as_ordinary_steps() -> None:
    model = smooth().double()
    step = gr.CompiledObjective(gr.Objective(cross_entropy), model, backend="eager", limit=2)
    for size in (2, 2, 3, 3, 4):
        step(*batches(1, size=size)[0])
    with pytest.warns(UserWarning, match=r"met 3 kinds of batch .* compiles 2; .* drop_last=True\), or raise limit"):
        step(*batches(1, size=4)[0])
    step(*batches(1, size=4)[0])
    assert len(step._traced) == 2


def test_bad_arguments_say_what_to_write() -> None:
    objective, model, (x, y) = gr.Objective(cross_entropy), smooth().double(), batches(1)[0]
    with pytest.raises(TypeError, match="expected a gradreg Objective"):
        gr.CompiledObjective(cross_entropy, model)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, .* Put the function into the forward"):
        gr.CompiledObjective(objective, lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit=0"):
        gr.CompiledObjective(objective, model, limit=0)
    step = gr.CompiledObjective(objective, model, backend="eager")
    with pytest.raises(ValueError, match=r"input that requires grad \(x\).* x.detach\(\)"):
        step(x.requires_grad_(), y)


def test_graph_runs_in_other_layouts_than_it_was_traced_in() -> None:
    graph = make_fx(lambda x: x.view(6) * 2)(torch.zeros(2, 3))
    x = torch.arange(6.0).reshape(3, 2).t()
    with pytest.raises(RuntimeError, match="view"):
        graph(x)
    _allow_other_layouts(graph)
    assert torch.equal(graph(x), x.reshape(6) * 2)


@pytest.mark.parametrize("write", ["x.view(6).mul_(2)", "x.view(6).detach().mul_(2)", "x.mul_(2)", "x.t().mul_(2)"])
def test_views_of_memory_that_is_written_to_stay_views(write: str) -> None:
    """A copy would miss what is written: an error is better."""

    def function(x: Tensor) -> Tensor:
        x = x + 0
        seen = x.view(6)
        exec(write, {"x": x})
        return seen + x.view(6)

    graph = make_fx(function)(torch.zeros(2, 3))
    _allow_other_layouts(graph)
    assert torch.equal(graph(torch.ones(2, 3)), torch.full((6,), 4.0))
    with pytest.raises(RuntimeError, match="view"):
        graph(torch.ones(3, 2).t())
