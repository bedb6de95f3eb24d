"""Engines that run the model again: the same function, the same state, and nothing left behind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models_for_tests import Residual, batch, parameter_gradient
from torch import Generator, Tensor, nn

import gradreg as gr

AGAIN = [gr.ForwardMode(), gr.FiniteDifference(1e-5, central=True)]


def penalty(
    engine: gr.Engine, model: Any, x: Any, owner: nn.Module | None = None, **slots: Any
) -> tuple[Tensor, Tensor]:
    """Value and parameter gradient of SpectReg with one fixed row."""
    value = gr.SpectReg(1.0, engine=engine, **slots)(model, x, generator=Generator().manual_seed(3))
    return value.detach(), parameter_gradient(value, owner or model)


def assert_equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], relative: float) -> None:
    torch.testing.assert_close(a[0], b[0], rtol=relative, atol=0)
    assert (a[1] - b[1]).norm() <= relative * b[1].norm()


class Between(nn.Module):
    """A function of hidden activations (B, 3, 8) between two dense layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(8, 8), nn.Linear(8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x))).flatten(1)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer_norm": lambda h: F.layer_norm(h, (8,)),
    "layer_norm over two dimensions": lambda h: F.layer_norm(h, (3, 8)),
    "instance_norm": F.instance_norm,
    "group_norm": lambda h: F.group_norm(h, 3),
    "rms_norm": lambda h: F.rms_norm(h, (8,)),
    "batch_norm in evaluation": lambda h: F.batch_norm(h, torch.zeros(3).double(), torch.ones(3).double()) ** 2,
    "softmax": lambda h: h.softmax(-1),
    "log_softmax": lambda h: h.log_softmax(-1),
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "softplus": F.softplus,
    "normalize": lambda h: F.normalize(h, dim=-1),
    "attention written out": lambda h: (h @ h.mT).softmax(-1) @ h,
    "std": lambda h: h.std(-1, keepdim=True) * h,
    "max_pool": lambda h: F.max_pool1d(h, 3, 1, 1) ** 2,
    "avg_pool": lambda h: F.avg_pool1d(h, 3, 1, 1) ** 2,
    "interpolate": lambda h: F.interpolate(h, 8, mode="linear") ** 2,
    "conv": lambda h: torch.tanh(F.conv1d(h, torch.ones(3, 3, 3).double() / 3, padding=1)),
    "in place": lambda h: (h * 1).tanh_(),
    "inverse": lambda h: torch.linalg.inv(h @ h.mT + torch.eye(3).double()) @ h,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_mode_has_the_parameter_gradient_of_double_backward(name: str) -> None:
    """Some of torch's forward-mode rules have a right tangent with a wrong parameter gradient."""
    model, x = Between(FUNCTIONS[name]).double(), torch.randn(2, 3, 8, dtype=torch.float64)
    assert_equal(penalty(gr.ForwardMode(), model, x), penalty(gr.DoubleBackward(), model, x), 1e-9)


@pytest.mark.parametrize(
    "layer",
    [nn.LayerNorm(8), nn.InstanceNorm1d(3, affine=True), nn.GroupNorm(3, 3), nn.LayerNorm(8, bias=False)],
    ids=repr,
)
def test_forward_mode_with_the_weights_of_normalization_layers(layer: nn.Module) -> None:
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    model, x = Between(layer).double(), torch.randn(2, 3, 8, dtype=torch.float64)
    assert_equal(penalty(gr.ForwardMode(), model, x), penalty(gr.DoubleBackward(), model, x), 1e-9)


@pytest.mark.parametrize("function", [torch.linalg.slogdet, torch.linalg.det])
def test_operations_whose_forward_rule_is_wrong_are_refused(function: Callable[[Tensor], Any]) -> None:
    def volume(h: Tensor) -> Tensor:
        found = function(h @ h.mT + torch.eye(3).double())
        return h * (found if isinstance(found, Tensor) else found[1])[:, None, None]

    model, x = Between(volume).double(), torch.randn(2, 3, 8, dtype=torch.float64)
    with pytest.raises(
        gr.UnsupportedOperationError, match=r"(?i)det has a forward-mode rule .* Use engine=gr.DoubleBack"
    ):
        penalty(gr.ForwardMode(), model, x)
    assert_equal(
        penalty(gr.FiniteDifference(1e-5, central=True), model, x), penalty(gr.DoubleBackward(), model, x), 1e-5
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.script
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(nn.LayerNorm(8)),
        lambda: torch.jit.script(nn.InstanceNorm1d(3)),
        lambda: lambda h: torch.native_layer_norm(h, (8,), None, None, 1e-5)[0],
        lambda: lambda h: torch.instance_norm(h, None, None, None, None, True, 0.1, 1e-5, False),
        lambda: lambda h: torch.linalg.solve(h @ h.mT + torch.eye(3).double(), h),
    ],
    ids=["scripted layer norm", "scripted instance norm", "native layer norm", "native instance norm", "solve"],
)
def test_no_other_way_leads_into_a_wrong_forward_rule(make: Callable[[], Any]) -> None:
    """They go past what `torch.nn.functional` offers to replace; the graph still shows them."""
    model, x = Between(make()).double(), torch.randn(2, 3, 8, dtype=torch.float64)
    with pytest.raises(gr.UnsupportedOperationError, match=r"forward-mode rule with a wrong parameter gradient"):
        penalty(gr.ForwardMode(), model, x)


