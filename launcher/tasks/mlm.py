"""Masked language modelling (Devlin et al., 2019): predict the tokens that were masked.

The mask is a function of (seed, epoch, sample id, position), and of the step alone where its rate has a schedule: the
same sample gets the same mask on whichever rank it lands, and another one in another epoch. The head runs on the masked
positions alone where that is exact.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher.config.errors import Problem, UserError
from launcher.config.types import Strict
from launcher.contract import random
from launcher.tasks import IGNORE, Batch, Row, Sample, _masking, _pretraining, _token_batches

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts

_ATTEMPTS = 2**31
"""Positions from here on are no tokens but attempts to place a span."""

Share = Annotated[float, Field(gt=0, lt=1)]


class RateSchedule(Strict):
    """A mask rate that changes linearly over the run (as in Ankner et al., 2024). Evaluations mask at `end`."""

    start: Share
    """Rate at the first step."""
    end: Share
    """Rate after the last step."""


class Span(Strict):
    """Lengths of masked spans in words, from a geometric distribution (Joshi et al., 2020)."""

    p: float = Field(0.2, gt=0, lt=1)
    """Parameter of the geometric distribution."""
    longest: int = Field(10, ge=1)
    """Maximum length in words."""


class Config(_pretraining.PretrainingConfig):
    """Masked language modeling."""

    kind: Literal["mlm"] = "mlm"
    mask: Literal["tokens", "words", "spans"] = "tokens"
    """Unit of selection: tokens, whole words, or spans of whole words."""
    mask_rate: Share | RateSchedule = 0.15
    """Share of the tokens that is selected, or a schedule with `start` and `end`."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the selected tokens that become the mask token, become a random token, or stay. Spans are treated as
    wholes."""
    span: Span = Span()
    """Lengths of spans, for `mask: spans`."""
    never: list[str] = []
    """Tokens of the vocabulary that are never selected."""

    @field_validator("split")
    @classmethod
    def _shares(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or abs(sum(value) - 1) > 1e-6:
            raise PydanticCustomError("split", "the three shares should be at least 0 and add up to 1")
        return value

    def rate(self, progress: float) -> float:
        """The mask rate when this part of the run's steps is done."""
        if not isinstance(self.mask_rate, RateSchedule):
            return self.mask_rate
        return self.mask_rate.start + (self.mask_rate.end - self.mask_rate.start) * progress


class Task(_pretraining.Pretraining):
    auto_class = "AutoModelForMaskedLM"

    @staticmethod
    def tokens(config: Config) -> Sequence[str]:
        return config.never

    def __init__(self, config: Config, facts: "Facts"):
        if facts.mask_token_id is None:
            raise UserError(Problem("tokenizer", "has no mask token, which masked language modelling needs"))
        self.config, self.facts = config, facts
        never = [facts.token_ids[name] for name in config.never if name in facts.token_ids]
        self._protected = _masking.protected(facts.vocab_size, [*facts.special_ids, *never])
        self._head: Any = None

    def options(self) -> dict[str, Any]:
        return {}

    def outputs(self, length: int) -> float:
        return float(max(self.config.rate(0), self.config.rate(1)) * length * self.facts.vocab_size)

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        if not rows:
            return []
        lengths = [len(row["input_ids"]) for row in rows]
        tokens = np.concatenate([row["input_ids"] for row in rows]).astype(np.int64)
        begins = np.concatenate([row["begins"] for row in rows])
        cuts = np.cumsum(lengths)[:-1]
        begins[np.concatenate([[0], cuts])] = True  # a chunk may begin in the middle of a word
        where = np.repeat(np.asarray(epochs), lengths), np.repeat(np.asarray(ids), lengths)
        position = np.concatenate([np.arange(n) for n in lengths])
        words = random.draws(draw.seed, draw.stream, *where, position)
        kind, rate = random.uniform(words[1]), self.config.rate(draw.progress)
        if self.config.mask == "spans":
            draws = random.draws(draw.seed, draw.stream, *where, position + _ATTEMPTS)
            chosen, owner = self._spans(draws, begins, tokens, cuts, rate)
            kind = kind[owner]
        elif self.config.mask == "words":
            chosen = _masking.whole_words(words[0], begins, rate)
        else:
            chosen = _masking.tokens(words[0], rate)
        masked, labels = self._mask(tokens, chosen & ~self._protected[tokens], kind, words[2])
        return [
            {"input_ids": one, "labels": two}
            for one, two in zip(np.split(masked, cuts), np.split(labels, cuts), strict=True)
        ]

    def _spans(self, draws: tuple[Any, ...], begins: Any, tokens: Any, cuts: Any, rate: float) -> tuple[Any, Any]:
        """Spans in each sample; positions count through all of them."""
        free, span = ~self._protected[tokens], self.config.span
        parts = [slice(first, end) for first, end in pairwise([0, *cuts.tolist(), len(tokens)])]
        found = [
            _masking.spans(tuple(d[part] for d in draws), begins[part], free[part], rate, span.p, span.longest)
            for part in parts
        ]
        owners = [owner + part.start for (_, owner), part in zip(found, parts, strict=True)]
        return np.concatenate([chosen for chosen, _ in found]), np.concatenate(owners)

    def _mask(self, tokens: Any, chosen: Any, kind: Any, words: Any) -> tuple[Any, Any]:
        """Tokens with the mask applied, and the labels, same shape: IGNORE where nothing is to be predicted."""
        mask_share, random_share, _ = self.config.split
        out = np.where(chosen & (kind < mask_share), self.facts.mask_token_id, tokens)
        swap = chosen & (kind >= mask_share) & (kind < mask_share + random_share)
        out = np.where(swap, random.below(words, self.facts.vocab_size), out)
        return out, np.where(chosen, tokens, IGNORE)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = _token_batches.pad([s["labels"] for s in samples], IGNORE).ravel()
        places = np.flatnonzero(labels != IGNORE)
        places = places if len(places) else np.zeros(1, dtype=np.int64)  # a head has to see at least one row
        rows = places // (len(labels) // len(samples))
        return {**self._padded(samples), "places": places, "rows": rows, "labels": labels[places]}

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        from launcher.tasks import _masked_head

        self._try_packing(model, batch)
        self._head = _masked_head.attach(model, self._inputs(batch), batch["places"])
        if self._head is None:
            return [
                f"{type(model).__name__}: the head runs on all positions (on the masked ones alone it is not exact)"
            ]
        return []

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Logits of the places to be predicted, shape (n, vocabulary)."""
        from launcher.tasks import _masked_head

        return _token_batches.full_precision(
            _masked_head.logits(model, self._inputs(batch), batch["places"], self._head)
        )

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
