"""Extractive question answering (Rajpurkar et al., 2016): find the span of a context that answers a question.

A long context is divided into windows. The score of an answer is the sum of the scores of its first and last token. The
score of no answer in a window is this sum for the window's first token (Devlin et al., 2019).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from launcher import tasks
from launcher.config.types import TaskConfig
from launcher.contract.random import Draw
from launcher.tasks import (
    IGNORE,
    Array,
    Batch,
    BatchOutputs,
    Directions,
    FeatureContext,
    Features,
    JsonObject,
    Outputs,
    Row,
    Sample,
    _metrics,
    _question_windows,
    _sequences,
    _token_batches,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_NO_SCORE = -1e30
"""Score of padding, and of the answer in a window without an allowed one."""


class Config(TaskConfig):
    """The answer to a question as a span of its context."""

    kind: Literal["question_answering"] = "question_answering"
    stride: int | None = Field(None, ge=0)
    """Tokens that consecutive windows of a context share. Default: a quarter of max_length, but at most half of the
    tokens that the question leaves."""
    max_answer_length: int = Field(30, gt=0)
    """Maximum number of tokens of an answer."""
    n_best: int = Field(20, gt=0)
    """Number of best first tokens, and of best last tokens, that are combined to answers."""
    no_answer: bool = False
    """A question may have no answer (SQuAD 2)."""

    @property
    def overlap(self) -> int:
        return self.stride or 0


class Task(tasks.Task[Config]):
    """A sample is a window of a question and a part of its context.

    `labels`: first and last token of the answer. `spans`: begin and end of each token in `text`, in characters. `text`,
    `answers`: character codes; each answer is followed by -1. `example`: a number that the windows of one question
    share.
    """

    columns = ("question", "context", "answers")
    target_columns = ("answers",)
    auto_class = "AutoModelForQuestionAnswering"
    padding_free = True

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return {"features": "question_answering", "stride": config.stride}

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        first = 0
        for batch in rows:
            yield _question_windows.features(batch, first, context.encoder, context.max_length, config.stride)
            first += batch.num_rows

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        """Return the exact match of never answering: the share of questions without an answer."""
        unanswered = dict[int, bool]()
        for table in validation:
            pairs = zip(table["example"].to_pylist(), table["answers"].to_pylist(), strict=True)
            unanswered |= {example: not answers for example, answers in pairs}
        return {"unanswered": sum(unanswered.values()) / len(unanswered)}

    def output_size(self, length: int) -> float:
        return 2.0 * length

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        return [
            _token_batches.row_inputs(row)
            | {
                "labels": np.array([row["start"], row["end"]], dtype=np.int64),
                "spans": np.asarray(row["spans"], dtype=np.int64).reshape(-1, 2),
                "text": _codes([str(row["text"])], end=[]),
                "answers": _codes(map(str, row["answers"]), end=[-1]),
                "example": np.array([row["example"]], dtype=np.int64),
            }
            for row in rows
        ]

    def weight(self, sample: Sample) -> float:
        return float(sample["labels"][0] != IGNORE)

    def zero_weight(self, sample: Sample) -> Sample:
        return _token_batches.zero_weight(sample)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        lengths = _token_batches.lengths_of(samples)
        least = _token_batches.padded_length(lengths, self.length_multiple, self.facts.longest)
        spans = [_token_batches.pad([s["spans"][:, side] for s in samples], -1) for side in (0, 1)]
        return {
            **_token_batches.inputs(samples, self.facts.pad_token_id, least),
            "labels": np.stack([s["labels"] for s in samples]),
            "lengths": lengths,
            "spans": np.stack(spans, axis=2),
            "text": _token_batches.pad([s["text"] for s in samples], -1),
            "answers": _token_batches.pad([s["answers"] for s in samples], -2),
            "example": np.concatenate([s["example"] for s in samples]),
        }

    def concatenate(self, samples: Sequence[Sample]) -> Batch:
        return self.collate(samples) | _sequences.inputs(samples)

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
        losses = _losses(_scores(model, batch), batch["labels"])
        return losses.sum(), (batch["labels"][:, 0] != IGNORE).sum()

    def predict(self, model: "torch.nn.Module", batch: Batch) -> BatchOutputs:
        """Return the scores of each token as first and as last of the answer, and what is needed to read answers."""
        scores = _scores(model, batch)
        return {
            "loss": _losses(scores, batch["labels"]),
            "weight": (batch["labels"][:, 0] != IGNORE).double(),
            "first": scores[0].double(),
            "last": scores[1].double(),
            **{name: batch[name] for name in ("example", "spans", "text", "answers")},
        }

    def host_outputs(self, outputs: BatchOutputs) -> BatchOutputs:
        """Return the best answer of each window with its score, and the score of no answer."""
        names = ("first", "last", "spans", "text", "answers")
        first, last, spans, text, answers = (outputs[name].numpy() for name in names)
        best = [self._best_answer(*window) for window in zip(first, last, spans, text, strict=True)]
        return {
            **{name: outputs[name] for name in ("loss", "weight", "example")},
            "answer": [answer for answer, _ in best],
            "score": [score for _, score in best],
            "none": (first[:, 0] + last[:, 0]).tolist(),
            "truth": [_texts(row) for row in answers],
        }

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        """Return the loss, and SQuAD's metrics over questions, from 0 to 1."""
        windows = dict[int, list[int]]()  # by question, only those whose answer is known
        for n, (example, weight) in enumerate(zip(outputs["example"], outputs["weight"], strict=True)):
            if weight:
                windows.setdefault(int(example), []).append(n)
        predictions = _window_predictions(outputs)
        pairs = [
            (outputs["truth"][of_question[0]], self.merge_predictions([predictions[n] for n in of_question])["answer"])
            for of_question in windows.values()
        ]
        metrics = {"loss": _metrics.mean_loss(outputs)}
        for name, score in (("exact_match", _metrics.squad_exact_match), ("f1", _metrics.squad_f1)):
            values = sorted(_metrics.squad_best(score, truths, answer) for truths, answer in pairs)
            metrics[name] = float(np.mean(values)) if values else 0.0
        return metrics

    def directions(self) -> Directions:
        return {"loss": "min", "exact_match": "max", "f1": "max"}

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        """Return the best answer of each window, even if the question may have none."""
        return _window_predictions(outputs)

    def merge_predictions(self, predictions: Sequence[JsonObject]) -> JsonObject:
        """Return the best answer of a question's windows. With `no_answer`, the answer is the empty text if every
        window scores no answer higher than the best answer."""
        best = max(predictions, key=lambda one: one["score"])
        none = min(one["no_answer_score"] for one in predictions)
        answer = "" if self.config.no_answer and none > best["score"] else best["answer"]
        return {"answer": answer, "score": best["score"], "no_answer_score": none}

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        from rich.markup import escape

        first, last = sample["labels"].tolist()
        tokens = map(escape, tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist()))
        return " ".join(f"[bold reverse]{t}[/]" if 0 < first <= n <= last else t for n, t in enumerate(tokens))

    def _best_answer(self, first: Array, last: Array, spans: Array, text: Array) -> tuple[str, float]:
        """Return the answer with the highest score, and the score; an empty text and _NO_SCORE if no answer is allowed.
        first, last: scores of a window's tokens."""
        context = np.flatnonzero(spans[:, 0] >= 0)
        begins, ends = (
            context[np.argsort(-side[context], kind="stable")[: self.config.n_best]] for side in (first, last)
        )
        size = ends[None, :] - begins[:, None]
        allowed = (size >= 0) & (size < self.config.max_answer_length)
        if not allowed.any():
            return "", _NO_SCORE
        total = np.where(allowed, first[begins][:, None] + last[ends][None, :], -np.inf)
        begin, end = np.unravel_index(total.argmax(), total.shape)
        codes = text[spans[begins[begin], 0] : spans[ends[end], 1]]
        return "".join(map(chr, codes)), float(total[begin, end])


