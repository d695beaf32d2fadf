"""Wrong recipes that a plan alone refuses, with the key and a hint, and right ones that raise no alarm.

Takes longer than 5 s: only real models, built for each right recipe, show that no check of one is wrong about another.
"""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import support

from launcher.config import load
from launcher.config.errors import UserError
from launcher.plan import _model_spec_process, model_spec
from launcher.prepare import run_setup

TINY_GPT2 = {"kind": "config", "type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "dropout": 0.0}
T5 = {
    "kind": "config",
    "type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
    "dropout": 0.0,
}
ADAMW = {"kind": "adamw", "lr": 1e-3}


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory):
    """A folder with data, right and wrong."""
    folder = support.corpus(tmp_path_factory.mktemp("recipes"))
    rows = [
        {
            "text": f"it is {word}", "pair": "it was", "label": word, "number": 1.5, "names": [word], "target": word,
            "words": ["it", word], "labels": ["O", "B-X"], "question": "what", "context": f"it is {word}",
            "answers": {"text": [word], "answer_start": [6]},
        }
        for word in ("red", "blue", "green") * 8
    ]  # fmt: skip
    write = {
        "rows.jsonl": rows,
        "multi-hot.jsonl": [{"text": "a b", "label": [0, 1, 1]}, {"text": "c d", "label": [1, 0, 0]}] * 9,
        "ignored.jsonl": [{"text": "a b", "label": -100}, {"text": "c d", "label": 1}] * 9,
        "words.jsonl": [{"text": "a b", "label": "many"}] * 18,
        "uneven.jsonl": [{"words": ["a", "b"], "labels": ["O"]}] * 18,
        "numbers.jsonl": [{"text": 3, "label": "x"}] * 18,
        "elsewhere.jsonl": [{"question": "a", "context": "b c", "answers": {"text": ["zz"], "answer_start": [9]}}] * 18,
    }
    for name, listed in write.items():
        (folder / name).write_text("\n".join(map(json.dumps, listed)) + "\n")
    (folder / "not.jsonl").write_text("text,label\na b,x\n")
    (folder / "empty.jsonl").write_text("")
    (folder / "rows.csv").write_text("text,label\n" + "a b,x\nc d,y\n" * 9)
    (folder / "semicolons.csv").write_text("text;label\n" + "a b;x\nc d;y\n" * 9)
    (folder / "wide.csv").write_text("text,label\na b,x,z\n" * 9)
    (folder / "utf16.csv").write_bytes(("text,label\n" + "a b,x\n" * 9).encode("utf-16"))
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAUNCHER_CACHE", str(folder / "cache"))  # in which nothing is prepared
        patch.setattr(model_spec, "_run_child", lambda question: _model_spec_process._answer(json.loads(question)))
        yield folder


def mlm(**changes: Any) -> dict[str, Any]:
    return support.mlm(**changes)


def labels(path: str = "rows.jsonl", task: Any = "sequence_classification", **changes: Any) -> dict[str, Any]:
    task = task if isinstance(task, dict) else {"kind": task}
    recipe = support.classification(task=task)
    recipe["data"]["train"] = {"kind": Path(path).suffix[1:], "path": path}
    return support.changed(recipe, **changes)