@pytest.mark.parametrize("engine", AGAIN, ids=["forward", "difference"])
def test_batch_norm_called_as_a_function_is_refused(engine: gr.Engine) -> None:
    model = Between(lambda h: F.batch_norm(h, None, None, training=True)).double()
    with pytest.raises(gr.UnsupportedOperationError, match=r"batch_norm as a function .* torch.nn.BatchNorm2d"):
        penalty(engine, model, torch.randn(2, 3, 8, dtype=torch.float64))


def normalized() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    return Residual(nn.BatchNorm2d).double().train(), batch(8)[0]


@pytest.mark.parametrize("engine", AGAIN, ids=["forward", "difference"])
def test_batch_norm_in_a_model_that_a_function_calls_is_found(engine: gr.Engine) -> None:
    model, x = normalized()
    assert_equal(penalty(engine, lambda x: model(x) * 1, x, owner=model), penalty(engine, model, x), 1e-12)
    counters = [layer.num_batches_tracked for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [int(counter) for counter in counters if counter is not None] == [2, 2]


@pytest.mark.parametrize("engine", AGAIN, ids=["forward", "difference"])
def test_statistics_stay_fixed_for_inputs_in_the_callers_graph(engine: gr.Engine) -> None:
    model, x = normalized()
    expected = penalty(engine, model, x)
    assert_equal(penalty(engine, model, x.clone().requires_grad_()), expected, 1e-12)


def test_one_sided_differences_keep_the_graph_of_the_statistics() -> None:
    """Only so does what both runs share cancel, and the error is of order step."""
    model, x = normalized()
    found = penalty(gr.FiniteDifference(1e-4), model, x)
    assert_equal(found, penalty(gr.ForwardMode(), model, x), 1e-3)


class Counts(nn.Module):
    """A buffer that each call changes and uses."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.layer(x)) * self.calls


def spectral() -> nn.Module:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3))


def tracked() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten(), nn.Tanh()
    )


@pytest.mark.parametrize("engine", AGAIN, ids=["forward", "difference"])
@pytest.mark.parametrize("make", [Counts, spectral, tracked])
def test_buffers_are_as_in_the_first_run_and_then_as_after_it(make: Callable[[], nn.Module], engine: gr.Engine) -> None:
    torch.manual_seed(1)
    model, x = make().double().train(), torch.randn(5, 4, dtype=torch.float64)
    if make is tracked:
        model = nn.Sequential(nn.Linear(4, 4), model).double()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(x)
    once = {name: tensor.clone() for name, tensor in model.named_buffers()}
    found = []
    for each in (engine, gr.DoubleBackward()):
        model.load_state_dict(start)
        found.append(penalty(each, model, x))
        for name, tensor in model.named_buffers():
            torch.testing.assert_close(tensor, once[name], msg=name)
    assert_equal(found[0], found[1], 1e-6)


RANDOM: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": F.dropout,
    "dropout of a permuted tensor": lambda h: F.dropout(h.mT).mT,
    "dropout in place": lambda h: F.dropout(h * 1, 0.3, inplace=True),
    "dropout of everything": lambda h: F.dropout(h, 1.0) + h,
    "dropout behind the norm of a permuted tensor": lambda h: F.dropout(F.layer_norm(h.transpose(0, 1), (8,))).sin()[0],
    "dropout of channels": F.dropout1d,
    "attention": lambda h: F.scaled_dot_product_attention(h, h, h, dropout_p=0.4),
}


@pytest.mark.parametrize("engine", AGAIN, ids=["forward", "difference"])
@pytest.mark.parametrize("name", RANDOM)
def test_a_second_run_has_the_mask_of_the_first(name: str, engine: gr.Engine) -> None:
    model, x = Between(RANDOM[name]).double(), torch.randn(2, 3, 8, dtype=torch.float64)
    found = []
    for each in (engine, gr.DoubleBackward()):
        torch.manual_seed(9)
        found.append(penalty(each, model, x))
    assert_equal(found[0], found[1], 1e-6)


@pytest.mark.parametrize("engine", AGAIN, ids=["forward", "difference"])
def test_dropout_with_the_channels_last(engine: gr.Engine) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)[:, :1].contiguous(memory_format=torch.channels_last)
    model, found = model.to(memory_format=torch.channels_last), []  # type: ignore[call-overload]
    for each in (engine, gr.DoubleBackward()):
        torch.manual_seed(9)
        found.append(penalty(each, model, x))
    assert_equal(found[0], found[1], 1e-6)


def test_another_mask_within_forward_mode_is_refused_at_the_first_call() -> None:
    """torch fills the mask of an alpha dropout in the order of rows there, in that of the memory elsewhere."""
    model, x = Between(lambda h: F.alpha_dropout(h.mT, training=True).mT).double(), torch.randn(2, 3, 8).double()
    with pytest.raises(ValueError, match=r"something else when it is run again .* use engine=gr.DoubleBackward"):
        penalty(gr.ForwardMode(), model, x)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_forward_mode_through_recurrent_layers_in_float32(kind: type[nn.Module]) -> None:
    """oneDNN's LSTM has no forward-mode rule; the setting is as before afterwards."""
    torch.manual_seed(1)
    model, x = nn.Sequential(kind(4, 5, batch_first=True), Last(), nn.Linear(5, 2)), torch.randn(3, 6, 4)
    expected = penalty(gr.DoubleBackward(), model, x)
    assert torch.backends.mkldnn.enabled
    assert_equal(penalty(gr.ForwardMode(), model, x), expected, 1e-5)
    assert torch.backends.mkldnn.enabled
    assert torch.backends.cudnn.enabled


class Last(nn.Module):
    def forward(self, found: tuple[Tensor, Any]) -> Tensor:
        return found[0][:, -1]


@pytest.mark.parametrize("engine", AGAIN, ids=["forward", "difference"])
def test_a_state_that_cannot_be_put_back_is_refused_at_the_first_call(engine: gr.Engine) -> None:
    class Python(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(4, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x) * self.calls

    with pytest.raises(
        ValueError, match=r"something else when it is run again .* model.eval\(\), or use engine=gr.Doub"
    ):
        penalty(engine, Python().double(), torch.randn(5, 4, dtype=torch.float64))


@pytest.mark.parametrize("engine", [gr.DoubleBackward(), *AGAIN], ids=["double", "forward", "difference"])
def test_a_model_that_writes_into_its_input_changes_neither_the_site_nor_the_callers_tensor(engine: gr.Engine) -> None:
    layer = nn.Linear(4, 3).double()
    x = torch.randn(5, 4, dtype=torch.float64)

    def writes(x: Tensor) -> Tensor:
        return layer(torch.tanh(x.mul_(2)))

    expected = penalty(gr.DoubleBackward(), lambda x: layer(torch.tanh(x * 2)), x, owner=layer)
    before = x.clone()
    assert_equal(penalty(engine, writes, x, owner=layer), expected, 1e-5)
    assert torch.equal(x, before)
    assert_equal(penalty(engine, writes, x.clone().requires_grad_() * 1, owner=layer), expected, 1e-5)


@pytest.mark.parametrize("engine", [gr.DoubleBackward(), *AGAIN], ids=["double", "forward", "difference"])
def test_one_tensor_at_two_places_counts_as_two(engine: gr.Engine) -> None:
    model = nn.Bilinear(3, 3, 2).double()
    a = torch.randn(5, 3, dtype=torch.float64)
    expected = penalty(gr.DoubleBackward(), model, gr.Args(a, a.clone()))
    for x in (a, a.clone().requires_grad_()):
        assert_equal(penalty(engine, model, gr.Args(x, x)), expected, 1e-5)


def test_batch_statistics_are_computed_once_for_all_rows() -> None:
    """Ten rows: the first run, one with the statistics fixed, and one for each row."""
    model, x = normalized()
    runs = 0

    def count(module: nn.Module, args: Any) -> None:
        nonlocal runs
        runs += 1

    penalty = gr.FrobReg(1.0, engine=gr.ForwardMode())
    penalty(model, x)  # the first meeting rehearses, and looks at what a row holds
    model.register_forward_pre_hook(count)
    penalty(model, x)
    assert runs == 2 + 4


def test_a_failure_in_the_middle_leaves_no_trace() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm, self.calls = nn.Linear(4, 4), nn.BatchNorm1d(4), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("in the middle")
            return self.norm(self.inner(x))

    model = Fails().double()
    with pytest.raises(RuntimeError, match="in the middle"):
        penalty(gr.ForwardMode(), model, torch.randn(5, 4, dtype=torch.float64))
    assert "forward" not in model.norm.__dict__
    assert not model.norm._forward_pre_hooks
    assert torch.is_grad_enabled()


def test_the_hooks_that_watch_a_function_are_gone_afterwards() -> None:
    layer = nn.BatchNorm1d(4).double()
    x = torch.randn(5, 4, dtype=torch.float64)

    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("in the middle")

    penalty(gr.ForwardMode(), lambda x: layer(x) ** 2, x, owner=layer)
    with pytest.raises(RuntimeError, match="in the middle"):
        penalty(gr.ForwardMode(), fails, x, owner=layer)
    assert not torch.nn.modules.module._has_any_global_hook()


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(input=self.first(x))))


def test_batch_norm_that_gets_its_input_by_name() -> None:
    torch.manual_seed(1)
    model, x = ByName().double(), torch.randn(5, 4, dtype=torch.float64)
    one_sided, exact = penalty(gr.FiniteDifference(1e-5), model, x), penalty(gr.ForwardMode(), model, x)
    assert_equal(one_sided, exact, 1e-3)
    with pytest.raises(ValueError, match=r"BatchNorm1d is called with its input by name.*Pass the torch.nn.Module"):
        penalty(gr.ForwardMode(), lambda x: model(x) * 1, x, owner=model)
