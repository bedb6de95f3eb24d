"""Hugging Face's Trainer with penalties: the plain loop step for step, accumulation, smoothing, precision, errors."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, ViTConfig
from transformers import ViTForImageClassification as Vit

import gradreg as gr
from gradreg.integrations.huggingface import GradientRegularized, GradientRegularizedTrainer

SITE = gr.Hidden("bert.embeddings")


def bert(attention: str = "eager", **changed: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        **{
            "vocab_size": 12,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 8,
            "num_labels": 3,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "attn_implementation": attention,
            **changed,
        }
    )
    return BertForSequenceClassification(config)


def sentences(count: int = 96) -> list[dict[str, Tensor]]:
    """The label is the first word, modulo 3."""
    ids = torch.randint(12, (count, 6), generator=Generator().manual_seed(0))
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row[0] % 3} for row in ids]


class Noting(GradientRegularizedTrainer):
    """Keeps its batches, for a loop of one's own."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        self.__dict__.setdefault("batches", []).append(dict(inputs))
        return super().training_step(model, inputs, *args, **kwargs)


def trainer(
    folder: Path, model: nn.Module, *penalties: gr.Penalty, kind: type[Trainer] = Noting, steps: int = 3, **changed: Any
) -> Any:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "max_steps": steps,
        "per_device_train_batch_size": 16,
        "learning_rate": 0.2,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
    }
    more = {name: changed.pop(name) for name in ("compute_loss_func", "eval_dataset") if name in changed}
    if issubclass(kind, GradientRegularized):
        more |= {"penalties": list(penalties), "generator": Generator().manual_seed(7)}
    args = TrainingArguments(**{**settings, **changed})
    return kind(model=model, args=args, train_dataset=sentences(), **more)  # type: ignore[arg-type]