WRONG = {
    "global_batch-0": (mlm(train__global_batch=0), "train.global_batch: should be "),
    "batch-below-ranks": (mlm(train__global_batch=1), "train.global_batch: 1 samples cannot be shared by 2 ranks "),
    "steps-true": (mlm(train__steps=True), "train.steps: "),
    "steps-text": (mlm(train__steps="5"), "train.steps: "),
    "steps-and-epochs": (mlm(train__epochs=3), "train"),
    "neither": (mlm(train={"global_batch": 12}), "train"),
    "fp8": (mlm(train__precision="fp8"), "train.precision: "),
    "fp16-no-scale": (mlm(train__precision="fp16", train__loss_scale="none"), "train.loss_scale: "),
    "max_tokens": (mlm(train__max_tokens=16), "train.max_tokens: 16 is below one sample "),
    "padding_free": (
        mlm(train__padding_free=True, train__compile=True),
        "train.padding_free: train.compile would compile the layers again for other lengths (take auto)",
    ),
    "padding_free_task": (
        support.small(train__padding_free=True),
        "train.padding_free: tabular_regression takes no rows without padding ",
    ),
    "unknown-key": (mlm(train__warmup=3), "train.warmup: unknown key "),
    "optimizer": (mlm(optimizer={"kind": "adamx", "lr": 1e-3}), "optimizer: unknown kind 'adamx' "),
    "lr-missing": (mlm(optimizer={"kind": "sgd"}), "optimizer.lr: field required"),
    "lr-negative": (mlm(optimizer__lr=-1.0), "optimizer.lr: "),
    "betas": (mlm(optimizer={**ADAMW, "betas": [0.9, 1.5]}), "optimizer.betas"),
    "schedule": (mlm(schedule={"kind": "linearr"}), "schedule: unknown kind 'linearr' "),
    "warmup": (mlm(schedule={"kind": "linear", "warmup": -1}), "schedule.warmup: "),
    "plateau": (mlm(schedule={"kind": "plateau"}), "schedule: goes by evaluations"),
    "strategy": (mlm(strategy={"kind": "fsdpp"}), "strategy: unknown kind 'fsdpp' "),
    "replicas": (mlm(strategy={"kind": "fsdp", "shard": "hybrid", "replicas": 3}), "strategy"),
    "task": (mlm(task={"kind": "mlmm"}), "task: unknown kind 'mlmm' "),
    "mask_rate": (mlm(task__mask_rate=1.5), "task.mask_rate: "),
    "split": (mlm(task__split=[0.8, 0.1, 0.3]), "task.split: "),
    "chunks-overflow": (mlm(task={"kind": "mlm", "overflow": "split"}), "task: chunks are cut"),
    "model-type": (mlm(model__type="brt"), "model.type: "),
    "heads": (mlm(model__num_attention_heads=3), "model"),
    "positions": (mlm(model__max_position_embeddings=16), "data.max_length: 32 tokens, but BertForMaskedLM has "),
    "gpt2-positions": (labels(model={**TINY_GPT2, "n_positions": 16}), "data.max_length: 32 tokens, but GPT2For"),
    "dropout": (mlm(model__dropout=1.5), "model.dropout: "),
    "folder": (mlm(model={"kind": "pretrained", "name": "./nowhere"}), "model.name: "),
    "no-head": (labels(model={"kind": "config", "type": "vit"}), "model: vit has no model for this task"),
    "encoder-as-decoder": (labels(task="seq2seq"), "model: bert has no model for this task"),
    "vocabulary": (mlm(tokenizer={"kind": "train", "vocab_size": 0}), "tokenizer.vocab_size: "),
    "no-file": (mlm(data__train__path="gone.txt"), "data.train.path: gone.txt: no such file"),
    "source": (mlm(data__train={"kind": "jsonlines", "path": "x"}), "data.train: unknown kind 'jsonlines' "),
    "half": (mlm(data__validation={"fraction": 0.9}), "data.validation.fraction: more than half"),
    "metric": (mlm(evaluate={"metric": "f1", "every": 2}), "evaluate.metric: mlm has no metric 'f1' "),
    "patience": (mlm(evaluate={"patience": 2}), "evaluate.patience: "),
    "no-validation": (mlm(data__validation=None, evaluate={"every": 2}), "evaluate: there is nothing to evaluate on "),
    "checkpoint": (mlm(checkpoint={"every": "10x"}), "checkpoint.every: "),
    "sink": (mlm(sinks=["consol"]), "sinks.0: unknown kind 'consol' "),
    "name": (mlm(name="a/b"), "name: "),
    # of the data, in its first rows
    "no-column": (labels(data__train__text="body"), "rows.jsonl:1: data.train.text: no column 'body' "),
    "csv-no-column": (labels("rows.csv", data__train__label="class"), "data.train.label: "),
    "csv-semicolons": (labels("semicolons.csv"), "data.train.delimiter: semicolons.csv: its first line has no ','"),
    "csv-wide": (labels("wide.csv"), "wide.csv:2: has 3 fields, the header 2 "),
    "csv-utf16": (labels("utf16.csv"), "utf16.csv"),
    "no-json": (labels("not.jsonl"), "not.jsonl:1: not valid JSON"),
    "multi-hot": (labels("multi-hot.jsonl"), "multi-hot.jsonl:1: data.train.label: "),
    "multi-hot-multi": (
        labels("multi-hot.jsonl", {"kind": "sequence_classification", "labels": "multi"}),
        "multi-hot.jsonl:1: data.train.label: ",
    ),
    "minus-100": (labels("ignored.jsonl"), "ignored.jsonl:1: data.train.label: "),
    "regression-of-words": (
        labels("words.jsonl", "regression", evaluate__metric="mse"),
        "words.jsonl:1: data.train.label",
    ),
    "uneven-tags": (labels("uneven.jsonl", "token_classification"), "uneven.jsonl:1: "),
    "text-is-number": (labels("numbers.jsonl"), "numbers.jsonl:1: data.train.text: column 'text' is no text but int "),
    "answer-elsewhere": (labels("elsewhere.jsonl", "question_answering"), "elsewhere.jsonl:1: "),
}

