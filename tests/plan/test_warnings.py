"""Warnings of a plan: each rule at its bound, with its key and remedy, and the place in the recipe."""

from dataclasses import replace
from pathlib import Path

import pytest
import support

from launcher.config import load
from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.plan import warnings
from launcher.plan.device_facts import Device, Devices
from launcher.plan.facts import Facts, TruncationCounts
from launcher.plan.model_spec import Architecture
from launcher.plan.topology import World
from launcher.prepare import run_setup

BERT = Architecture(
    name="BertForMaskedLM", parameters=110_000_000, trained=110_000_000, buffers=0, in_layers=85_000_000, hidden=768,
    layers=12, heads=12,
)  # fmt: skip
A100 = Device("NVIDIA A100", 80 * 2**30)
FACTS = Facts(
    digest="d" * 32, vocab_size=120, pad_token_id=0, mask_token_id=4, special_ids=[0, 1], labels=["a", "b", "c"],
    longest=32, samples={"train": 10_000, "validation": 20}, tokens={"train": 2500, "validation": 500}, baseline={},
)  # fmt: skip
PRETRAINED = {"kind": "pretrained", "name": "./bert"}
ADAPTED = {**PRETRAINED, "adapter": {"kind": "lora"}}


def world(*devices: Device) -> World:
    kind = "cuda" if devices else "cpu"
    return World(Cluster(), Devices(kind, len(devices) or 1, None, devices), len(devices) or 1)


CPU = world()


def found(shape=BERT, on=CPU, facts=None, steps=6, **changes):
    """The warnings as (key, the rest) of a recipe that gives none by itself."""
    recipe = Recipe.model_validate(support.mlm(**changes))
    return [(one.key, one.what) for one in warnings.of(recipe, shape, on, facts, steps)]


@pytest.fixture(autouse=True)
def _here(workspace):
    """A folder with a corpus."""


@pytest.mark.parametrize(
    ("model", "batch", "lr", "warned"),
    [
        ({}, 256, 1e-3, False), ({}, 256, 1.1e-3, True), ({}, 12, 1e-3, False), ({}, 4096, 4e-3, False),
        ({}, 4096, 4.1e-3, True), ({}, 256, 1e-6, False), ({}, 256, 0.9e-6, True),
        (PRETRAINED, 32, 5e-5, False), (PRETRAINED, 16, 5e-4, False), (PRETRAINED, 32, 1e-3, True),
        (PRETRAINED, 32, 5e-7, False), (PRETRAINED, 32, 4e-7, True), (PRETRAINED, 512, 2e-3, False),
        (ADAPTED, 32, 5e-3, False), (ADAPTED, 32, 5.1e-3, True),
    ],
)  # fmt: skip
def test_a_learning_rate_is_far_from_the_published_ones_or_is_not(model, batch, lr, warned):
    """BERT (1e-4 at 256), RoBERTa (6e-4 at 8,192), BERT's fine-tuning (2e-5 to 5e-5 at 32) and DAPT (5e-4 at 2,048) are
    far inside."""
    model = {"kind": "config", "type": "bert", **support.TINY} | model
    if model["kind"] == "pretrained":
        model = {key: model[key] for key in ("kind", "name", "adapter") if key in model}
    told = found(model=model, train__global_batch=batch, optimizer__lr=lr)
    assert [key for key, _ in told] == ["optimizer.lr"] * warned


def test_a_learning_rate_is_warned_of_in_one_sentence_with_its_source():
    told = found(model=PRETRAINED, train__global_batch=32, optimizer__lr=1e-3)
    what = (
        "0.001 is 20 times 5e-05, which is usual for training all of a pretrained model of width 768 with a batch of 32"
    )
    assert told == [("optimizer.lr", f"{what}: the loss may not fall (at most 0.0005; Devlin et al., 2019)")]


def test_no_rule_is_known_of_other_models_optimisers_and_heads():
    assert found(replace_shape(hidden=0), optimizer__lr=1.0) == []
    assert found(replace_shape(trained=1000), optimizer__lr=1.0) == []
    assert found(optimizer={"kind": "sgd", "lr": 5.0}) == []
    assert [key for key, _ in found(replace_shape(hidden=64), optimizer__lr=0.013)] == ["optimizer.lr"]
    assert found(replace_shape(hidden=64), optimizer__lr=0.011) == []


def replace_shape(**changes):
    return BERT.model_copy(update=changes)


def test_a_warmup_of_the_whole_run():
    (key, what), *more = found(schedule={"kind": "linear", "warmup": 6})
    assert (key, more) == ("schedule.warmup", []) and what.startswith("6 steps, and the run has 6: ")
    assert found(schedule={"kind": "linear", "warmup": 5}) == []
    assert found(schedule={"kind": "linear", "warmup": 600}, steps=None) == []