def plain_loop(
    model: nn.Module, batches: list[dict[str, Tensor]], objective: gr.Objective, accumulate: int = 1, scale: float = 1
) -> None:
    """SGD written out; the gradient of the task times ``scale``, the penalties' as they are."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    generator = Generator().manual_seed(7)
    model.train()
    for step in range(0, len(batches), accumulate):
        optimizer.zero_grad()
        for batch in batches[step : step + accumulate]:
            result = objective(model, gr.Args(**batch), batch["labels"], generator=generator, step=step // accumulate)
            terms = sum(result.terms.values())
            ((scale * result.task + terms) / accumulate).backward()
        optimizer.step()


def assert_same(one: nn.Module, other: nn.Module, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.fixture(scope="module")
def penalized(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """What three steps with SpectReg(30) make of the network, for tests that come to the same by another way."""
    model = bert()
    trainer(tmp_path_factory.mktemp("penalized"), model, gr.SpectReg(30, site=SITE)).train()
    return model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """The same without penalties."""
    model = bert()
    trainer(tmp_path_factory.mktemp("plain"), model).train()
    return model


def own_loss(outputs: Any, y: Tensor) -> Tensor:
    return outputs.loss


@pytest.mark.parametrize(
    "penalty",
    [gr.SpectReg(30, site=SITE), gr.DoubleBack(50, site=SITE), gr.SpectReg(30, site=SITE, every=2)],
    ids=["SpectReg", "DoubleBack", "lazy"],
)
def test_training_is_the_plain_loop(penalty: gr.Penalty, tmp_path: Path) -> None:
    model, copy = bert(), bert()
    found = trainer(tmp_path, model, penalty)
    found.train()
    if isinstance(penalty, gr.DoubleBack):
        penalty = gr.DoubleBack(50, site=SITE, loss=lambda out, y: cross_entropy(out.logits, y, reduction="none"))
    plain_loop(copy, found.batches, gr.Objective(own_loss, penalty))
    assert_same(model, copy)


def test_without_penalties_it_is_the_trainer(plain: nn.Module, tmp_path: Path) -> None:
    copy = bert()
    trainer(tmp_path, copy, kind=Trainer).train()
    assert_same(plain, copy, 0, 0)


@pytest.mark.parametrize("scaled", [None, False], ids=["by the Trainer's rule", "stated"])
def test_accumulated_penalties_are_means_over_the_micro_batches(scaled: bool | None, tmp_path: Path) -> None:
    """BERT takes the number of items and ignores it, so that by its own rule the Trainer adds up the losses of
    micro-batches where it should average them; the penalty is averaged in both cases.
    """
    model, copy = bert(), bert()
    penalty = gr.SpectReg(30, site=SITE)
    found = trainer(tmp_path, model, penalty, gradient_accumulation_steps=2)
    found.loss_is_scaled_for_ga = scaled
    found.train()
    assert len(found.batches) == 6
    plain_loop(copy, found.batches, gr.Objective(own_loss, penalty), accumulate=2, scale=2 if scaled is None else 1)
    assert_same(model, copy)


def test_label_smoothing_and_a_loss_of_ones_own_are_the_trainers(tmp_path: Path) -> None:
    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return cross_entropy(outputs.logits, labels, label_smoothing=0.2, reduction="sum") / num_items_in_batch

    penalty = gr.SpectReg(30, site=SITE)
    smooth, own, copy = bert(), bert(), bert()
    trainer(tmp_path, smooth, penalty, label_smoothing_factor=0.2).train()
    found = trainer(tmp_path, own, penalty, compute_loss_func=loss)
    found.train()
    objective = gr.Objective(lambda out, y: cross_entropy(out.logits, y, label_smoothing=0.2), penalty)
    plain_loop(copy, found.batches, objective)
    assert_same(own, copy)
    assert_same(smooth, copy)


def test_the_loss_falls_the_penalty_flattens_and_is_logged_and_evaluation_is_plain(tmp_path: Path) -> None:
    steep, flat = bert(hidden_dropout_prob=0.1), bert(hidden_dropout_prob=0.1)
    settings: dict[str, Any] = {"steps": 30, "optim": "adamw_torch", "learning_rate": 0.02, "logging_steps": 10}
    trainer(tmp_path, steep, gr.SpectReg(0, site=SITE), **settings).train()
    found = trainer(tmp_path, flat, gr.SpectReg(0.3, site=SITE), eval_dataset=sentences(), **settings)
    found.train()
    logs = [log for log in found.state.log_history if "loss" in log]
    assert [log["step"] for log in logs] == [10, 20, 30]
    assert logs[-1]["loss"] < 0.8 * logs[0]["loss"]
    assert all(0 < log["penalty/spectreg"] < log["loss"] for log in logs)
    everything = {name: torch.stack([row[name] for row in sentences()]) for name in sentences(1)[0]}
    measure = gr.FrobReg(1, site=SITE)
    assert measure(flat.eval(), gr.Args(**everything)) < 0.5 * measure(steep.eval(), gr.Args(**everything))
    with torch.no_grad():
        plain = flat.eval()(**everything).loss.item()
    evaluated = found.evaluate()
    assert evaluated["eval_loss"] == pytest.approx(plain, rel=1e-4)
    assert not any(name.startswith("penalty") for name in evaluated)


def test_bf16_stays_near_float32(penalized: nn.Module, plain: nn.Module, tmp_path: Path) -> None:
    """After three steps the parameters differ by 2 % of what they moved; without the penalty by more than 20 %."""
    start, half = bert(), bert()
    trainer(tmp_path, half, gr.SpectReg(30, site=SITE), bf16=True).train()
    vectors = [nn.utils.parameters_to_vector(model.parameters()).detach() for model in (start, penalized, half, plain)]
    moved, off, without = ((vectors[i] - vectors[1]).norm() for i in (0, 2, 3))
    assert 0 < off < 0.02 * moved
    assert without > 0.2 * moved


def test_activation_checkpointing_changes_nothing(penalized: nn.Module, tmp_path: Path) -> None:
    model = bert()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    trainer(tmp_path, model, gr.SpectReg(30, site=SITE)).train()
    assert_same(model, penalized)


def test_fused_attention_is_named_and_finite_differences_work_with_it(
    penalized: nn.Module, plain: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(gr.UnsupportedOperationError, match=r"attention.* has no double backward") as caught:
        trainer(tmp_path, bert("sdpa"), gr.SpectReg(30, site=SITE)).train()
    assert caught.value.__notes__ == ['For models of transformers: from_pretrained(..., attn_implementation="eager").']
    model = bert("sdpa")
    trainer(tmp_path, model, gr.SpectReg(30, site=SITE, engine=gr.FiniteDifference(central=True))).train()
    assert_same(model, penalized, rtol=0.01, atol=1e-4)
    with pytest.raises(AssertionError):
        assert_same(plain, penalized, rtol=0.01, atol=1e-4)


def test_images_are_named(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "image_size": 8, "patch_size": 4}
    layers: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_channels": 1}
    config = ViTConfig(**sizes, **layers, **{"num_labels": 2, "attn_implementation": "eager"})
    found = trainer(tmp_path, Vit(config), gr.SpectReg(0.1, site=gr.Input("pixel_values")), steps=1)
    found.train_dataset = [{"pixel_values": torch.randn(1, 8, 8), "labels": i % 2} for i in range(16)]
    found.train()
    assert found.state.log_history[0]["penalty/spectreg"] > 0


def test_what_is_no_penalty_and_what_names_no_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"penalties got 0.1; expected a gradreg Penalty, as in penalties=\[gr.Spec"):
        trainer(tmp_path, bert(), 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"does not say which of the model's inputs.*site=gr.Hidden\(\"bert.embedd"):
        trainer(tmp_path, bert(), gr.ConfidencePenalty(0.1) + gr.SpectReg(0.1))
    with pytest.raises(TypeError, match=r"dtype torch.int64; gradients need floating-point numbers"):
        trainer(tmp_path, bert(), gr.SpectReg(0.1, site=gr.Input("input_ids"))).train()


def test_labels_that_are_no_classes_ask_for_a_loss(tmp_path: Path) -> None:
    found = trainer(tmp_path, bert(num_labels=1), gr.DoubleBack(1, site=SITE))
    found.train_dataset = [{**row, "labels": row["labels"].float()} for row in sentences()]
    with pytest.raises(ValueError, match=r"dtype torch.float32, and the penalty no loss.*gr.DoubleBack\(50, loss="):
        found.train()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("is_deepspeed_enabled", "would use DeepSpeed.*its engine"), ("is_fsdp_enabled", "would use FSDP.*it frees")],
)
def test_other_ways_of_differentiating_are_refused(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Trainer.__init__

    def enabled(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        setattr(self, name, True)

    monkeypatch.setattr(Trainer, "__init__", enabled)
    with pytest.raises(ValueError, match=reason):
        trainer(tmp_path, bert(), gr.SpectReg(0.1, site=SITE))


def test_several_devices_in_one_process_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2))
    with pytest.raises(ValueError, match=r"would use DataParallel.*copies of the model.*torchrun --nproc-per-node"):
        GradientRegularizedTrainer(
            bert(), TrainingArguments(output_dir=str(tmp_path), use_cpu=True), penalties=[gr.SpectReg(30, site=SITE)]
        )


class Own(Trainer):
    """A loss of its own, and what it does beside the call that counts."""

    way = "parts"

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        other = {**inputs, "input_ids": inputs["input_ids"].flip(0)}
        if self.way == "parts":
            found = model.classifier(model.bert(inputs["input_ids"]).pooler_output)
            return cross_entropy(found, inputs["labels"]), found
        if self.way == "by position":
            found = model(inputs["input_ids"], inputs["attention_mask"], labels=inputs["labels"])
            return (found.loss, found) if return_outputs else found.loss
        if self.way == "no_grad first":
            with torch.no_grad():
                model(**other)
        found = model(**inputs)
        if self.way == "no_grad last":
            with torch.no_grad():
                model(**other)
        if self.way == "twice":
            model(**other)
        return (found.loss, found) if return_outputs else found.loss


class Penalized(GradientRegularized, Own):
    """Its own loss with penalties."""


@pytest.mark.parametrize("way", ["no_grad first", "no_grad last", "twice", "by position"])
def test_the_first_call_with_gradients_is_the_one_that_counts(
    way: str, penalized: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Own, "way", way)
    model = bert()
    trainer(tmp_path, model, gr.SpectReg(30, site=SITE), kind=Penalized).train()
    assert_same(model, penalized)


def test_a_loss_that_goes_around_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"compute_loss of Penalized never called model\(...\).*Call model\(\*\*inp"):
        trainer(tmp_path, bert(), gr.SpectReg(30, site=SITE), kind=Penalized).train()


def test_what_was_added_is_not_kept_after_training(tmp_path: Path) -> None:
    """It would be in the first log of the next training."""
    found = trainer(tmp_path, bert(), gr.SpectReg(30, site=SITE), logging_strategy="no")
    found.train()
    found.log({"loss": 0.0})
    assert "penalty/spectreg" not in found.state.log_history[-1]


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gradreg.integrations.huggingface")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs transformers: pip install 'gradreg\[huggingface\]'"):
        __import__("gradreg.integrations.huggingface")