def _window_predictions(outputs: Outputs) -> list[JsonObject]:
    rows = zip(outputs["answer"], outputs["score"], outputs["none"], strict=True)
    return [{"answer": text, "score": float(score), "no_answer_score": float(none)} for text, score, none in rows]


def _scores(model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the scores of each token as first and as last token of the answer, each of shape (samples, longest).
    Padding has the score _NO_SCORE, so that it does not influence the loss."""
    import torch

    output = model(**batch["inputs"])
    lengths = batch["lengths"][:, None]
    first, last = (_sequences.padded(one, batch) for one in (output.start_logits, output.end_logits))
    padding = torch.arange(first.shape[1], device=lengths.device) >= lengths
    first, last = (_token_batches.full_precision(one).masked_fill(padding, _NO_SCORE) for one in (first, last))
    return first, last


def _losses(scores: "tuple[torch.Tensor, torch.Tensor]", labels: "torch.Tensor") -> "torch.Tensor":
    """Return for each sample the mean of the losses of the first and the last token; 0 if the answer is not known."""
    from torch.nn.functional import cross_entropy

    first, last = (
        cross_entropy(score, labels[:, side], ignore_index=IGNORE, reduction="none")
        for side, score in enumerate(scores)
    )
    return (first + last) / 2


def _codes(texts: Iterable[str], end: list[int]) -> NDArray[np.int64]:
    """Return the character codes of texts, each followed by `end`."""
    return np.array([code for text in texts for code in [*map(ord, text), *end]], dtype=np.int64)


def _texts(codes: NDArray[np.int64]) -> list[str]:
    """Return the texts of character codes. Each text is followed by -1; the rest is padding."""
    ends = np.flatnonzero(codes == -1)
    return ["".join(map(chr, one[one >= 0])) for one in np.split(codes, ends + 1)[:-1]]
