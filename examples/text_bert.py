"""A small BERT, made from a config, trained to fill in words without labels, then fine-tuned on 60 sentences a topic.

The words are filled in in all sentences, those of the test too, whose labels are not looked at. No search is on record
for the weight.

python examples/text_bert.py [--smoke] [--weight 0.03] [--seeds 3]
"""

import argparse
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _summary import summarize
from _text import LENGTH, MASK, PADDING, TOPICS, Text, load, split
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PrinterCallback, TrainingArguments

import gradreg as gr
from gradreg.integrations.huggingface import GradientRegularizedTrainer

NOTE = (
    "No search is on record for the default weight. The network has filled in words in the test sentences too, without "
    "their labels."
)


def config(words: int) -> BertConfig:
    """Two layers of width 48. The exact engines need attention that can be differentiated twice: "eager"."""
    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertConfig(
        vocab_size=words,
        intermediate_size=96,
        max_position_embeddings=LENGTH,
        pad_token_id=PADDING,
        **sizes,
        **{"num_labels": len(TOPICS), "attn_implementation": "eager"},
    )


def train(
    model: Any, data: list[dict[str, Tensor]], steps: int, seed: int, rate: float, penalties: Sequence[gr.Penalty]
) -> None:
    """AdamW with a rate that falls to 0."""
    with TemporaryDirectory() as folder:  # the Trainer makes one, if there is nothing to be saved too
        args = TrainingArguments(
            folder,
            max_steps=steps,
            seed=seed,
            learning_rate=rate,
            per_device_train_batch_size=30,
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = GradientRegularizedTrainer(model, args, train_dataset=data, penalties=penalties)  # type: ignore[arg-type]
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def rows(ids: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """As the Trainer takes them."""
    there = (ids != PADDING).long()
    return [{"input_ids": i, "attention_mask": a, "labels": y} for i, a, y in zip(ids, there, labels, strict=True)]


def pretrained(text: Text, steps: int) -> dict[str, Tensor]:
    """Weights that fill in one word of seven, in all sentences; no label is looked at."""
    torch.manual_seed(0)
    hidden = (torch.rand(text.ids.shape) < 1 / 7) & (text.ids != PADDING)
    model = BertForMaskedLM(config(text.words))
    train(model, rows(text.ids.masked_fill(hidden, MASK), text.ids.masked_fill(~hidden, -100)), steps, 0, 0.003, [])
    return model.bert.state_dict()


def accuracy(model: Any, ids: Tensor, y: Tensor) -> float:
    """In percent."""
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, attention_mask=(ids != PADDING).long()).logits
    return 100 * (logits.argmax(1) == y).double().mean().item()


def main(arguments: list[str] | None = None) -> None:
    """Fine-tunes with and without the penalty, and prints both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--weight", type=float, default=0.03)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="others than the usual ones, to choose a weight by")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before, steps, seeds = (2, 2, 1) if options.smoke else (600, 200, options.seeds)
    text = load()
    penalty = gr.SpectReg(options.weight, site=gr.Hidden("bert.embeddings"))
    found: dict[str, list[float]] = {"no penalty": [], f"SpectReg({options.weight:g}) at the embeddings": []}
    start = pretrained(text, before)
    for seed in range(options.first_seed, options.first_seed + seeds):
        (ids, y), (test_ids, test_y) = split(text, 60, seed)
        for name, penalties in zip(found, ([], [penalty]), strict=True):
            torch.manual_seed(seed)
            model = BertForSequenceClassification(config(text.words))
            model.bert.load_state_dict(start, strict=False)  # all but the pooler, which is new
            train(model, rows(ids, y), steps, seed, 0.001, penalties)
            found[name].append(accuracy(model, test_ids, test_y))
    summarize(found, note=NOTE)


if __name__ == "__main__":
    main()
