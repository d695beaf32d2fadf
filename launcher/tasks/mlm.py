"""Masked language modelling (Devlin et al., 2019): predict the tokens that were masked.

The mask is a function of (seed, epoch, sample id, position): the same sample gets the same mask on whichever rank it
lands, and another one in another epoch. The head runs on the masked positions alone where that is exact.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher.config.errors import Problem, UserError
from launcher.config.types import Plugin
from launcher.contract import random
from launcher.tasks import IGNORE, Batch, Row, Sample, _text

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


class Config(Plugin):
    """`split`: shares of the masked positions that become the mask token, a random token, or stay as they are.
    `samples`: chunks (documents joined and cut at max_length) or documents (each one, truncated)."""

    kind: Literal["mlm"] = "mlm"
    mask_rate: float = Field(0.15, gt=0, lt=1)
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    samples: Literal["chunks", "documents"] = "chunks"

    @field_validator("split")
    @classmethod
    def _shares(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or abs(sum(value) - 1) > 1e-6:
            raise PydanticCustomError("split", "the three shares should be at least 0 and add up to 1")
        return value


class Task:
    columns = ("text",)
    auto_class = "AutoModelForMaskedLM"

    @staticmethod
    def survey(config: Config, rows: Iterable[Row]) -> dict[str, Any]:
        return {}

    @staticmethod
    def features(
        config: Config, rows: Iterable[Row], survey: dict[str, Any], tokenizer: Any, max_length: int, key: str
    ) -> Iterator[pa.Table]:
        if tokenizer.mask_token_id is None:
            raise UserError(Problem("tokenizer", "has no mask token, which masked language modelling needs"))
        vocab = len(tokenizer)
        rows = (row for row in rows if row["text"].strip())  # WikiText is full of empty lines
        if config.samples == "documents":
            for batch in _text.batches(rows):
                yield _text.table([e.ids for e in _text.encode(tokenizer, batch, max_length)], vocab)
            return
        rest = np.empty(0, dtype=np.int64)
        for batch in _text.batches(rows):
            encoded = [np.asarray(e.ids, dtype=np.int64) for e in _text.encode(tokenizer, batch, None)]
            stream = np.concatenate([rest, *encoded])
            whole = len(stream) // max_length
            if whole:
                yield _text.table(list(stream[: whole * max_length].reshape(whole, max_length)), vocab)
            rest = stream[whole * max_length :]
        if len(rest):
            yield _text.table([rest], vocab)

    @staticmethod
    def baseline(config: Config, validation: pa.Table, special_ids: Sequence[int]) -> dict[str, float]:
        """The unigram entropy of the validation text in nats: the loss of always predicting its token frequencies."""
        tokens = validation["input_ids"].combine_chunks().values.to_numpy()
        counts = np.bincount(tokens[~np.isin(tokens, special_ids)])
        shares = counts[counts > 0] / max(1, counts.sum())
        return {"unigram_entropy": float(-(shares * np.log(shares)).sum())}

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts
        self._special = np.zeros(facts.vocab_size, dtype=bool)
        self._special[facts.special_ids] = True
        self._head: Any = None

    def options(self) -> dict[str, Any]:
        return {}

    def outputs(self, length: int) -> float:
        return self.config.mask_rate * length * self.facts.vocab_size

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], seed: int, stream: random.Stream
    ) -> list[Sample]:
        if not rows:
            return []
        lengths = [len(row["input_ids"]) for row in rows]
        tokens = np.concatenate([row["input_ids"] for row in rows]).astype(np.int64)
        where = np.repeat(np.asarray(epochs), lengths), np.repeat(np.asarray(ids), lengths)
        position = np.concatenate([np.arange(n) for n in lengths])
        masked, labels = self._mask(tokens, random.draws(seed, stream, *where, position))
        cuts = np.cumsum(lengths)[:-1]
        return [
            {"input_ids": one, "labels": two}
            for one, two in zip(np.split(masked, cuts), np.split(labels, cuts), strict=True)
        ]

    def _mask(self, tokens: Any, words: tuple[Any, ...]) -> tuple[Any, Any]:
        """Tokens with the mask applied, and the labels, same shape: IGNORE where nothing is to be predicted."""
        chosen = (random.uniform(words[0]) < self.config.mask_rate) & ~self._special[tokens]
        kind = random.uniform(words[1])
        mask_share, random_share, _ = self.config.split
        out = np.where(chosen & (kind < mask_share), self.facts.mask_token_id, tokens)
        swap = chosen & (kind >= mask_share) & (kind < mask_share + random_share)
        out = np.where(swap, random.below(words[2], self.facts.vocab_size), out)
        return out, np.where(chosen, tokens, IGNORE)

    def weight(self, sample: Sample) -> float:
        return float(np.count_nonzero(sample["labels"] != IGNORE))

    def mute(self, sample: Sample) -> Sample:
        return _text.mute(sample)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        batch = _text.inputs(samples, self.facts.pad_token_id)
        labels = _text.pad([s["labels"] for s in samples], IGNORE).ravel()
        places = np.flatnonzero(labels != IGNORE)
        places = places if len(places) else np.zeros(1, dtype=np.int64)  # a head has to see at least one row
        return {**batch, "places": places, "labels": labels[places]}

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        from launcher.tasks import _masked_head

        self._head = _masked_head.attach(model, batch["inputs"], batch["places"])
        if self._head is None:
            return [
                f"{type(model).__name__}: the head runs on all positions (on the masked ones alone it is not exact)"
            ]
        return []

    def _logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Logits of the places to be predicted, shape (n, vocabulary)."""
        if self._head is None:
            logits = model(**batch["inputs"]).logits.flatten(0, 1).index_select(0, batch["places"])
        else:
            self._head.places = batch["places"]
            try:
                logits = model(**batch["inputs"]).logits[0]
            finally:
                self._head.places = None
        return _text.full_precision(logits)

    def loss(self, model: "torch.nn.Module", batch: Batch) -> "tuple[torch.Tensor, float]":
        from torch.nn.functional import cross_entropy

        labels = batch["labels"]
        loss = cross_entropy(self._logits(model, batch), labels, ignore_index=IGNORE, reduction="sum")
        return loss, float((labels != IGNORE).sum())

    def meters(self) -> Any:
        from torchmetrics import MetricCollection

        from launcher.tasks._sum import Sum

        return MetricCollection({name: Sum() for name in ("loss", "weight", "correct")}, compute_groups=False)

    def measure(self, meters: Any, model: "torch.nn.Module", batch: Batch) -> None:
        from torch.nn.functional import cross_entropy

        labels, logits = batch["labels"], self._logits(model, batch)
        meters["loss"].update(cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum"))
        meters["weight"].update((labels != IGNORE).sum())
        meters["correct"].update((logits.argmax(-1) == labels).sum())

    def summary(self, meters: Any) -> dict[str, float]:
        sums = {name: float(value) for name, value in meters.compute().items()}
        weight = max(1.0, sums["weight"])
        loss = sums["loss"] / weight
        return {"loss": loss, "perplexity": float(np.exp(min(loss, 700.0))), "accuracy": sums["correct"] / weight}

    def show(self, sample: Sample, tokenizer: Any) -> str:
        """Each masked position as was→is."""
        from rich.markup import escape

        out = []
        for token, label in zip(sample["input_ids"].tolist(), sample["labels"].tolist(), strict=True):
            text = escape(tokenizer.convert_ids_to_tokens(token))
            if label != IGNORE:
                was = escape(tokenizer.convert_ids_to_tokens(label))
                text = f"[bold reverse]{was}→{text}[/]"
            out.append(text)
        return " ".join(out)
