"""What language models share: the loss of predicted tokens, summed, and its metrics."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from launcher.tasks import IGNORE, Batch, Directions, Outputs, Task

if TYPE_CHECKING:
    import torch


def unigram_entropy(columns: Iterable[pa.ChunkedArray], special_ids: Sequence[int]) -> float:
    """The entropy in nats of the frequencies of tokens, in lists: the loss of always predicting those."""
    counts = np.zeros(0, dtype=np.int64)
    for column in columns:
        for chunk in column.chunks:
            tokens = chunk.flatten().to_numpy()
            more = np.bincount(tokens[tokens != IGNORE], minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
    counts[[i for i in special_ids if i < len(counts)]] = 0
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum())


class TokenClasses(Task):
    """One of several classes for each of the n labels of `batch["labels"]`: a task gives `logits(model, batch)`, of
    shape (n, classes)."""

    distillable = True

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        return self.loss_of(self.logits(model, batch), batch)

    def loss_of(self, logits: "torch.Tensor", batch: Batch) -> "tuple[torch.Tensor, float]":
        from torch.nn.functional import cross_entropy

        labels = batch["labels"]
        loss = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        return loss, float((labels != IGNORE).sum())


class LanguageModeling(TokenClasses):
    """Classes are the vocabulary; `batch["rows"]` tells the sample of each label."""

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        import torch
        from torch.nn.functional import cross_entropy

        labels, logits = batch["labels"], self.logits(model, batch)
        found = {
            "loss": cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none"),
            "weight": labels != IGNORE,
            "correct": logits.argmax(-1) == labels,
        }
        nothing = torch.zeros(len(batch["inputs"]["input_ids"]), dtype=torch.float64, device=labels.device)
        return {name: nothing.index_add(0, batch["rows"], each.double()) for name, each in found.items()}

    def metrics(self, outputs: Outputs) -> dict[str, float]:
        sums = {name: math.fsum(outputs[name]) for name in ("loss", "weight", "correct")}
        weight = max(1.0, sums["weight"])
        loss = sums["loss"] / weight
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": sums["correct"] / weight}

    def directions(self) -> Directions:
        return {"loss": "min", "perplexity": "min", "accuracy": "max"}

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """The mean loss of the tokens that were to be predicted."""
        pairs = zip(outputs["loss"], outputs["weight"], strict=True)
        return [{"loss": loss / max(1.0, weight), "tokens": int(weight)} for loss, weight in pairs]
