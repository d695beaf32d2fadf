"""Token classification: a label for each word, such as the names of persons and places in it.

A word's label stands at the first of its tokens. Where labels follow an entity scheme (IOB, IOE, BIOES, BILOU, BMES),
entities are scored, as conlleval does: seqeval in its default mode, which reads an I- after nothing as a beginning. A
word without a token, as beyond max_length, counts as predicted O.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.config.errors import Problem, UserError
from launcher.config.types import TaskConfig
from launcher.contract import random
from launcher.prepare.token_arrays import TokenArrays
from launcher.tasks import (
    IGNORE,
    Batch,
    Directions,
    Features,
    Outputs,
    Row,
    Sample,
    _exact_sums,
    _label_checks,
    _language_modeling,
    _single_label,
    _tag_metrics,
    _token_batches,
)

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder


_NO_WORD = -1
"""Pads `row_labels`."""


class Config(TaskConfig):
    """A label for each word."""

    kind: Literal["token_classification"] = "token_classification"
    label_all: bool = False
    """Train on all tokens of a word, with I- in place of B- after the first. Metrics use the first token only."""


class Task(_language_modeling.TokenClasses):
    """`labels` of a sample: at each token a label, or IGNORE; `words`: at the first token of a word its number in the
    row, from 0, else -1. `row_labels`, in an evaluation: the label of every word of a row in which a word has no token
    (as beyond the cut), else empty."""

    columns = ("words", "labels")
    targets = ("labels",)
    surveyed = ("labels",)
    tokenized = True
    auto_class = "AutoModelForTokenClassification"

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "token_classification", "label_all": config.label_all}

    @staticmethod
    def survey(config: Config, values: Mapping[str, set[str]]) -> dict[str, Any]:
        """O comes first."""
        found = values["labels"]
        if len(found) < 2:
            what = f"{len(found)} label in the training data: a classifier needs two or more"
            raise UserError(Problem("data.train.labels", what))
        _label_checks.check(found, "data.train.labels")
        return {"labels": sorted(found, key=lambda label: (label != "O", label))}

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        for batch in rows:
            yield _features(batch, survey["labels"], encoder, length, key, config.label_all)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """The accuracy of always naming the most frequent label."""
        counts = Counter[int]()
        for table in validation:
            labels, words = (table[name].combine_chunks().flatten().to_numpy() for name in ("labels", "words"))
            counts.update(labels[(words >= 0) & (labels != IGNORE)].tolist())
        return {"majority_class": max(counts.values(), default=0) / max(1, counts.total())}

    @staticmethod
    def check(config: Config, facts: "Facts", folder: Path) -> None:
        _label_checks.check_prepared(facts.labels, "data.train.labels", folder)

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts

    @staticmethod
    def describe_labels(config: Config, facts: "Facts") -> str:
        known, tags = _tag_metrics.scheme(facts.labels), f"{len(facts.labels)} tags"
        if known is None:
            return f"{tags} of no entity scheme: macro_f1 is the mean over tags"
        return f"{tags}, read as {known.name}: f1 is over entities ({', '.join(known.types)})"

    def options(self) -> dict[str, Any]:
        return _single_label.options(self.facts.labels)

    def outputs(self, length: int) -> float:
        return float(length * len(self.facts.labels))

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        names = ("input_ids", "labels", "words")
        made = [{name: row[name].astype(np.int64) for name in names} for row in rows]
        if draw is None or draw.stream != random.Stream.EVALUATE:  # no part of what training sees, nor of its digest
            return made
        nothing = np.empty(0, np.int64)  # folders of earlier versions do not have them
        return [
            {**one, "row_labels": row.get("row_labels", nothing).astype(np.int64)}
            for one, row in zip(made, rows, strict=True)
        ]

    def weight(self, sample: Sample) -> float:
        return float(np.count_nonzero(sample["labels"] != IGNORE))

    def zero_weight(self, sample: Sample) -> Sample:
        return _token_batches.zero_weight(sample)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        more = {}
        if "row_labels" in samples[0]:
            more["row_labels"] = _token_batches.pad([s["row_labels"] for s in samples], _NO_WORD)
        return {
            **_token_batches.inputs(samples, self.facts.pad_token_id),
            **more,
            "labels": _token_batches.pad([s["labels"] for s in samples], IGNORE).ravel(),
            "words": _token_batches.pad([s["words"] for s in samples], -1),
        }

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        return []

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Shape (tokens of all samples, labels)."""
        return _token_batches.full_precision(_token_batches.logits_of(model(**batch["inputs"])).flatten(0, 1))

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        """`word`: the numbers of the words that have a token, in order, with the label of each and the one found;
        `row_label`: as `row_labels` of the samples."""
        from torch.nn.functional import cross_entropy

        logits, shape = self.logits(model, batch), batch["words"].shape
        labels = batch["labels"].view(shape)
        loss = cross_entropy(logits, batch["labels"], ignore_index=IGNORE, reduction="none")
        values = {"word": batch["words"], "label": labels, "found": logits.argmax(-1).view(shape)}
        arrays = {name: value.cpu().numpy() for name, value in values.items()}
        first = arrays["word"] >= 0
        rows = batch.get("row_labels")
        whole = np.empty((shape[0], 0), np.int64) if rows is None else rows.cpu().numpy()
        return {
            "row_label": [row[row != _NO_WORD] for row in whole],
            "loss": loss.double().view(shape).sum(1),
            "weight": (labels != IGNORE).double().sum(1),
            **{name: [row[here] for row, here in zip(rows, first, strict=True)] for name, rows in arrays.items()},
        }

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Of entities over all of them, and by type (`f1/PER`); of tags of no entity scheme means over the tags
        (`macro_f1`), and by tag."""
        truth, found = self._tags(outputs)
        scores = _tag_metrics.scores(truth, found, self.facts.labels)
        out = {"loss": _exact_sums.mean_loss(outputs), "accuracy": _tag_metrics.accuracy(truth, found), **scores.total}
        for name in ("precision", "recall", "f1"):
            out |= {f"{name}/{label}": one[name] for label, one in scores.classes.items()}
        return out

    def directions(self) -> Directions:
        return {"loss": "min", **dict.fromkeys(("accuracy", *_tag_metrics.total_names(self.facts.labels)), "max")}

    def report(self, outputs: Outputs) -> dict[str, Any]:
        return {"classes": _tag_metrics.scores(*self._tags(outputs), self.facts.labels).classes}

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """A tag for each word: null for one without a token, as beyond the cut."""
        told = []
        for words, found, whole in zip(outputs["word"], outputs["found"], outputs["row_label"], strict=True):
            tags: list[str | None] = [None] * max(len(whole), int(words.max(initial=-1)) + 1)
            for word, label in zip(words.tolist(), found.tolist(), strict=True):
                tags[word] = self.facts.labels[label]
            told.append({"tags": tags})
        return told

    def show(self, sample: Sample, tokenizer: Any) -> str:
        from rich.markup import escape

        names = tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist())
        labels = sample["labels"].tolist()
        shown = (
            escape(name) if label == IGNORE else f"{escape(name)} [bold reverse]{escape(self.facts.labels[label])}[/]"
            for name, label in zip(names, labels, strict=True)
        )
        return " ".join(shown)

    def _tags(self, outputs: Outputs) -> tuple[list[list[str]], list[list[str]]]:
        """True and found tags of the words that have a label, by sample; found O where a word has no token."""
        names = np.array([*self.facts.labels, "O"])
        truths, answers = [], []
        every = (outputs[name] for name in ("label", "found", "word", "row_label"))
        for label, found, words, whole in zip(*every, strict=True):
            truth, answer = label, found
            if len(whole):
                truth, answer = whole, np.full(len(whole), len(names) - 1)
                answer[words] = found
            truths.append(names[truth[truth != IGNORE]].tolist())
            answers.append(names[answer[truth != IGNORE]].tolist())
        return truths, answers


def _features(
    batch: pa.RecordBatch, labels: Sequence[str], encoder: "Encoder", length: int, key: str, label_all: bool
) -> Features:
    """Rows as token ids with labels, truncated; without those that have no token."""
    words = batch.column("words")
    encoded, numbers = encoder.words(words)
    there = encoded.lengths > 0
    room = length - len(encoder.prefix) - len(encoder.suffix)
    long = encoded.lengths > room
    of_words = TokenArrays(
        numbers.astype(np.uint32), encoded.offsets, encoded.begins
    )  # cut and surrounded as tokens are
    around = [np.zeros_like(tokens) for tokens in (encoder.prefix, encoder.suffix)]
    encoded = encoded.select(there).truncated(room).between(encoder.prefix, encoder.suffix)
    of_words = of_words.select(there).truncated(room).between(*around)
    number = of_words.ids.astype(np.int64) - 1
    begins = np.diff(number, prepend=-1) != 0
    begins[of_words.offsets[:-1]] = True
    begins &= number >= 0
    label = np.full(len(number), IGNORE, dtype=np.int64)
    counts = words.value_lengths().to_numpy().astype(np.int64)
    known = np.full(counts.sum(), IGNORE, dtype=np.int64)
    if "labels" in batch.schema.names:
        starts = np.concatenate([[0], np.cumsum(counts)])[:-1][there]
        place = np.repeat(starts, of_words.lengths) + number
        known = _single_label.indices(batch.column("labels").flatten(), labels, f"{key}.labels").to_numpy()
        label[begins] = known[place[begins]]
        if label_all:
            rest = ~begins & (number >= 0)
            of_word = known[place[rest]]
            label[rest] = np.where(of_word == IGNORE, IGNORE, _inside(labels)[np.maximum(of_word, 0)])
    columns = {"labels": label, "words": np.where(begins, number, -1)}
    lists = {name: _token_batches.lists(encoded, pa.array(values.astype(np.int32))) for name, values in columns.items()}
    last, seen = np.zeros((2, len(counts)), np.int64)
    if len(number):
        last[there] = np.maximum.reduceat(number + 1, of_words.offsets[:-1])
        seen[there] = np.add.reduceat(begins.astype(np.int64), of_words.offsets[:-1])
    lists["row_labels"] = _row_labels(known, counts, there, seen[there])
    table = _token_batches.table(encoded, encoder.vocab_size, **lists)
    return Features(table, int(np.count_nonzero(~there)), _cut(known, counts, long, last, labels))


def _row_labels(
    known: NDArray[np.int64], counts: NDArray[np.int64], there: NDArray[np.bool_], seen: NDArray[np.int64]
) -> pa.Array:
    """Of each row with a token the labels of all words where fewer were `seen`, else nothing; lists of int32. `known`:
    the labels of all rows' words, of which each row has `counts`."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = TokenArrays(known.astype(np.uint32), offsets, np.ones(len(known), np.bool_)).select(there)
    kept = rows.slices(rows.offsets[:-1], np.where(seen < rows.lengths, rows.offsets[1:], rows.offsets[:-1]))
    return _token_batches.lists(kept, pa.array(kept.ids.astype(np.int32)))


def _cut(
    known: NDArray[np.int64],
    counts: NDArray[np.int64],
    long: NDArray[np.bool_],
    last: NDArray[np.int64],
    labels: Sequence[str],
) -> dict[str, NDArray[np.int64]]:
    """Of each row whether it is cut, its words after the `last` that is seen, and their labels other than O."""
    row = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(known)) - np.repeat(np.cumsum(counts) - counts, counts)
    beyond = long[row] & (number >= last[row])
    named = beyond & (known != IGNORE) & (known != (labels.index("O") if "O" in labels else IGNORE))
    return {
        "rows": long.astype(np.int64),
        "words": np.bincount(row[beyond], minlength=len(counts)),
        "labels": np.bincount(row[named], minlength=len(counts)),
    }


def _inside(labels: Sequence[str]) -> NDArray[np.int64]:
    """The label of a word's further tokens: of B-PER I-PER, where there is one."""
    inside = [f"I-{label[2:]}" if label.startswith("B-") else label for label in labels]
    return np.array([labels.index(one if one in labels else own) for one, own in zip(inside, labels, strict=True)])
