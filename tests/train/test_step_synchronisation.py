"""The host reads no value of a tensor inside a training step, so that an accelerator never waits for it.

Each step runs on fake tensors, which have no values: to read one raises. What this cannot show is listed below.
"""

import os
from pathlib import Path

import pytest
from support import fake_steps, ranks, recipe_data

from launcher.config import kinds

BERT = "model.name=./bert"
TINY = f"{{kind: config, type: bert, {recipe_data.TINY}}}"
SHORT = [
    "train.epochs=null", "train.steps=4", "train.global_batch=8", "train.max_tokens=null", "train.precision=bf16",
    "strategy=single", "schedule=constant",
]  # fmt: skip


def both(source):
    return [f"data.{side}={source}" for side in ("train", "validation")]


CASES = {
    "mlm": (
        "bert-base-mlm-wikitext2",
        [f"model={TINY}", "tokenizer={kind: train, vocab_size: 120}", *both(recipe_data.TEXT),
         "task={kind: mlm, samples: documents}"],
    ),
    "causal_lm": ("gpt2-clm-wikitext2", ["model.name=./gpt2", *both(recipe_data.TEXT), "data.max_length=32"]),
    "seq2seq": (
        "t5-summarisation",
        ["model.name=./t5", *both("{kind: jsonl, path: news.jsonl, text: article, target: highlights}"),
         "data.max_length=64", "task.max_target_length=8", "task.generate=null", "optimizer={kind: adamw, lr: 0.02}"],
    ),
    "sequence_classification": (
        "bert-text-classification",
        [BERT, *both("{kind: jsonl, path: corpus.jsonl}"), "task.class_weights=balanced"],
    ),
    "token_classification": (
        "bert-ner-conll2003",
        [BERT, *both("{kind: jsonl, path: tagged.jsonl, words: tokens, labels: ner_tags}")],
    ),
    "question_answering": (
        "bert-squad",
        [BERT, *both("{kind: jsonl, path: squad.jsonl}"), "data.max_length=48", "task.stride=8"],
    ),
    "regression": (
        "bert-sts-regression",
        [BERT, *both("{kind: jsonl, path: pairs.jsonl, text: sentence1, text_pair: sentence2}")],
    ),
    "tabular_regression": ("linear-regression", ["optimizer={kind: adam, lr: 0.1}"]),
    "image_classification": (
        "cnn-cifar10",
        [*both("{kind: image_folder, path: images}"), "task.size=32", "model.channels=[4, 8]", "model.hidden=[16]",
         "optimizer={kind: adam, lr: 0.1}"],
    ),
    "distillation": (
        "bert-base-mlm-wikitext2",
        [f"model={TINY}", "tokenizer={kind: pretrained, name: ./bert}", *both(recipe_data.TEXT),
         "task={kind: distillation, task: {kind: mlm}, teacher: {name: ./bert}}"],
    ),
}  # fmt: skip
LEFT_OUT = {"reward": "a reward is a function of the text of a completion, which the host decodes"}
"""Tasks that read values, with the reason."""
STRATEGIES = {
    "single": ({"kind": "single"}, 1),
    "ddp": ({"kind": "ddp"}, 2),
    "fsdp": ({"kind": "fsdp"}, 2),
    "hybrid": ({"kind": "fsdp", "shard": "hybrid", "replicas": 2}, 4),
}
NOT_FAKE = {
    "deepspeed": "DeepSpeed computes norms and steps with values on the host",
}
"""Strategies that cannot be made of fake tensors, with the reason."""


def test_every_task_and_strategy_is_tried_or_left_out_for_a_reason():
    assert {*CASES, *LEFT_OUT} == set(kinds.available("tasks"))
    assert {one["kind"] for one, _ in STRATEGIES.values()} | {*NOT_FAKE} == set(kinds.available("strategies"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder, before = recipe_data.write(tmp_path_factory.mktemp("fake")), Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.mark.parametrize("kind", CASES)
def test_a_step_reads_nothing_and_its_results_are_read_at_once(place, kind):
    recipe, changes = CASES[kind]
    folder = ranks.ready(recipe, *changes, *SHORT)
    copied_before = {"inside": [], "results": ["item"]}  # the step has begun the copy, and only the host's is read
    told = ranks.on_ranks(1, reads, str(place / folder))[0]
    assert told == dict.fromkeys(STRATEGIES, copied_before)


def reads(process, folder):
    return {name: fake_steps.reads_of(process, Path(folder), *one) for name, one in STRATEGIES.items()}
