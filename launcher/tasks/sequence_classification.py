"""Sequence classification: one label for a text, or for a pair of texts."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from launcher.config.errors import Problem, UserError
from launcher.config.types import Plugin, hint
from launcher.contract import random
from launcher.tasks import IGNORE, Batch, Features, Row, Sample, _text

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder


class Config(Plugin):
    kind: Literal["sequence_classification"] = "sequence_classification"


class Task:
    columns = ("text", "text_pair", "label")
    surveyed = ("label",)
    auto_class = "AutoModelForSequenceClassification"

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "sequence_classification"}

    @staticmethod
    def survey(config: Config, values: Mapping[str, set[str]]) -> dict[str, Any]:
        """The label names, sorted: numbers by value, texts by letters."""
        found = values["label"]
        numbers = all(re.fullmatch(r"-?\d+", label) for label in found)
        if len(found) < 2:
            what = f"{len(found)} label in the training data: a classifier needs two or more"
            raise UserError(Problem("data.train.label", what))
        return {"labels": sorted(found, key=lambda label: (int(label) if numbers else 0, label))}

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        known = pa.array(survey["labels"], pa.string())
        for batch in rows:
            numbers = pc.index_in(batch.column("label"), known)
            if numbers.null_count:
                first = pc.min(batch.column("label").filter(numbers.is_null())).as_py()
                close = hint(first, survey["labels"])
                what = f"{first!r} stands in the validation data and not in the training data ({close})"
                raise UserError(Problem(f"{key}.label", what))
            columns = {"label": numbers.cast(pa.int64())}
            if "text_pair" in batch.schema.names:
                encoded = encoder.pairs(batch.column("text"), batch.column("text_pair"), length)
                if encoded.types is not None:
                    columns["token_type_ids"] = _text.lists(encoded, pa.array(encoded.types))
            else:
                room = length - len(encoder.prefix) - len(encoder.suffix)
                encoded = encoder.encode(batch.column("text")).truncated(room).between(encoder.prefix, encoder.suffix)
            yield Features(_text.table(encoded, encoder.vocab_size, **columns))

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """The accuracy of always naming the most frequent class."""
        counts: Counter[int] = Counter()
        for table in validation:
            counts.update(table["label"].to_pylist())
        return {"majority_class": max(counts.values()) / sum(counts.values())}

    @staticmethod
    def tokens(config: Config) -> Sequence[str]:
        return ()

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts

    def options(self) -> dict[str, Any]:
        labels = self.facts.labels
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
        }

    def outputs(self, length: int) -> float:
        return float(len(self.facts.labels))

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        names = ("input_ids", "token_type_ids")
        return [
            {name: row[name].astype(np.int64) for name in names if name in row} | {"labels": np.array([row["label"]])}
            for row in rows
        ]

    def weight(self, sample: Sample) -> float:
        return float(sample["labels"][0] != IGNORE)

    def mute(self, sample: Sample) -> Sample:
        return _text.mute(sample)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = np.concatenate([s["labels"] for s in samples]).astype(np.int64)
        return {**_text.inputs(samples, self.facts.pad_token_id), "labels": labels}

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        return []

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        from torch.nn.functional import cross_entropy

        logits = _text.full_precision(model(**batch["inputs"]).logits)
        loss = cross_entropy(logits, batch["labels"], ignore_index=IGNORE, reduction="sum")
        return loss, float((batch["labels"] != IGNORE).sum())

    def meters(self) -> Any:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassF1Score,
            MulticlassPrecision,
            MulticlassRecall,
        )

        from launcher.tasks._sum import Sum

        classes: dict[str, Any] = {"num_classes": len(self.facts.labels), "ignore_index": IGNORE}
        scores = {"precision": MulticlassPrecision, "recall": MulticlassRecall, "f1": MulticlassF1Score}
        return MetricCollection(
            {
                "loss": Sum(),
                "weight": Sum(),
                "accuracy": MulticlassAccuracy(average="micro", **classes),
                **{name: score(average="macro", **classes) for name, score in scores.items()},
                **{f"{name}_by_class": score(average="none", **classes) for name, score in scores.items()},
            },
            compute_groups=False,
        )

    def measure(self, meters: Any, model: "torch.nn.Module", batch: Batch) -> None:
        from torch.nn.functional import cross_entropy

        labels, logits = batch["labels"], _text.full_precision(model(**batch["inputs"]).logits)
        meters["loss"].update(cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum"))
        meters["weight"].update((labels != IGNORE).sum())
        for name in set(meters.keys()) - {"loss", "weight"}:
            meters[name].update(logits, labels)

    def summary(self, meters: Any) -> dict[str, float]:
        values = meters.compute()
        out = {"loss": float(values["loss"]) / max(1.0, float(values["weight"]))}
        out |= {name: float(values[name]) for name in ("accuracy", "precision", "recall", "f1")}
        for score in ("precision", "recall", "f1"):
            each = values[f"{score}_by_class"].tolist()
            out |= {f"{score}/{label}": value for label, value in zip(self.facts.labels, each, strict=True)}
        return out

    def show(self, sample: Sample, tokenizer: Any) -> str:
        from rich.markup import escape

        text = " ".join(tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist()))
        return f"{escape(text)} → [bold reverse]{escape(self.facts.labels[int(sample['labels'][0])])}[/]"
