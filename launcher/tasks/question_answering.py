"""Extractive question answering (Rajpurkar et al., 2016): the piece of a context that answers a question.

A long context is read in windows. Which of them holds the answer, if any does, is told by the sum of the scores of its
first and its last token, beside that of the first token of the sample (Devlin et al., 2019).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from launcher import tasks
from launcher.config.types import TaskConfig
from launcher.contract import random
from launcher.tasks import (
    IGNORE,
    Batch,
    Directions,
    Features,
    Outputs,
    Row,
    Sample,
    _exact_sums,
    _question_windows,
    _squad_metrics,
    _token_batches,
)

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder

_NONE = -1e30
"""The score of an answer where there is no token to choose."""


class Config(TaskConfig):
    """The answer to a question as a span of its context."""

    kind: Literal["question_answering"] = "question_answering"
    stride: int | None = Field(None, ge=0)
    """Tokens that neighbouring windows of a context share. Default: a quarter of max_length, or half of what a question
    leaves."""
    max_answer_length: int = Field(30, gt=0)
    """Maximum number of tokens of an answer."""
    n_best: int = Field(20, gt=0)
    """Number of first and last tokens that are combined."""
    no_answer: bool = False
    """A question may have no answer (SQuAD 2)."""

    @property
    def overlap(self) -> int:
        return self.stride or 0


class Task(tasks.Task):
    """A sample is a window: `labels` are the first and the last token of the answer, `spans` the characters of `text`
    that each token stands for; `text` and `answers` (-1 after each) as numbers of characters; `example` tells the
    windows of one question."""

    columns = ("question", "context", "answers")
    targets = ("answers",)
    surveyed = ()
    tokenized = True
    auto_class = "AutoModelForQuestionAnswering"

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "question_answering", "stride": config.stride}

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        done = 0
        for batch in rows:
            yield _question_windows.features(batch, done, encoder, length, config.stride)
            done += batch.num_rows

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """The exact matches of never answering."""
        pairs = (zip(table["example"].to_pylist(), table["answers"].to_pylist(), strict=True) for table in validation)
        none = {example: not answers for of_table in pairs for example, answers in of_table}
        return {"unanswered": sum(none.values()) / len(none)}

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts

    def options(self) -> dict[str, Any]:
        return {}

    def outputs(self, length: int) -> float:
        return 2.0 * length

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        return [
            {name: row[name].astype(np.int64) for name in ("input_ids", "token_type_ids") if name in row}
            | {
                "labels": np.array([row["start"], row["end"]], dtype=np.int64),
                "spans": np.asarray(row["spans"], dtype=np.int64).reshape(-1, 2),
                "text": _characters([str(row["text"])], end=[]),
                "answers": _characters(map(str, row["answers"]), end=[-1]),
                "example": np.array([row["example"]], dtype=np.int64),
            }
            for row in rows
        ]

    def weight(self, sample: Sample) -> float:
        return float(sample["labels"][0] != IGNORE)

    def zero_weight(self, sample: Sample) -> Sample:
        return _token_batches.zero_weight(sample)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        spans = [_token_batches.pad([s["spans"][:, side] for s in samples], -1) for side in (0, 1)]
        return {
            **_token_batches.inputs(samples, self.facts.pad_token_id),
            "labels": np.stack([s["labels"] for s in samples]),
            "lengths": np.array([len(s["input_ids"]) for s in samples]),
            "spans": np.stack(spans, axis=2),
            "text": _token_batches.pad([s["text"] for s in samples], -1),
            "answers": _token_batches.pad([s["answers"] for s in samples], -2),
            "example": np.concatenate([s["example"] for s in samples]),
        }

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        return []

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        losses = self._losses(self._scores(model, batch), batch["labels"])
        return losses.sum(), float((batch["labels"][:, 0] != IGNORE).sum())

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        """The best answer of each window with its score, and the score of there being none."""
        scores = self._scores(model, batch)
        first, last = (side.double().cpu().numpy() for side in scores)
        spans, text, answers = (batch[name].cpu().numpy() for name in ("spans", "text", "answers"))
        found = [self._best(*one) for one in zip(first, last, spans, text, strict=True)]
        return {
            "loss": self._losses(scores, batch["labels"]),
            "weight": (batch["labels"][:, 0] != IGNORE).double(),
            "example": batch["example"],
            "answer": [one.text for one in found],
            "score": [one.score for one in found],
            "none": (first[:, 0] + last[:, 0]).tolist(),
            "truth": [_texts(row) for row in answers],
        }

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Of questions, from 0 to 1, as SQuAD's evaluation defines them."""
        weights = outputs["weight"]
        asked: dict[int, list[int]] = {}
        for place, (example, weight) in enumerate(zip(outputs["example"], weights, strict=True)):
            if weight:
                asked.setdefault(int(example), []).append(place)
        told = self._windows(outputs)
        pairs = [(outputs["truth"][p[0]], self.joined([told[n] for n in p])["answer"]) for p in asked.values()]
        scores = {
            name: [_squad_metrics.best(score, truth, found) for truth, found in pairs]
            for name, score in (("exact_match", _squad_metrics.exact), ("f1", _squad_metrics.f1))
        }
        return {"loss": _exact_sums.mean_loss(outputs)} | {
            name: float(np.mean(sorted(values))) if values else 0.0 for name, values in scores.items()
        }

    def directions(self) -> Directions:
        return {"loss": "min", "exact_match": "max", "f1": "max"}

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """The best answer of each window, even where there may be none; `joined` makes one of those of a question."""
        return self._windows(outputs)

    def joined(self, told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The answer of a question from what is told of its windows: the best of any, or none, as empty text, where
        that is allowed and every window says so with a better score."""
        best = max(told, key=lambda one: one["score"])
        none = min(one["no_answer_score"] for one in told)
        answer = "" if self.config.no_answer and none > best["score"] else best["answer"]
        return {"answer": answer, "score": best["score"], "no_answer_score": none}

    def show(self, sample: Sample, tokenizer: Any) -> str:
        from rich.markup import escape

        first, last = sample["labels"].tolist()
        names = map(escape, tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist()))
        return " ".join(f"[bold reverse]{t}[/]" if 0 < first <= n <= last else t for n, t in enumerate(names))

    def _windows(self, outputs: Outputs) -> list[dict[str, Any]]:
        rows = zip(outputs["answer"], outputs["score"], outputs["none"], strict=True)
        return [{"answer": text, "score": float(score), "no_answer_score": float(none)} for text, score, none in rows]

    def _scores(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        """Of each token as the first and as the last of the answer, shape (samples, longest). Padding is out of the
        choice, or the loss would know what a sample is padded with."""
        import torch

        made = model(**batch["inputs"])
        lengths = batch["lengths"][:, None]
        padding = torch.arange(batch["inputs"]["input_ids"].shape[1], device=lengths.device) >= lengths
        first, last = (
            _token_batches.full_precision(one).masked_fill(padding, _NONE)
            for one in (made.start_logits, made.end_logits)
        )
        return first, last

    def _losses(self, scores: "tuple[torch.Tensor, torch.Tensor]", labels: "torch.Tensor") -> "torch.Tensor":
        """Of each sample the mean of that of the first and that of the last token; 0 where the answer is not known."""
        from torch.nn.functional import cross_entropy

        first, last = (
            cross_entropy(score, labels[:, side], ignore_index=IGNORE, reduction="none")
            for side, score in enumerate(scores)
        )
        return (first + last) / 2

    def _best(self, first: NDArray[Any], last: NDArray[Any], spans: NDArray[Any], text: NDArray[Any]) -> "_Answer":
        """The answer of the highest score among the likeliest first and last tokens."""
        there = np.flatnonzero(spans[:, 0] >= 0)
        begins, ends = (there[np.argsort(-side[there], kind="stable")[: self.config.n_best]] for side in (first, last))
        size = ends[None, :] - begins[:, None]
        allowed = (size >= 0) & (size < self.config.max_answer_length)
        if not allowed.any():
            return _Answer("", _NONE)
        total = np.where(allowed, first[begins][:, None] + last[ends][None, :], -np.inf)
        one, other = np.unravel_index(total.argmax(), total.shape)
        piece = text[spans[begins[one], 0] : spans[ends[other], 1]]
        return _Answer("".join(map(chr, piece)), float(total[one, other]))


class _Answer(NamedTuple):
    text: str
    score: float


def _characters(texts: Iterable[str], end: list[int]) -> NDArray[np.int64]:
    """Texts as the numbers of their characters."""
    return np.array([number for text in texts for number in [*map(ord, text), *end]], dtype=np.int64)


def _texts(numbers: NDArray[np.int64]) -> list[str]:
    """The texts of numbers, of which -1 stands after each."""
    ends = np.flatnonzero(numbers == -1)
    return ["".join(map(chr, one[one >= 0])) for one in np.split(numbers, ends + 1)[:-1]]
