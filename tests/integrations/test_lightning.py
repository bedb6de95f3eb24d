"""Lightning's Trainer with penalties: the plain loop step for step, accumulation, precision, DDP, errors."""

import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

import gradreg as gr
from gradreg.integrations.lightning import GradientRegularization

X = torch.randn(64, 8, generator=Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
SPECTREG = gr.SpectReg(0.1)


class Net(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        self.terms: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return cross_entropy(self(x), y)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.terms.append(float(self.trainer.logged_metrics.get("penalty/spectreg", 0)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def trainer(*penalties: gr.Penalty, epochs: int = 2, callback: dict[str, Any] | None = None, **settings: Any) -> Any:
    regularization = GradientRegularization(*penalties, generator=Generator().manual_seed(7), **(callback or {}))
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
    }
    return lightning.Trainer(max_epochs=epochs, callbacks=[regularization], **{**quiet, **settings})


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=16)


def plain_loop(*penalties: gr.Penalty, epochs: int = 2, accumulate: int = 1) -> nn.Module:
    model, generator = Net().net, Generator().manual_seed(7)
    objective = gr.Objective(cross_entropy, *penalties, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for number, (x, y) in enumerate([*loader()] * epochs):
        (objective(model, x, y, step=number // accumulate).total / accumulate).backward()
        if number % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad()
    return model


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "penalties",
    [[SPECTREG], [gr.DoubleBack(2)], [SPECTREG, gr.ConfidencePenalty(0.1)], [gr.SpectReg(0.1, every=3)], []],
    ids=["SpectReg", "DoubleBack", "two", "lazy", "none"],
)
def test_training_is_the_plain_loop(penalties: list[gr.Penalty]) -> None:
    module = Net()
    trainer(*penalties).fit(module, loader())
    assert_same(module.net, plain_loop(*penalties))
    assert module.training_step.__func__ is Net.training_step  # type: ignore[attr-defined]
    assert module.forward.__func__ is Net.forward  # type: ignore[attr-defined]


@pytest.mark.parametrize("penalty", [SPECTREG, gr.SpectReg(0.1, every=2)], ids=["every step", "lazy"])
def test_accumulated_gradients_are_means(penalty: gr.Penalty) -> None:
    """Of the loss and the penalty of the micro-batches; a lazy penalty counts steps of the optimizer."""
    module = Net()
    trainer(penalty, accumulate_grad_batches=2, gradient_clip_val=100.0).fit(module, loader())
    assert_same(module.net, plain_loop(penalty, accumulate=2))


def test_the_loss_falls_the_penalty_flattens_is_logged_and_validation_is_plain() -> None:
    class Validated(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    steep, flat = Net(), Validated()
    trainer(epochs=15).fit(steep, loader())
    found = trainer(gr.SpectReg(0.3), epochs=15)
    found.fit(flat, loader(), loader())
    assert cross_entropy(flat(X), Y) < 0.8 * cross_entropy(Net()(X), Y)
    assert min(flat.terms) > 0
    assert flat.terms[-1] < max(flat.terms)
    norms = [gr.metrics.jacobian_norms(module.net, X).mean() for module in (steep, flat)]
    assert norms[1] < 0.7 * norms[0]
    torch.testing.assert_close(found.logged_metrics["val_loss"], cross_entropy(flat(X), Y).detach())


def test_bf16_mixed_stays_near_float32() -> None:
    """After eight steps the parameters differ by 2 % of what they moved."""
    wide, half = Net(), Net()
    trainer(SPECTREG).fit(wide, loader())
    trainer(SPECTREG, precision="bf16-mixed").fit(half, loader())
    vectors = [nn.utils.parameters_to_vector(m.net.parameters()).detach() for m in (Net(), wide, half)]
    assert 0 < (vectors[2] - vectors[1]).norm() < 0.02 * (vectors[1] - vectors[0]).norm()


def test_double_precision() -> None:
    module = Net()
    trainer(SPECTREG, precision="64-true", epochs=1).fit(module, loader())
    assert all(p.dtype == torch.float64 for p in module.parameters())
    assert module.terms[-1] > 0


def test_ddp_runs_the_step_within_its_forward_pass() -> None:
    """One process, which is DDP all the same."""
    module = Net()
    try:
        trainer(SPECTREG, strategy="ddp", devices=1, use_distributed_sampler=False).fit(module, loader())
    finally:
        torch.distributed.destroy_process_group()
        torch.set_num_threads(1)  # Lightning's DDP takes all cores
    assert_same(module.net, plain_loop(SPECTREG))


def test_a_step_that_returns_a_dict_and_a_hidden_site() -> None:
    class Named(Net):
        def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Any:
            return {"loss": cross_entropy(self(batch["x"]), batch["y"]), "more": 1}

    data = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]
    module = Named()
    penalties = [gr.SpectReg(0.1, site=gr.Hidden("net.1")), gr.DoubleBack(1)]
    trainer(*penalties, callback={"labels": lambda batch: batch["y"]}).fit(module, DataLoader(data, batch_size=16))  # type: ignore[arg-type]
    assert_same(module.net, plain_loop(gr.SpectReg(0.1, site=gr.Hidden("1")), gr.DoubleBack(1)))


def test_the_first_call_with_gradients_is_the_one_that_counts() -> None:
    class Twice(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            with torch.no_grad():
                self(10 * x)
            loss = cross_entropy(self(x), y)
            self(10 * x)
            return loss

    module = Twice()
    trainer(SPECTREG).fit(module, loader())
    assert_same(module.net, plain_loop(SPECTREG))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_may_be_skipped_and_another_loss_differentiated() -> None:
    class Regression(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, _ = batch
            loss = mse_loss(self(x), x[:, :3])
            return None if batch_idx == 1 else loss

    module = Regression()
    callback = {"labels": lambda batch: batch[0][:, :3], "loss": mse_loss}
    trainer(gr.DoubleBack(0.1, name="spectreg"), callback=callback, epochs=1).fit(module, loader())
    torch.manual_seed(0)
    start = Net()
    expected = gr.DoubleBack(0.1, loss=mse_loss)(start.net, X[:16], X[:16, :3])
    assert module.terms[0] == pytest.approx(expected.item(), rel=1e-5)


def test_an_objective_within_the_step_does_without_the_callback() -> None:
    class Own(Net):
        def __init__(self) -> None:
            super().__init__()
            self.objective = gr.Objective(cross_entropy, SPECTREG, generator=Generator().manual_seed(7))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            result = self.objective(self, *batch, step=self.global_step)
            self.manual_backward(result.total)
            optimizer.step()
            self.log_dict(result.terms)

    module = Own()
    trained = trainer()
    trained.callbacks = [c for c in trained.callbacks if not isinstance(c, GradientRegularization)]
    trained.fit(module, loader())
    assert_same(module.net, plain_loop(SPECTREG))


def test_what_cannot_work_is_refused() -> None:
    callback = GradientRegularization(SPECTREG)
    module = Net()

    def setup(strategy: Any) -> None:
        callback.setup(SimpleNamespace(strategy=strategy), module, "fit")

    with pytest.raises(
        ValueError, match=r"static_graph=True leaves.*without an error. Write Trainer\(strategy=\"ddp\""
    ):
        setup(DDPStrategy(static_graph=True))
    with pytest.raises(ValueError, match=r"do not work with FSDPStrategy: it frees parameters"):
        setup(FSDPStrategy())
    deepspeed = type("DeepSpeedStrategy", (), {})
    with pytest.raises(ValueError, match=r"do not work with DeepSpeedStrategy: its engine runs the backward pass"):
        setup(deepspeed())
    module.automatic_optimization = False
    with pytest.raises(ValueError, match=r"Net optimizes by hand.*Use gr.Objective within its training_step"):
        setup(SimpleNamespace())
    with pytest.raises(TypeError, match=r"GradientRegularization got 0.1; expected a gradreg Penalty"):
        GradientRegularization(0.1)  # type: ignore[arg-type]


def test_a_step_that_goes_around_the_forward_pass_is_refused() -> None:
    class Around(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return cross_entropy(self.net(batch[0]), batch[1])

    with pytest.raises(RuntimeError, match=r"training_step of Around never called self\(...\).*or use gr.Objective"):
        trainer(SPECTREG).fit(Around(), loader())


def test_after_a_failed_training_the_module_is_as_before_and_penalties_count_once() -> None:
    class Failing(Net):
        fails = True

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.fails:
                raise ArithmeticError("once")
            return super().training_step(batch, batch_idx)

    module = Failing()
    with pytest.raises(ArithmeticError):
        trainer(SPECTREG).fit(module, loader())
    assert "training_step" not in module.__dict__
    module.fails = False
    trainer(SPECTREG).fit(module, loader())
    assert_same(module.net, plain_loop(SPECTREG))


def test_a_step_set_on_the_instance_is_there_afterwards() -> None:
    module = Net()

    def own(batch: Any, batch_idx: int) -> Any:
        return Net.training_step(module, batch, batch_idx)

    module.training_step = own
    trainer(SPECTREG, epochs=1).fit(module, loader())
    assert module.training_step is own
    GradientRegularization(SPECTREG).teardown(None, module, "validate")
    assert module.training_step is own


def test_hooks_on_the_module_itself_are_refused() -> None:
    kinds = ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")
    for kind in kinds:
        module = Net()
        getattr(module, f"register_{kind}")(lambda *_: None)
        with pytest.raises(ValueError, match=r"Net has hooks of its own.*run twice.*a layer within it"):
            trainer(SPECTREG).fit(module, loader())
    module = Net()
    calls: list[int] = []
    module.net.register_forward_hook(lambda *_: calls.append(1))
    trainer(SPECTREG, epochs=1).fit(module, loader())
    assert len(calls) == 4


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gradreg.integrations.lightning")
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(ModuleNotFoundError, match=r"lightning: pip install 'gradreg\[lightning\]'"):
        __import__("gradreg.integrations.lightning")