def test_validation_on_what_is_trained_on():
    source, text = {"kind": "jsonl", "path": "corpus.jsonl"}, {"kind": "text", "path": "corpus.txt"}
    mixture = {"kind": "mixture", "sources": {"a": source, "b": text}, "weights": {"a": 1, "b": 1}}
    cases = [
        (source, {**source, "limit": 5}, "the same rows as data.train: "),
        (source, {**source, "path": "./corpus.jsonl"}, "1 file of data.train, such as corpus.jsonl: "),
        ({"kind": "text", "path": ["corpus.*"]}, text, "1 file of data.train, "),
        (source, text, None),
        ({"kind": "text", "path": "corpus.txt", "document": "line"}, {"kind": "jsonl", "path": "gone.jsonl"}, None),
        (mixture, source, "the same rows as data.train: "),
    ]  # fmt: skip
    for train, validation, expected in cases:
        told = found(data__train=train, data__validation=validation)
        assert [key for key, _ in told] == ["data.validation"] * (expected is not None)
        assert expected is None or told[0][1].startswith(expected)


def test_rows_that_are_cut():
    def cut(**counts):
        return FACTS.model_copy(update={"cut": {"train": TruncationCounts(tokens=32, of=1000, **counts)}})

    assert found(facts=cut(rows=9), steps=1000) == []
    ((key, what),) = found(facts=cut(rows=10), steps=1000)
    advice = "(data.max_length=64, if the model has as many positions; or shorter texts)"
    assert (key, what) == ("data.max_length", f"train: 10 of 1,000 rows are cut at 32 tokens {advice}")
    assert len(found(facts=cut(rows=1, words=3, labels=1), steps=1000)) == 1


def test_a_run_that_sees_hardly_any_or_each_sample_too_often():
    assert found(facts=FACTS, steps=9) == []  # 108 of 10,000 samples
    ((key, what),) = found(facts=FACTS, steps=8)
    assert key == "train.steps" and what.startswith(
        "96 of the 10,000 training samples are seen, 0.96% (train.steps=834 "
    )
    few = FACTS.model_copy(update={"samples": {"train": 6}})
    assert found(facts=few, steps=500) == []
    ((key, what),) = found(facts=few, steps=501)
    assert key == "train.steps" and "is seen 1,002 times" in what


def test_labels_with_a_few_rows():
    def counted(*counts):
        return found(facts=FACTS.model_copy(update={"counts": list(counts)}), steps=1000)

    assert counted(10, 10, 10) == counted() == []
    ((key, what),) = counted(100, 9, 2)
    assert key == "data.train" and what.startswith("2 labels of 3 with fewer than 10 training rows ('c' 2, 'b' 9): ")


def test_fp16_where_the_devices_have_bf16():
    ((key, what),) = found(on=world(A100), train__precision="fp16", tokenizer__vocab_size=128)
    assert key == "train.precision" and what.startswith("fp16, and NVIDIA A100 computes in bf16 as fast")
    v100 = replace(A100, name="Tesla V100", bf16=False)
    assert found(on=world(A100, v100), train__precision="fp16", tokenizer__vocab_size=128) == []
    assert found(train__precision="fp16") == []


def test_a_vocabulary_that_is_no_multiple_of_64_on_a_gpu():
    ((key, what),) = found(on=world(A100))
    assert (key, what) == (
        "tokenizer.vocab_size",
        "120 is no multiple of 64, which slows the head down on a GPU (128 is one)",
    )
    assert found(on=world(A100), tokenizer__vocab_size=128) == found() == []


@pytest.mark.parametrize(
    ("keys", "warned"),
    [
        ({"mask_rate": 0.6}, []), ({"mask_rate": 0.7}, ["task.mask_rate"]), ({"mask_rate": 0.01}, ["task.mask_rate"]),
        ({"mask_rate": {"start": 0.3, "end": 0.02}}, ["task.mask_rate"]), ({"split": [0.5, 0.2, 0.3]}, []),
        ({"split": [0.1, 0.1, 0.8]}, ["task.split"]),
    ],
)  # fmt: skip
def test_masks_that_leave_little_to_learn_from(keys, warned):
    assert [key for key, _ in found(task={"kind": "mlm", **keys})] == warned
    student = {"kind": "distillation", "task": {"kind": "mlm", **keys}, "teacher": {"run": "runs/a"}}
    assert [key for key, _ in found(task=student)] == [f"task.{key}" for key in warned]


def test_a_warning_begins_with_its_line_and_stops_nothing():
    Path("recipe.yaml").write_text("base: base.yaml\nschedule:\n  kind: linear\n  warmup: 9\n")
    recipe = support.small()
    support.write(recipe, "base.yaml")
    same = "data.validation={kind: linear, weights: [3.0, -2.0, 1.0], rows: 120}"
    loaded = load.recipe("recipe.yaml", [same])
    told = run_setup.dry_run(loaded, load.cluster("local").value, 1).warnings
    places = [f"'{same}': data.validation: ", "recipe.yaml:4: schedule.warmup: "]
    assert [line[: len(place)] for line, place in zip(told, places, strict=True)] == places
