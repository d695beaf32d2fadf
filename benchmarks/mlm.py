"""Masked language modelling beside the transformers Trainer, accelerate and a plain DDP loop.

Two ranks on the CPU, in bf16, with dropout 0.1, AdamW and clipping. Peers read the launcher's own masked samples, and
their first steps, without dropout, have to have its losses.
"""

import argparse

from benchmarks import _training, _workplace
from benchmarks._training import Work
from benchmarks.pairs import Comparison

_BASE = """
tokenizer: {{kind: train, vocab_size: {vocabulary}}}
data: {{train: {{kind: python_docs, packages: {packages}}}, max_length: {length}}}
task: {{kind: mlm{samples}}}
train: {{global_batch: {batch}, steps: 100000, precision: {precision}{more}}}
optimizer: {{kind: adamw, lr: 1.0e-4, weight_decay: 0.01, clip: 1.0}}
schedule: constant
"""
_PACKAGES = "[stdlib, numpy, torch, transformers, sklearn]"
_MINI = "hidden_size: 256, num_hidden_layers: 4, num_attention_heads: 4, intermediate_size: 1024"
_MODERN = "hidden_size: 384, num_hidden_layers: 12, num_attention_heads: 6, intermediate_size: 576"
MODELS = {
    "bert-mini": (f"{{kind: config, type: bert, {_MINI}, vocab_size: 30522}}", 128, 64, 0.1, "", "4 x 256"),
    "bert-base": ("{kind: config, type: bert, vocab_size: 30522}", 512, 8, 0.1, "", "12 x 768"),
    "modernbert": (
        f"{{kind: config, type: modernbert, {_MODERN}, vocab_size: 30522}}", 512, 32, 0.0, ", samples: documents",
        "12 x 384, documents of natural lengths",
    ),
    "tiny": (
        "{kind: config, type: bert, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
        "intermediate_size: 64}", 32, 8, 0.1, "", "1 x 32",
    ),
}  # fmt: skip
"""By name: the model, tokens of a sample, global batch, dropout, further keys of the task, and a description."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, default="bert-mini")
    _training.options(parser)


def measure(options: argparse.Namespace) -> list[Comparison]:
    with _workplace.temporary_folder("mlm") as folder:
        return [_training.measure(work(options), options.peers, options.pairs, folder)]


def work(options: argparse.Namespace) -> Work:
    """Return the training that the options ask for."""
    model, length, batch, dropout, samples, sizes = MODELS[options.model]
    tiny = options.model == "tiny"
    recipe = _BASE.format(
        vocabulary=500 if tiny else 30522, packages="[email, http]" if tiny else _PACKAGES, length=length, batch=batch,
        samples=samples, precision=options.precision, more=f", {options.keys}" if options.keys else "",
    )  # fmt: skip
    shape = f"{options.ranks} ranks x {batch // options.ranks} x {length}"
    title = f"mlm {options.model} ({sizes}), {shape}, {options.precision}, dropout {dropout:g}"
    return Work(
        title,
        recipe,
        model,
        dropout,
        "tokens/s",
        options.ranks,
        options.threads,
        options.turn,
        ceiling_seconds=0.0 if tiny else 1.0,
    )
