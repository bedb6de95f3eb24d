"""Trainings under the Hugging Face Trainer, Fabric and accelerate on two processes, each started by torchrun."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lightning_fabric import Fabric
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

import gradreg as gr
from gradreg.integrations.fabric import RegularizedStep
from gradreg.integrations.huggingface import GradientRegularizedTrainer

RATE, STEPS = 0.2, 3
# Of each process in each step.
PART = 4
X = torch.randn(2 * PART * STEPS, 8, generator=Generator().manual_seed(0), dtype=torch.float64)
Y = X[:, :3].argmax(1)


def penalties(site: str) -> list[gr.Penalty]:
    """Without random numbers, so that one process that takes both parts comes to the same."""
    return [gr.FrobReg(0.3, site=gr.Hidden(site), every=2), gr.DoubleBack(2.0, site=gr.Hidden(site))]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    sizes = {"vocab_size": 12, "max_position_embeddings": 8, "num_labels": 3}
    exact = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"}
    config = BertConfig(**{**small, **sizes, **exact})
    return BertForSequenceClassification(config).double()


def sentences() -> list[dict[str, Tensor]]:
    ids = torch.randint(12, (2 * PART * STEPS, 6), generator=Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row[0] % 3} for row in ids]


class Noting(GradientRegularizedTrainer):
    """Keeps the batches of its process."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        self.__dict__.setdefault("batches", []).append({key: inputs[key].clone() for key in ("input_ids", "labels")})
        return super().training_step(model, inputs, *args, **kwargs)


def by_trainer(folder: Path, **settings: Any) -> dict[str, Any]:
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=PART,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )
    model = bert()
    kept = Noting(model=model, args=arguments, train_dataset=sentences(), penalties=penalties("bert.embeddings"))  # type: ignore[arg-type]
    kept.train()
    assert type(kept.model_wrapped).__name__ == "DistributedDataParallel"
    return {"parameters": list(model.parameters()), "batches": kept.batches}  # type: ignore[attr-defined]


def part(step: int, rank: int) -> slice:
    begin = (2 * step + rank) * PART
    return slice(begin, begin + PART)


def by_fabric(rank: int, *, whole_step: bool) -> dict[str, Any]:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="64-true")
    fabric.launch()
    model, objective = net(), gr.Objective(cross_entropy, *penalties("1"))
    inner: Any = RegularizedStep(model, objective) if whole_step else model
    inner, optimizer = fabric.setup(inner, torch.optim.SGD(inner.parameters(), lr=RATE))
    for step in range(STEPS):
        x, y = X[part(step, rank)], Y[part(step, rank)]
        fabric.backward(inner(x, y)["total"] if whole_step else objective(inner, x, y).total)
        optimizer.step()
        optimizer.zero_grad()
    return {"parameters": list(model.parameters())}


def by_accelerate(rank: int) -> dict[str, Any]:
    accelerator = Accelerator(cpu=True)
    model, objective = net(), gr.Objective(cross_entropy, *penalties("1"))
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=RATE))
    assert type(prepared).__name__ == "DistributedDataParallel"
    for step in range(STEPS):
        result = objective(prepared, X[part(step, rank)], Y[part(step, rank)])
        accelerator.backward(result.total)
        optimizer.step()
        optimizer.zero_grad()
    return {"parameters": list(model.parameters())}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    found = {
        "Trainer": by_trainer(folder / f"trainer{rank}", average_tokens_across_devices=False),
        "Trainer, its default": by_trainer(folder / f"trainer{rank}"),
        "accelerate": by_accelerate(rank),
        "Fabric": by_fabric(rank, whole_step=False),
        "Fabric, the whole step": by_fabric(rank, whole_step=True),
    }
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
