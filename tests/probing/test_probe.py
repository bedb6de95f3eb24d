"""`gradreg.probe`: what works, what is named where something does not, what is recommended, and every refusal."""

import json
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hard_models_for_tests import (
    Applied,
    Attention,
    Bagged,
    Counting,
    Distances,
    MinusMean,
    Once,
    Recurrent,
    Sampled,
    Transcribed,
    Untold,
    Words,
    Zeta,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import gradreg as gr
from gradreg.models import LeNet5
from gradreg.probing.probe import _recommended
from gradreg.probing.report import EngineReport
from gradreg.probing.trial import Failure

NAMES = ["DoubleBackward", "ForwardMode", "FiniteDifference"]


def net(layer: nn.Module, outputs: int) -> nn.Module:
    """A layer, named "middle", behind six numbers."""
    return nn.Sequential(OrderedDict({"first": nn.Linear(6, 6), "middle": layer, "last": nn.Linear(outputs, 3)}))


def working(report: gr.ProbeReport) -> list[str]:
    return [name for name, found in report.engines.items() if found.works]


def failure(report: gr.ProbeReport, name: str) -> Failure:
    found = report.engines[name].failure
    assert found is not None
    return found


def test_on_lenet_every_engine_works_and_the_exact_ones_are_exact() -> None:
    model, x = LeNet5(), torch.randn(6, 1, 28, 28)
    report = gr.probe(model, x, repeats=2)
    assert working(report) == list(report.engines) == NAMES
    for name in NAMES[:2]:
        found = report.engines[name]
        assert found.value_error is not None
        assert found.gradient_error is not None
        assert max(found.value_error, found.gradient_error) < 1e-5
    rough = report.engines["FiniteDifference"]
    assert rough.value_error is not None
    assert rough.gradient_error is not None
    assert 0 < rough.value_error < 0.5
    assert rough.gradient_error > rough.value_error  # kinks: docs/engines.md
    assert (report.model, report.parameters, report.batch, report.training, report.device) == (
        *("LeNet5", 61706, 6, True),
        "cpu",
    )
    assert report.plain is not None
    assert report.plain.seconds > 0
    for found in report.engines.values():
        assert found.cost is not None
        assert found.memory == found.cost.peak_bytes / report.plain.peak_bytes
        assert found.cost.peak_bytes > report.plain.peak_bytes
        assert found.time == found.cost.seconds / report.plain.seconds
    assert report.recommended in (gr.DoubleBackward(), gr.ForwardMode())
    text = str(report)
    assert "LeNet5: 61,706 parameters, 6 examples, cpu, training mode" in text
    assert "Examples: independent" in text
    assert f"Recommended: {report.recommended!r}. It is exact on this model, at " in text


def test_without_repeats_there_are_no_costs() -> None:
    report = gr.probe(nn.Linear(6, 3), torch.randn(4, 6), repeats=0)
    assert report.plain is None
    assert all(found.cost is found.time is found.memory is None for found in report.engines.values())
    assert report.reason == "DoubleBackward(). It is exact on this model."
    assert "plain step" not in str(report)


def test_fused_attention_is_named_with_its_layer_and_what_helps() -> None:
    model, x = Attention(), torch.randn(4, 5, 8)
    z = model(x.requires_grad_())
    (first,) = torch.autograd.grad(z.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="flash_attention_for_cpu_backward is not implemented"):
        first.square().sum().backward()  # torch really has no such derivative
    report = gr.probe(model, x.detach(), repeats=0)
    assert working(report) == ["FiniteDifference"]
    assert failure(report, "DoubleBackward").operation == "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
    assert failure(report, "ForwardMode").operation == "_scaled_dot_product_flash_attention_for_cpu"
    math = "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
    for name in NAMES[:2]:
        found = failure(report, name)
        assert found.layers == ("attend",)
        assert found.remedy is not None
        assert math in found.remedy
        assert "engine=gr.FiniteDifference()" in found.remedy
        assert found.setting == math
        assert found.cause is not None
        assert "scaled_dot_product" in found.cause
    assert report.recommended == gr.FiniteDifference()
    assert f"no exact engine works on this model as it is. DoubleBackward() does within {math}." in report.reason
    assert "DoubleBackward() does not work, in attend:" in str(report)
    with sdpa_kernel(SDPBackend.MATH):
        assert working(gr.probe(model, x.detach(), repeats=0)) == NAMES


@pytest.mark.parametrize(
    ("model", "works", "operations"),
    [
        (net(Distances(), 36), NAMES[2:], ["_cdist_backward", "_cdist_forward"]),
        (net(Transcribed(), 3), NAMES[2:], ["aten::_ctc_loss_backward", "_ctc_loss"]),
        (net(Bagged(), 6), NAMES[2:], ["_embedding_bag_backward", "_embedding_bag"]),
        (net(Sampled(), 3), [NAMES[0], NAMES[2]], [None, "grid_sampler_2d"]),
        (net(Applied(Once), 6), NAMES[1:], ["Once", None]),
        (net(Applied(Untold), 6), [NAMES[0], NAMES[2]], [None, "Untold"]),
    ],
    ids=["cdist", "ctc", "embedding_bag", "grid_sample", "once_differentiable", "no jvp"],
)
def test_operations_that_lack_a_derivative_are_named(
    model: nn.Module, works: list[str], operations: list[str | None]
) -> None:
    report = gr.probe(model, torch.randn(4, 6), repeats=0)
    assert working(report) == works
    for name, operation in zip(NAMES, operations, strict=False):
        if operation is not None:
            assert failure(report, name).operation == operation
            assert failure(report, name).layers == ("middle",)
    assert type(report.recommended).__name__ == works[0]


def test_what_an_own_function_needs_is_said() -> None:
    x = torch.randn(4, 6)
    once = failure(gr.probe(net(Applied(Once), 6), x, repeats=0), "DoubleBackward")
    assert "Once has no double backward" in once.message
    assert "write its backward in operations of torch, without @once_differentiable" in once.message
    untold = failure(gr.probe(net(Applied(Untold), 6), x, repeats=0), "ForwardMode")
    assert "Untold has no forward-mode rule" in untold.message
    assert "give it setup_context and jvp" in untold.message


def test_a_fault_in_the_models_own_forward() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return Untold.apply(super().forward(input)).tanh()  # type: ignore[union-attr]

    report = gr.probe(Own(6, 3), torch.randn(4, 6), repeats=0)
    assert failure(report, "ForwardMode").layers == ("",)
    assert "ForwardMode() does not work, in the model's own forward: Untold" in str(report).replace("\n ", "")


def test_layers_that_could_have_failed_are_not_blamed() -> None:
    layers = [nn.Linear(6, 6), nn.BatchNorm1d(6), Applied(Untold), nn.Tanh(), Applied(Untold), nn.BatchNorm1d(6)]
    report = gr.probe(nn.Sequential(*layers, Sampled()), torch.randn(8, 6), repeats=0)
    assert failure(report, "ForwardMode").operation == "Untold"
    assert failure(report, "ForwardMode").layers == ("2", "4")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile looks at it
def test_a_compiled_model_stays_compiled() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).tanh()

    model, x = torch.compile(Own(6, 3), backend="aot_eager"), torch.randn(4, 6)
    assert isinstance(model, nn.Module)
    report = gr.probe(model, x, repeats=1)
    assert working(report) == ["FiniteDifference"]
    for name in NAMES[:2]:
        assert failure(report, name).operation == "a model compiled by torch.compile"
        assert "pass the module that is not compiled and compile the whole step: gr.CompiledObj" in str(
            failure(report, name).remedy
        )
    assert "engine=ForwardMode() was not tried: once forward mode has gone" in failure(report, "ForwardMode").message
    penalty = gr.SpectReg(0.1, engine="auto")
    penalty(model, x)
    assert penalty.engine == gr.FiniteDifference()
    assert model(x).grad_fn.name() == "CompiledFunctionBackward"


