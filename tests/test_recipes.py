"""Every shipped recipe loads, and those of the sharded strategies train on local data of the same form."""

import pytest
import support

from launcher.config import load

SHARDED = {
    "bert-base-mlm-fsdp": 2,
    "bert-base-mlm-hsdp": 4,
    "bert-large-mlm-zero2": 2,
    "bert-large-mlm-zero3-offload": 2,
}
LOCAL = (
    "model={kind: config, type: bert, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, "
    "intermediate_size: 32, dropout: 0.0}",
    "tokenizer={kind: train, vocab_size: 120}",
    "data.train={kind: text, path: corpus.txt, document: line}",
    "data.validation={kind: text, path: corpus.txt, document: line}",
    "data.max_length=32",
    "train.global_batch=8",
    "train.epochs=2",
    "train.max_tokens=64",
    "optimizer.lr=0.02",
    "evaluate={at_start: true}",
)


@pytest.mark.parametrize("file", load.shipped("recipes"), ids=lambda file: file.stem)
def test_it_loads_and_is_named_as_its_file(file):
    assert load.recipe(file).value.name == file.stem


def test_the_index_names_them_all():
    folder = load.shipped("recipes")[0].parent
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"[{file.stem}]({file.name})" in index for file in load.shipped("recipes"))


@pytest.mark.parametrize("name", SHARDED)
def test_it_trains_and_its_loss_falls(workspace, name):
    support.launcher("run", name, *LOCAL, "--ranks", SHARDED[name])
    told = support.evaluations(f"runs/{name}")
    assert told[max(told)]["eval/loss"] < told[0]["eval/loss"] - 0.1
