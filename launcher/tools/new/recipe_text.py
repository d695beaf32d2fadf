"""The text of a new recipe, with a comment on each choice."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.config.errors import shown
from launcher.config.format import plural
from launcher.config.types import Plugin
from launcher.data import TEXTS
from launcher.tools.new.choices import SIZES, Choices
from launcher.tools.new.columns import Column, Table

_SHAPES = {"tiny": (128, 2, 2), "mini": (256, 4, 4), "small": (512, 4, 8), "base": (768, 12, 12)}
"""Hidden size, layers and heads of each size (those of the small BERT models; Turc et al., 2019)."""
_VOCABULARY = {"tiny": 4096, "mini": 8192, "small": 16384, "base": 30000}
_RATE = {"tiny": "1.0e-3", "mini": "5.0e-4", "small": "3.0e-4", "base": "1.0e-4"}
_TASKS = {"classify": "sequence_classification", "regression": "regression", "pretrain": "mlm"}
_LONGEST = 512
"""Maximum length that models take."""
_FEW_ROWS = 10
"""Rows of a label from which the validation holds out a share of each."""

_USUAL = {"delimiter": ",", "quote": '"'}
"""Defaults of a table, which a recipe need not repeat."""
_PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
"""Texts that YAML reads without quotes, except for _WORDS."""
_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


@dataclass(frozen=True)
class _Sizes:
    """Numbers of a recipe. `fraction`: share held out; `length`: tokens; `batch`: samples; `epoch`: steps of one."""

    fraction: float
    length: int
    batch: int
    epoch: int


def text(data: str, source: Plugin, table: Table, choices: Choices) -> str:
    """Return the recipe as YAML."""
    sizes = _sizes(table, choices)
    lines = [
        *_heading(data, table, choices),
        f"name: {choices.name}",
        "seed: 17",
        *_model(choices, sizes, table),
        *_data(source, table, choices, sizes),
        *_task(choices),
        *_training(choices, sizes),
    ]
    return "\n".join(lines) + "\n"


def _sizes(table: Table, choices: Choices) -> _Sizes:
    rows, tokens = table.rows, choices.text.tokens
    fraction = 0.2 if rows < 200 else 0.1 if rows < 20_000 else 0.05
    if choices.task == "pretrain":
        length = 128
        samples = max(rows // 8, sum(tokens) * rows // max(1, len(tokens)) // length)
        batch = 64 if samples > 4000 else 16 if samples > 200 else 4
    else:
        length, samples = min(_LONGEST, -(-max(tokens, default=32) // 32) * 32), rows
        batch = 32 if rows >= 2000 else 16 if rows >= 200 else 4
    return _Sizes(fraction, length, batch, max(1, int(samples * (1 - fraction)) // batch))


def _heading(data: str, table: Table, choices: Choices) -> Iterator[str]:
    what = {
        "classify": "Predict the class", "regression": "Predict the number", "pretrain": "Pretrain on the texts",
    }[choices.task]  # fmt: skip
    in_column = f" in {shown(choices.label.name)!r}" if choices.label is not None else ""
    yield f"# {what}{in_column} of {shown(data)}, of which {plural(table.rows, 'row')} were read."
    yield "# launcher plan shows what follows from it; docs/reference.md lists every key."


def _model(choices: Choices, sizes: _Sizes, table: Table) -> Iterator[str]:
    if choices.model not in SIZES:
        yield "# Pretrained weights: a name on the hub, or a folder. Its tokenizer is used."
        yield f"model: {{kind: pretrained, name: {_yaml(choices.model)}}}"
        return
    hidden, layers, heads = _SHAPES[choices.model]
    advice = " A pretrained model, {kind: pretrained, name: ...}, learns far more from few labels."
    yield f"# A BERT from scratch, {choices.model}.{'' if choices.task == 'pretrain' else advice}"
    yield (
        f"model: {{kind: config, type: bert, hidden_size: {hidden}, num_hidden_layers: {layers}, "
        f"num_attention_heads: {heads},"
    )
    yield f"        intermediate_size: {4 * hidden}, max_position_embeddings: {max(sizes.length, 128)}}}"
    size = min(_VOCABULARY[choices.model], max(256, choices.text.characters // 40 // 256 * 256))
    yield f"tokenizer: {{kind: train, algorithm: wordpiece, vocab_size: {size}}}"


def _data(source: Plugin, table: Table, choices: Choices, sizes: _Sizes) -> Iterator[str]:
    written = source.model_dump(exclude_unset=True)
    keys = {key: "none" if value is None else value for key, value in written.items() if value != _USUAL.get(key, "")}
    keys |= {"text": choices.text.name} if choices.text.name != TEXTS[0] else {}
    if choices.label is not None and choices.label.name != "label":
        keys["label"] = choices.label.name
    yield "data:"
    missing = choices.label.empty + choices.label.others if choices.label is not None else 0
    if table.bad or missing:
        keys["on_bad_row"] = "skip"
        yield f"  # {table.bad:,} rows cannot be read, {missing:,} have no label: they are skipped and counted."
    yield "  train:"
    yield from (f"    {key}: {_yaml(value)}" for key, value in keys.items())
    yield from _validation(choices, sizes)
    repeated = choices.text.filled - len(choices.text.values)
    if repeated and choices.task != "pretrain":
        yield f"  deduplicate: true  # {plural(repeated, 'text')} occur more than once; equal rows count once"
    elif repeated:
        yield f"  deduplicate: true  # {plural(repeated, 'text')} occur more than once"
    longest = max(choices.text.tokens, default=0)
    if choices.task == "pretrain":
        yield f"  max_length: {sizes.length}  # tokens; longer documents are divided"
    else:
        cut = " and are cut" if longest > _LONGEST else ""
        yield f"  max_length: {sizes.length}  # tokens; the longest texts have about {longest:,}{cut}"


def _validation(choices: Choices, sizes: _Sizes) -> Iterator[str]:
    fewest = min(choices.label.values.values()) if choices.task == "classify" and choices.label is not None else 0
    if fewest >= _FEW_ROWS / (1 - sizes.fraction):
        yield f"  validation: {{fraction: {sizes.fraction}, stratify: auto}}  # the same share of each class"
    else:
        yield f"  validation: {{fraction: {sizes.fraction}}}  # held out by a hash of the content"


def _task(choices: Choices) -> Iterator[str]:
    if choices.label is not None and choices.task == "classify":
        yield f"# {_classes(choices.label)}"
    yield f"task: {{kind: {_TASKS[choices.task]}}}"


def _classes(label: Column) -> str:
    common = [f"{shown(value)[:30]} {100 * count / label.filled:.0f}%" for value, count in label.values.most_common(4)]
    more = f", and {len(label.values) - 4:,} more" if len(label.values) > 4 else ""
    uneven = "; class_weights: balanced gives rare classes more weight" if _is_uneven(label) else ""
    return f"{len(label.values):,} classes: {', '.join(common)}{more}{uneven}."


def _is_uneven(label: Column) -> bool:
    counts = label.values.most_common()
    return counts[0][1] > 4 * counts[-1][1]


def _training(choices: Choices, sizes: _Sizes) -> Iterator[str]:
    rate = _RATE.get(choices.model, "3.0e-5")
    steps = sizes.epoch * choices.epochs
    yield f"# About {steps:,} steps. precision: bf16 is faster on GPUs from the A100 on."
    yield f"train: {{global_batch: {sizes.batch}, epochs: {choices.epochs}}}"
    yield f"optimizer: {{kind: adamw, lr: {rate}, weight_decay: 0.01}}"
    yield "schedule: {kind: linear, warmup: 0.1}"
    yield "checkpoint: {every: 10m, keep: 2}"
    metric = {"classify": "f1" if choices.label and _is_uneven(choices.label) else "accuracy"}.get(choices.task)
    watched = f", metric: {metric}" if metric else ""
    every = sizes.epoch if choices.task != "pretrain" else max(1, steps // 10)
    yield f"evaluate: {{every: {every}{watched}, save_best: true}}"


def _yaml(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=not str(value).isprintable())