def test_recurrent_layers_work() -> None:
    assert working(gr.probe(Recurrent(), torch.randn(4, 5, 5), repeats=0)) == NAMES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_recurrent_layers_of_cudnn_work_within_a_setting() -> None:
    report = gr.probe(Recurrent().cuda(), torch.randn(4, 5, 5, device="cuda"), repeats=1)
    found = failure(report, "DoubleBackward")
    assert found.layers == ("lstm",)
    assert found.setting == "torch.backends.cudnn.flags(enabled=False)"
    assert report.plain is not None
    assert report.plain.peak_bytes > 0


def test_batch_statistics_that_some_engines_hold_fixed_are_no_fault() -> None:
    model, x = net(nn.BatchNorm1d(6), 6), torch.randn(8, 6)
    report = gr.probe(model, x, repeats=0)
    assert working(report) == NAMES
    assert report.coupling.layers == ("middle",)
    assert "coupled by middle" in str(report)
    assert "call eval() on these layers for frozen statistics, take torch.nn.GroupNorm" in str(report).replace(
        "\n ", ""
    )


class CheckpointedNorm(nn.Module):
    """Batch normalization within a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.norm, x, use_reentrant=False))  # type: ignore[arg-type]


def test_checkpointed_batch_normalization_works_by_double_backward() -> None:
    model, x = CheckpointedNorm(), torch.randn(8, 6)
    report = gr.probe(model, x, repeats=0)
    assert working(report) == ["DoubleBackward"]
    assert "batch statistics held fixed. Use engine=gr.DoubleBackward()" in failure(report, NAMES[2]).message
    penalty = gr.SpectReg(1.0, engine="auto")
    found = penalty(model, x, generator=torch.Generator().manual_seed(0))
    assert penalty.engine == gr.DoubleBackward()
    plain = gr.SpectReg(1.0)(nn.Sequential(model.norm, model.last), x, generator=torch.Generator().manual_seed(0))
    for a, b in zip(*(torch.autograd.grad(v, [*model.parameters()][:2]) for v in (found, plain)), strict=True):
        torch.testing.assert_close(a, b)


def test_batch_normalization_as_a_function_beside_layers_stops_those_engines_alone() -> None:
    class Both(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return F.batch_norm(super().forward(input), None, None, training=True)

    report = gr.probe(nn.Sequential(nn.BatchNorm1d(6), Both(6, 3)), torch.randn(8, 6), repeats=0)
    assert working(report) == ["DoubleBackward"]
    assert "which a second run cannot hold fixed" in failure(report, "FiniteDifference").message


def test_in_half_precision_coupling_shows_and_exact_is_no_wide_word() -> None:
    model, x = net(nn.BatchNorm1d(6), 6).bfloat16(), torch.randn(8, 6, dtype=torch.bfloat16)
    report = gr.probe(model, x, repeats=0)
    assert report.coupling.layers == ("middle",)
    assert report.coupling.leak is not None
    assert report.coupling.leak > 0.1
    assert working(report) == NAMES
    assert gr.probe(net(nn.Tanh(), 6).bfloat16(), x, repeats=0).coupling.leak == 0
    found = gr.probe(Slanted(), x, repeats=0)
    assert "is off from the textbook recipe" in failure(found, "ForwardMode").message


class Slanted(nn.Linear):
    """Its forward-mode rule gives half as much again."""

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            return g * 2

        @staticmethod
        def jvp(ctx: Any, t: Tensor) -> Tensor:  # type: ignore[override]
            return t * 2.6

    def __init__(self) -> None:
        super().__init__(6, 3, dtype=torch.bfloat16)

    def forward(self, input: Tensor) -> Tensor:
        return self.Rule.apply(super().forward(input))  # type: ignore[return-value]


def test_a_penalty_that_no_trained_parameter_moves() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] + self.bias

    report = gr.probe(Biased(), torch.randn(4, 6), repeats=0)
    assert report.recommended is None
    assert report.reason.startswith("no engine. The penalty depends on no parameter that is trained")


def test_an_engine_that_measures_something_else_is_found_out() -> None:
    report = gr.probe(MinusMean(), torch.randn(8, 6), repeats=0)
    assert working(report) == ["DoubleBackward", "FiniteDifference"]
    message = failure(report, "ForwardMode").message
    assert message.startswith("the engine is off from the textbook recipe in plain torch: its value by 0.")
    assert message.endswith("it follows one direction for each example, and these are coupled here.")
    assert report.coupling.layers == ("",)


def test_numbers_that_are_not_finite() -> None:
    class Root(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).sqrt()

    model = Root(6, 3)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    report = gr.probe(model, torch.randn(4, 6), repeats=0)
    assert working(report) == []
    assert "gives numbers that are not finite; look for roots and norms at 0" in failure(report, NAMES[0]).message


def test_where_nothing_works_nothing_is_recommended() -> None:
    report = gr.probe(net(nn.Sequential(Applied(Once), Counting()), 6), torch.randn(4, 6), repeats=0)
    assert working(report) == []
    assert report.recommended is None
    assert report.reason.startswith("no engine. None works on this model as it is; what to change is said above.")
    for name in NAMES[1:]:
        assert "returns something else when it is run again" in failure(report, name).message
        assert failure(report, name).operation is None


def test_kinks_are_named_where_only_finite_differences_are_left() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), Distances(), nn.Linear(36, 3))
    report = gr.probe(model, torch.randn(4, 6), repeats=0)
    assert report.recommended == gr.FiniteDifference()
    assert "its gradient could not be compared" in report.reason
    assert "The model has kinks (Relu), at which finite differences jump" in report.reason


def test_token_ids_are_sent_to_the_embedding() -> None:
    model, x = Words(), torch.randint(11, (4, 5))
    expected = (
        "the inputs have dtype torch.int64, and integers have no gradient. Regularize the embedding, in the probe and "
        r"in the penalty: site=gr.Hidden\('words'\) \(its embeddings: 'words', 'places'\)."
    )
    with pytest.raises(TypeError, match=f"^{expected}$"):
        gr.probe(model, x)
    assert working(gr.probe(model, x, site=gr.Hidden("words"), repeats=0)) == NAMES
    with pytest.raises(TypeError, match=r"x has dtype torch\.int64; gradients need floating-point numbers"):
        gr.probe(nn.Linear(2, 2), torch.zeros(3, 2, dtype=torch.int64))


def test_several_inputs_labels_and_targets() -> None:
    x = gr.Args(torch.randn(4, 2), torch.randn(4, 3))
    y = torch.randint(5, (4,))
    report = gr.probe(nn.Bilinear(2, 3, 5), x, y, target=gr.Loss(F.cross_entropy), repeats=1)
    assert working(report) == NAMES
    assert report.batch == 4
    report = gr.probe(nn.Bilinear(2, 3, 5), x, target=lambda z: z[:, :2], site=gr.Input("1"), repeats=0)
    assert working(report) == NAMES


def test_under_no_grad_it_works_as_well() -> None:
    with torch.no_grad():
        assert working(gr.probe(nn.Linear(6, 3), torch.randn(4, 6), repeats=1)) == NAMES


def test_a_report_as_json() -> None:
    report = gr.probe(net(Sampled(), 3), torch.randn(4, 6), repeats=1)
    record = json.loads(json.dumps(report.record()))
    assert record["recommended"] == "gr.DoubleBackward()"
    assert record["engines"]["ForwardMode"]["works"] is False
    assert record["engines"]["ForwardMode"]["failure"]["operation"] == "grid_sampler_2d"
    assert record["engines"]["DoubleBackward"]["cost"]["peak_bytes"] > 0
    assert record["coupling"]["leak"] == 0
    record = gr.probe(Next(), torch.randn(4, 6), repeats=0).record()
    assert json.loads(json.dumps(record, allow_nan=False))["coupling"]["leak"] == "inf"


class Next(nn.Linear):
    """Each example gets the outputs of its neighbour, and none of its own."""

    def __init__(self) -> None:
        super().__init__(6, 3)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).roll(1, 0)


def test_the_same_probe_finds_the_same() -> None:
    model, x = LeNet5(), torch.randn(4, 1, 28, 28)
    first, second = (gr.probe(model, x, repeats=0) for _ in range(2))
    assert first == second


def test_which_engine_is_recommended() -> None:
    def found(engine: gr.Engine, time: float | None, error: str | None = None) -> EngineReport:
        return EngineReport(engine, None if error is None else Failure(error), 0.1, 0.2, None, time)

    double, forward, finite = gr.DoubleBackward(), gr.ForwardMode(), gr.FiniteDifference()
    for times, expected in (((2.0, 3.0), double), ((2.0, 1.9), double), ((2.0, 1.7), forward)):
        reports = [found(double, times[0]), found(forward, times[1]), found(finite, 1.0)]
        assert _recommended(reports, ())[0] == expected
    engine, reason = _recommended([found(double, 2.0), found(forward, 1.5)], ())
    assert engine == forward
    assert reason == (
        "ForwardMode(). It is exact on this model, at 1.50 times a plain step (DoubleBackward() at 2.00)."
    )
    failed = [found(double, None, "no"), found(forward, None, "no"), found(finite, 2.0)]
    assert _recommended(failed, ()) == (
        finite,
        "FiniteDifference(), since no exact engine works on this model as it is.",
    )


@pytest.mark.parametrize(
    ("model", "options", "kind", "message"),
    [
        (lambda x: x, {}, TypeError, "probe got a model of type function; expected a torch.nn.Module, whose state"),
        (nn.Linear(6, 3), {"repeats": -1}, ValueError, "probe got repeats=-1; expected a whole number >= 0"),
        (nn.Linear(6, 3).requires_grad_(False), {}, ValueError, "Linear has no parameters that require grad: there"),
        (nn.LazyLinear(3), {}, ValueError, "the model has lazy modules, whose parameters are made in their first run"),
    ],
)
def test_refusals(model: nn.Module, options: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        gr.probe(model, torch.randn(4, 6), **options)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_distributed_models() -> None:
    """DistributedDataParallel is probed without its averaging, and goes on as before; sharded models are refused."""
    model, x = nn.parallel.DistributedDataParallel(net(nn.Tanh(), 6)), torch.randn(4, 6)
    assert working(gr.probe(model, x, repeats=1)) == NAMES
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sharded = net(nn.Tanh(), 6)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    expected = (
        r"^probe got a model sharded by FSDP.*Probe it before it is sharded; when it is, fully_shard \(FSDP\) frees"
    )
    with pytest.raises(TypeError, match=expected):
        gr.probe(sharded, x)


def test_models_without_a_first_derivative_are_explained() -> None:
    class Checkpointed(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return checkpoint(super().forward, input, use_reentrant=True)  # type: ignore[return-value]

    with pytest.raises(gr.UnsupportedOperationError, match="checkpoints activations with use_reentrant=True, through"):
        gr.probe(Checkpointed(6, 3), torch.randn(4, 6))
    with pytest.raises(gr.UnsupportedOperationError, match=r"^zeta has .*this one has no first derivative either"):
        gr.probe(net(Zeta(), 6), torch.randn(4, 6))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        gr.probe(nn.Linear(6, 3), torch.randn(4, 7))
    assert caught.value.__cause__ is None


def test_scripted_models_are_refused() -> None:
    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(nn.Linear(6, 3))
    with pytest.raises(TypeError, match="the model holds a scripted module, whose state a probe cannot put back"):
        gr.probe(scripted, torch.randn(4, 6))
