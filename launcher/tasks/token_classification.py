"""Token classification: a label for each word, such as the names of persons and places.

The first token of a word has the label of the word. If the labels follow an entity scheme (IOB, IOE, BIOES, BILOU,
BMES), metrics are over entities, as in conlleval: seqeval's default mode, in which an entity may begin with I-. A word
without a token, such as a word beyond max_length, counts as predicted O.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from launcher import tasks
from launcher.config.types import TaskConfig
from launcher.contract.random import Draw, Stream
from launcher.tasks import (
    IGNORE,
    Batch,
    BatchOutputs,
    Directions,
    FeatureContext,
    Features,
    JsonObject,
    Outputs,
    Row,
    Sample,
    _labels,
    _language_modeling,
    _metrics,
    _sequences,
    _tag_metrics,
    _token_batches,
    _word_labels,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from launcher.plan.facts import Facts

_NO_WORD = -1
"""Padding value of `row_labels`."""


class Config(TaskConfig):
    """A label for each word."""

    kind: Literal["token_classification"] = "token_classification"
    label_all: bool = False
    """Train on all tokens of a word. Tokens after the first get I- in place of B-. Metrics use the first token only."""


class Task(tasks.Task[Config]):
    """A sample is a row of words.

    `labels`: the label of each token, or IGNORE. `words`: at the first token of each word, the word's number in its
    row, from 0; else -1. `row_labels`, only in an evaluation: the labels of all words if a word has no token, else
    empty.
    """

    columns = ("words", "labels")
    target_columns = ("labels",)
    survey_columns = ("labels",)
    auto_class = "AutoModelForTokenClassification"
    distillable = True
    padding_free = True

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return {"features": "token_classification", "label_all": config.label_all}

    @staticmethod
    def survey(config: Config, values: Mapping[str, set[str]]) -> JsonObject:
        """Return the labels sorted, O first. Raises UserError (see `_labels.check`)."""
        _labels.check(values["labels"], "data.train.labels")
        return {"labels": sorted(values["labels"], key=lambda label: (label != "O", label))}

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        for batch in rows:
            yield _word_labels.features(batch, context, config.label_all)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """Return the accuracy of always predicting the most frequent label."""
        counts = Counter[int]()
        for table in validation:
            labels, words = (table[name].combine_chunks().flatten().to_numpy() for name in ("labels", "words"))
            counts.update(labels[(words >= 0) & (labels != IGNORE)].tolist())
        return {"majority_class": max(counts.values(), default=0) / max(1, counts.total())}

    @staticmethod
    def describe_labels(config: Config, facts: "Facts") -> str:
        scheme, tags = _tag_metrics.scheme(facts.labels), f"{len(facts.labels)} tags"
        if scheme is None:
            return f"{tags} of no entity scheme: macro_f1 is the mean over tags"
        return f"{tags}, read as {scheme.name}: f1 is over entities ({', '.join(scheme.types)})"

    @staticmethod
    def check(config: Config, facts: "Facts", folder: Path) -> None:
        _labels.check_prepared(facts.labels, "data.train.labels", folder)

    def model_options(self) -> JsonObject:
        return _labels.model_options(self.facts.labels)

    def output_size(self, length: int) -> float:
        return float(length * len(self.facts.labels))

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        names = ("input_ids", "labels", "words")
        samples = [{name: row[name].astype(np.int64) for name in names} for row in rows]
        if draw.stream == Stream.EVALUATE:  # training does not need `row_labels`, and its digest excludes them
            empty = np.empty(0, np.int64)  # data prepared by earlier versions lacks the column
            for sample, row in zip(samples, rows, strict=True):
                sample["row_labels"] = row.get("row_labels", empty).astype(np.int64)
        return samples

    def weight(self, sample: Sample) -> float:
        return _token_batches.weight(sample)

    def zero_weight(self, sample: Sample) -> Sample:
        return _token_batches.zero_weight(sample)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        least = _token_batches.padded_length(
            _token_batches.lengths_of(samples), self.length_multiple, self.facts.longest
        )
        return self._collate(samples, _token_batches.inputs(samples, self.facts.pad_token_id, least), least)

    def _collate(self, samples: Sequence[Sample], batch: Batch, least: int) -> Batch:
        """Return the batch with the labels and words of each token, padded to at least this length."""
        if "row_labels" in samples[0]:
            batch["row_labels"] = _token_batches.pad([s["row_labels"] for s in samples], _NO_WORD)
        batch["labels"] = _token_batches.pad([s["labels"] for s in samples], IGNORE, least).ravel()
        batch["words"] = _token_batches.pad([s["words"] for s in samples], -1, least)
        return batch

    def concatenate(self, samples: Sequence[Sample]) -> Batch:
        return self._collate(samples, _sequences.inputs(samples), 0)

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Return logits of shape (samples * longest, labels)."""
        return _sequences.padded(_token_batches.model_logits(model, batch["inputs"]), batch).flatten(0, 1)

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        return self.loss_from_logits(self.logits(model, batch), batch)

    def loss_from_logits(self, logits: "torch.Tensor", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        return _language_modeling.summed_loss(logits, batch["labels"])

    def predict(self, model: "torch.nn.Module", batch: Batch) -> BatchOutputs:
        """Return outputs for each token: `word`, the number of the word that begins there, `label` and `found`, the
        true and the predicted label; and for each sample its `row_label`, padded."""
        from torch.nn.functional import cross_entropy

        logits, shape = self.logits(model, batch), batch["words"].shape
        labels = batch["labels"].view(shape)
        loss = cross_entropy(logits, batch["labels"], ignore_index=IGNORE, reduction="none")
        return {
            "row_label": batch.get("row_labels", labels.new_empty((shape[0], 0))),
            "loss": loss.double().view(shape).sum(1),
            "weight": (labels != IGNORE).double().sum(1),
            "word": batch["words"],
            "label": labels,
            "found": logits.argmax(-1).view(shape),
        }

    def host_outputs(self, outputs: BatchOutputs) -> BatchOutputs:
        """Return outputs for each sample. `word`: the numbers of the words with a token, in order; `label`, `found`:
        the true and the predicted label of each; `row_label`: the sample's `row_labels`."""
        first = outputs["word"].numpy() >= 0
        by_word = {
            name: [row[mask] for row, mask in zip(outputs[name].numpy(), first, strict=True)]
            for name in ("word", "label", "found")
        }
        row_labels = [row[row != _NO_WORD] for row in outputs["row_label"].numpy()]
        return {**outputs, **by_word, "row_label": row_labels}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Return loss, accuracy, scores over entities, and scores by type (`f1/PER`). Without an entity scheme, the
        scores are means over tags (`macro_f1`) and scores by tag."""
        truth, predicted = self._tags(outputs)
        scores = _tag_metrics.scores(truth, predicted, self.facts.labels)
        accuracy = _tag_metrics.accuracy(truth, predicted)
        metrics = {"loss": _metrics.mean_loss(outputs), "accuracy": accuracy, **scores.total}
        for name in ("precision", "recall", "f1"):
            metrics |= {f"{name}/{label}": one[name] for label, one in scores.classes.items()}
        return metrics

    def directions(self) -> Directions:
        return {"loss": "min", **dict.fromkeys(("accuracy", *_tag_metrics.total_names(self.facts.labels)), "max")}

    def report(self, outputs: Outputs) -> JsonObject:
        return {"classes": _tag_metrics.scores(*self._tags(outputs), self.facts.labels).classes}

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        """Return a tag for each word; null for a word without a token."""
        predictions = []
        for words, found, row_labels in zip(outputs["word"], outputs["found"], outputs["row_label"], strict=True):
            tags: list[str | None] = [None] * max(len(row_labels), int(words.max(initial=-1)) + 1)
            for word, label in zip(words.tolist(), found.tolist(), strict=True):
                tags[word] = self.facts.labels[label]
            predictions.append({"tags": tags})
        return predictions

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        from rich.markup import escape

        tokens = map(escape, tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist()))
        parts = (
            token if label == IGNORE else f"{token} [bold reverse]{escape(self.facts.labels[label])}[/]"
            for token, label in zip(tokens, sample["labels"].tolist(), strict=True)
        )
        return " ".join(parts)

    def _tags(self, outputs: Outputs) -> tuple[list[list[str]], list[list[str]]]:
        """Return the true and predicted tags of the words with a label, by sample. The predicted tag of a word without
        a token is O."""
        names = np.array([*self.facts.labels, "O"])
        truths, predictions = [], []
        columns = (outputs[name] for name in ("label", "found", "word", "row_label"))
        for truth, predicted, words, row_labels in zip(*columns, strict=True):
            if len(row_labels):
                found, truth = predicted, row_labels
                predicted = np.full(len(row_labels), len(names) - 1)
                predicted[words] = found
            truths.append(names[truth[truth != IGNORE]].tolist())
            predictions.append(names[predicted[truth != IGNORE]].tolist())
        return truths, predictions
