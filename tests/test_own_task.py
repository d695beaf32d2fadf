"""A user's own task is one file, named by its dotted path."""

import json
from pathlib import Path

import pytest
import support
from support import type_check

RANKING = '''
"""Predict which of two texts is longer. Each is scored by itself, and pairs are learnt (Burges et al., 2005)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from launcher import tasks
from launcher.config.types import TaskConfig
from launcher.contract.random import Draw
from launcher.tasks import Batch, Directions, FeatureContext, Features, JsonObject, Outputs, Row, Sample

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class Config(TaskConfig):
    kind: str
    margin: float = 0.0


class Task(tasks.Task[Config]):
    columns = ("text", "text_pair", "label")
    target_columns = ("label",)
    auto_class = "AutoModelForSequenceClassification"

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return {"features": "ranking"}

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        encoder = context.encoder
        room = context.max_length // 2 - len(encoder.prefix) - len(encoder.suffix)
        for batch in rows:
            sides = [encoder.encode(batch.column(name)).truncated(room).between(encoder.prefix, encoder.suffix)
                     for name in ("text", "text_pair")]
            ids = [np.split(side.ids, side.offsets[1:-1]) for side in sides]
            first = batch.column("label").to_pylist() if "label" in batch.schema.names else [None] * batch.num_rows
            yield Features(pa.table({
                "input_ids": pa.array([np.concatenate(pair) for pair in zip(*ids)], pa.list_(pa.uint16())),
                "length": pa.array([len(a) + len(b) for a, b in zip(*ids)], pa.int32()),
                "cut": pa.array([len(a) for a in ids[0]], pa.int32()),
                "first": pa.array([label == "first" for label in first], pa.bool_()),
            }))

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return {"a coin": 0.5}

    def model_options(self) -> JsonObject:
        return {"num_labels": 1}

    def output_size(self, length: int) -> float:
        return 2.0

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        return [{"input_ids": row["input_ids"].astype(np.int64), "cut": np.array([row["cut"]]),
                 "sign": np.array([1.0 if row["first"] else -1.0])} for row in rows]

    def weight(self, sample: Sample) -> float:
        return float(abs(sample["sign"][0]))

    def zero_weight(self, sample: Sample) -> Sample:
        return {**sample, "sign": np.zeros(1)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        texts = [side for s in samples for side in np.split(s["input_ids"], s["cut"])]
        width = max(map(len, texts))
        ids = np.full((len(texts), width), self.facts.pad_token_id)
        for row, text in zip(ids, texts):
            row[: len(text)] = text
        mask = (np.arange(width) < np.array([len(t) for t in texts])[:, None]).astype(np.int64)
        sign = np.concatenate([s["sign"] for s in samples])
        return {"inputs": {"input_ids": ids, "attention_mask": mask}, "sign": sign}

    def prepare_model(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        return ["ranking is the user's own"]

    def _losses(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        from torch.nn.functional import softplus

        scores = model(**batch["inputs"]).logits.squeeze(-1)
        gap = (scores[0::2] - scores[1::2]) * batch["sign"].sign()
        return softplus(self.config.margin - gap) * batch["sign"].abs(), gap

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        return self._losses(model, batch)[0].sum(), float(batch["sign"].abs().sum())

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        losses, gap = self._losses(model, batch)
        return {"loss": losses, "weight": batch["sign"].abs(), "right": gap > 0}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        total = max(1.0, math.fsum(outputs["weight"]))
        return {"loss": math.fsum(outputs["loss"]) / total, "pairs": sum(outputs["right"]) / total}

    def directions(self) -> Directions:
        return {"loss": "min", "pairs": "max"}

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        return [{"sure": bool(right)} for right in outputs["right"]]

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        return " ".join(tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist()))
'''


@pytest.fixture
def own(workspace):
    """A function that writes a recipe with the task, and pairs of texts of which one is longer."""
    package = workspace / "mine" / "tasks"
    package.mkdir(parents=True)
    (package / "ranking.py").write_text(RANKING, encoding="utf-8")
    texts = (workspace / "corpus.txt").read_text(encoding="utf-8").splitlines()
    rows = [
        {"text": a, "text_pair": b, "label": "first" if len(a) > len(b) else "second"}
        for a, b in zip(texts, texts[1:] + texts[:1], strict=True)
    ]
    (workspace / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"kind": "jsonl", "path": "pairs.jsonl", "text_pair": "text_pair"}
    task = {"kind": "mine.tasks.ranking", "margin": 0.1}
    keys = {"train__steps": 40, "optimizer__lr": 0.01, "data__max_length": 96, "data__train": source, "task": task}
    return lambda name: support.write(
        support.classification(
            name,
            model={"kind": "config", "type": "bert", **support.TINY, "initializer_range": 0.2},
            evaluate={"every": 20, "at_start": True, "metric": "pairs"},
            **{**keys, "train__max_tokens": 960, "train__precision": "fp64"},
        ),
        f"{name}.yaml",
    )


def test_own_task_is_trained_evaluated_and_used_for_predictions(own):
    for ranks in (1, 2):
        support.launcher("run", own(f"own{ranks}"), "--ranks", ranks)
    one, two = (support.steps(f"runs/own{ranks}") for ranks in (1, 2))
    assert [record["data"] for record in one.values()] == [record["data"] for record in two.values()]
    assert [r["loss"] for r in one.values()] == pytest.approx([r["loss"] for r in two.values()], abs=1e-9)
    evaluations = support.evaluations("runs/own2")
    assert evaluations[40]["eval/loss"] < 0.9 * evaluations[0]["eval/loss"]
    assert evaluations[40]["eval/pairs"] > evaluations[0]["eval/pairs"]
    shown = support.launcher("evaluate", "runs/own2", "--ranks", 1, "--json").stdout
    assert json.loads(shown)["eval/pairs"] == evaluations[40]["eval/pairs"]
    support.launcher("predict", "runs/own2", "--data", "pairs.jsonl", "--to", "said.jsonl")
    said = [json.loads(line) for line in Path("said.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(said) == 120 and all(isinstance(one["sure"], bool) for one in said)


def test_unknown_key_of_own_task_is_refused_with_a_hint(own):
    refused = support.launcher("plan", own("own"), "task.margins=2", code=2)
    assert "task.margins: unknown key (did you mean margin?)" in refused.stderr


@pytest.mark.parametrize(("wrong", "right"), [("", ""), ('return {"features": "ranking"}', "return config.margins")])
def test_own_task_is_type_checked(tmp_path, wrong, right):
    """mypy in strict mode accepts the task, and finds a key that its Config does not have."""
    (tmp_path / "ranking.py").write_text(RANKING.replace(wrong, right) if wrong else RANKING, encoding="utf-8")
    checked = type_check.mypy(tmp_path / "ranking.py")
    assert (checked.returncode, "has no attribute" in checked.stdout) == ((1, True) if wrong else (0, False)), checked