SCHEDULES = [
    {"kind": "constant"}, {"kind": "linear", "warmup": 0.1}, {"kind": "cosine", "floor": 0.1},
    {"kind": "polynomial", "power": 2.0}, {"kind": "warmup_stable_decay", "decay": 0.2}, {"kind": "one_cycle"},
    {"kind": "step", "every": 2, "gamma": 0.5}, {"kind": "multi_step", "milestones": [2, 4], "gamma": 0.5},
    {"kind": "exponential", "gamma": 0.9},
]  # fmt: skip
OPTIMIZERS = ("sgd", "adam", "adamw", "adafactor", "muon")
DISTILBERT = {"kind": "config", "type": "distilbert", "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
TYPES = ("roberta", "electra", "albert", "modernbert")
RIGHT = {
    **{f"schedule-{one['kind']}": mlm(schedule=one) for one in SCHEDULES},
    **{f"optimizer-{kind}": mlm(optimizer={"kind": kind, "lr": 1e-3}) for kind in OPTIMIZERS},
    **{f"precision-{one}": mlm(train__precision=one) for one in ("fp32", "bf16", "fp16", "fp64")},
    **{f"strategy-{kind}": mlm(strategy={"kind": kind}) for kind in ("ddp", "fsdp", "deepspeed")},
    **{f"model-{one}": mlm(model={"kind": "config", "type": one, **support.TINY}) for one in TYPES},
    "model-distilbert": mlm(model=DISTILBERT),
    "chunks": mlm(task={"kind": "mlm"}),
    "packed": mlm(task={"kind": "mlm", "samples": "packed"}),
    "windows": mlm(task={"kind": "mlm", "samples": "documents", "overflow": "split", "stride": 8}),
    "epochs": mlm(train={"global_batch": 12, "epochs": 2.5}),
    "minutes": mlm(checkpoint={"every": "10m", "keep": 3}),
    "no-validation": mlm(data__validation=None),
    "checkpointing": mlm(train__activation_checkpointing="layers"),
    "labels": labels(),
    "labels-csv": labels("rows.csv"),
    "labels-several": labels(task={"kind": "sequence_classification", "labels": "multi"}, data__train__label="names"),
    "labels-pairs": labels(data__train__text_pair="pair"),
    "labels-gpt2": labels(model=TINY_GPT2),
    "regression": labels(task="regression", data__train__label="number"),
    "tags": labels(task="token_classification"),
    "answers": labels(task="question_answering"),
    "causal": mlm(model=TINY_GPT2, task={"kind": "causal_lm"}),
    "seq2seq": labels(task="seq2seq", model=T5),
    "small": support.small(),
}  # fmt: skip


def planned(recipe: dict[str, Any]) -> Any:
    return run_setup.dry_run(load.recipe(support.write(recipe)), load.cluster("local").value, 2)


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_recipe_is_refused_by_its_key_with_a_hint(name):
    recipe, expected = WRONG[name]
    with pytest.raises(UserError) as refused:
        planned(recipe)
    lines = str(refused.value).splitlines()
    assert len(lines) == 1, lines
    where, _, what = lines[0].partition(": ")
    assert re.fullmatch(r"[\w./-]+:\d+", where) or where in expected, lines
    assert lines[0].startswith(expected) or what.startswith(expected), lines


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_a_right_recipe_raises_no_alarm(name):
    assert planned(RIGHT[name]).notes == []


def test_they_are_as_many_as_claimed():
    assert len(WRONG) >= 50 and len(RIGHT) >= 40
