"""Masked language modelling (Devlin et al., 2019): predict masked tokens.

The mask is a function of (seed, epoch, sample id, position), and of the step if the rate has a schedule. So a sample
has the same mask on any rank, and a different one in each epoch. The head runs on the masked positions only, unless
that changes the logits.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from launcher.config.base_model import Strict
from launcher.config.errors import Problem, UserError
from launcher.contract import random
from launcher.tasks import IGNORE, Batch, Row, Sample, _language_modeling, _mask_selection, _sequences, _token_batches

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from launcher.plan.facts import Facts
    from launcher.tasks._masked_head import MaskedHead

_ATTEMPTS = 2**31
"""The first random counter of the attempts to place a span; lower counters belong to token positions."""

_MOST_MASKED, _LEAST_MASKED, _LEAST_MASK_TOKENS = 0.6, 0.05, 0.5
"""Mask rates above and below which a plan warns, and the share of mask tokens below which it does."""

Share = Annotated[float, Field(gt=0, lt=1)]


class RateSchedule(Strict):
    """A mask rate that changes linearly over the run (as in Ankner et al., 2024). Evaluations use `end`."""

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


class Config(_language_modeling.PretrainingConfig):
    """Masked language modeling."""

    kind: Literal["mlm"] = "mlm"
    mask: Literal["tokens", "words", "spans"] = "tokens"
    """Unit of selection: tokens, whole words, or spans of whole words."""
    mask_rate: Share | RateSchedule = 0.15
    """Share of the tokens that is selected, or a schedule with `start` and `end`."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the selected tokens that are replaced by the mask token, replaced by a random token, or kept. All
    tokens of a span are treated alike."""
    span: Span = Span()
    """Lengths of spans, for `mask: spans`."""
    never: list[str] = []
    """Tokens of the vocabulary that are never selected."""

    @field_validator("split")
    @classmethod
    def _check_split(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or abs(sum(value) - 1) > 1e-6:
            raise PydanticCustomError("split", "the three shares should be at least 0 and add up to 1")
        return value

    def odd_values(self) -> dict[str, str]:
        """Return mask rates outside those that were found to work, and shares that hardly use the mask token.

        Wettig et al. ("Should You Mask 15% in Masked Language Modeling?", 2023) found 0.15 to 0.4 the best, and losses
        beyond 0.5.
        """
        found, rates = {}, [self.rate(0), self.rate(1)]
        if max(rates) > _MOST_MASKED:
            found["mask_rate"] = f"{max(rates):g}: little of a text is left to predict from (0.15 to 0.4 is usual)"
        elif min(rates) < _LEAST_MASKED:
            found["mask_rate"] = f"{min(rates):g}: few tokens of a sample are learnt from (0.15 to 0.4 is usual)"
        if self.split[0] < _LEAST_MASK_TOKENS:
            shares = "mask token, random token, unchanged"
            found["split"] = (
                f"{self.split[0]:g} of the selected tokens are masked: the shares are {shares} (0.8, 0.1, 0.1)"
            )
        return found

    def rate(self, progress: float) -> float:
        """Return the mask rate. progress: the completed share of the run's steps, from 0 to 1."""
        if not isinstance(self.mask_rate, RateSchedule):
            return self.mask_rate
        return self.mask_rate.start + (self.mask_rate.end - self.mask_rate.start) * progress


class Task(_language_modeling.PretrainingTask[Config]):
    auto_class = "AutoModelForMaskedLM"

    @staticmethod
    def named_tokens(config: Config) -> Sequence[str]:
        return config.never

    def __init__(self, config: Config, facts: "Facts"):
        super().__init__(config, facts)
        if facts.mask_token_id is None:
            raise UserError(Problem("tokenizer", "has no mask token, which masked language modelling needs"))
        never = [facts.token_ids[name] for name in config.never if name in facts.token_ids]
        self._mask_token_id = facts.mask_token_id
        self._protected = _mask_selection.protected(facts.vocab_size, [*facts.special_ids, *never])
        self._head: MaskedHead | None = None

    def output_size(self, length: int) -> float:
        return float(max(self.config.rate(0), self.config.rate(1)) * length * self.facts.vocab_size)

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        """Build masked samples, in one pass over the concatenated tokens of all rows."""
        if not rows:
            return []
        lengths = [len(row["input_ids"]) for row in rows]
        tokens = np.concatenate([row["input_ids"] for row in rows]).astype(np.int64)
        begins = np.concatenate([row["begins"] for row in rows])
        cuts = np.cumsum(lengths)[:-1]
        begins[np.concatenate([[0], cuts])] = True  # a chunk may begin inside a word
        sample = np.repeat(np.asarray(epochs), lengths), np.repeat(np.asarray(ids), lengths)
        position = np.concatenate([np.arange(n) for n in lengths])
        words = random.draws(draw.seed, draw.stream, *sample, position)
        action, rate = random.uniform(words[1]), self.config.rate(draw.progress)
        if self.config.mask == "spans":
            attempts = random.draws(draw.seed, draw.stream, *sample, position + _ATTEMPTS)
            selected, first = self._spans(attempts, begins, tokens, cuts, rate)
            action = action[first]
        elif self.config.mask == "words":
            selected = _mask_selection.whole_words(words[0], begins, rate)
        else:
            selected = _mask_selection.tokens(words[0], rate)
        masked, labels = self._mask(tokens, selected & ~self._protected[tokens], action, words[2])
        return [
            {"input_ids": one, "labels": two}
            for one, two in zip(np.split(masked, cuts), np.split(labels, cuts), strict=True)
        ]

    def _spans(
        self,
        draws: tuple[random.UInt, ...],
        begins: _mask_selection.Bools,
        tokens: _mask_selection.Ints,
        cuts: _mask_selection.Ints,
        rate: float,
    ) -> tuple[_mask_selection.Bools, _mask_selection.Ints]:
        """Select spans in each sample. Returns the selection, and for each token the index of the first token of its
        span."""
        free, span = ~self._protected[tokens], self.config.span
        parts = [slice(first, end) for first, end in pairwise([0, *cuts.tolist(), len(tokens)])]
        spans = [
            _mask_selection.spans(tuple(d[part] for d in draws), begins[part], free[part], rate, span.p, span.longest)
            for part in parts
        ]
        firsts = [first + part.start for (_, first), part in zip(spans, parts, strict=True)]
        return np.concatenate([selected for selected, _ in spans]), np.concatenate(firsts)

    def _mask(
        self,
        tokens: _mask_selection.Ints,
        selected: _mask_selection.Bools,
        action: NDArray[np.float64],
        words: random.UInt,
    ) -> tuple[_mask_selection.Ints, _mask_selection.Ints]:
        """Return the masked tokens and the labels, with IGNORE for tokens that are not selected. action: a number in
        [0, 1) for each token, compared with `split`; words: 32 random bits for each token."""
        mask_share, random_share, _ = self.config.split
        out = np.where(selected & (action < mask_share), self._mask_token_id, tokens)
        replaced = selected & (action >= mask_share) & (action < mask_share + random_share)
        out = np.where(replaced, random.below(words, self.facts.vocab_size), out)
        return out, np.where(selected, tokens, IGNORE)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Pad samples into a micro-batch. `places`: flat indices of the labels into (samples, longest)."""
        labels = _token_batches.pad([s["labels"] for s in samples], IGNORE, self._padded_length(samples)).ravel()
        places = _masked_places(labels)
        rows = places // (len(labels) // len(samples))
        return {**self._padded_inputs(samples), "places": places, "rows": rows, "labels": labels[places]}

    def concatenate(self, samples: Sequence[Sample]) -> Batch:
        labels = np.concatenate([sample["labels"] for sample in samples])
        places = _masked_places(labels)
        rows = _sequences.sample_numbers(samples)[places]
        return {**_sequences.inputs(samples), "places": places, "rows": rows, "labels": labels[places]}

    def prepare_model(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        from launcher.tasks import _masked_head

        self._prepare_packing(model, batch)
        self._head = _masked_head.attach(model, self._model_inputs(batch), batch["places"])
        if self._head is None:
            name = type(model).__name__
            return [f"{name}: the head runs on all positions (on the masked ones alone it is not exact)"]
        return self._prepare_output_layer(model, batch)

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Return the logits of the masked positions, shape (n, vocabulary)."""
        from launcher.tasks import _masked_head

        return _masked_head.logits(model, self._model_inputs(batch), batch["places"], self._head)

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        """Return a sample in which each masked position is marked as original→replacement."""
        from rich.markup import escape

        out = []
        for token, label in zip(sample["input_ids"].tolist(), sample["labels"].tolist(), strict=True):
            text = escape(tokenizer.convert_ids_to_tokens(token))
            if label != IGNORE:
                text = f"[bold reverse]{escape(tokenizer.convert_ids_to_tokens(label))}→{text}[/]"
            out.append(text)
        return " ".join(out)


def _masked_places(labels: _mask_selection.Ints) -> _mask_selection.Ints:
    """Return the indices of the labels; if there are none, the first place, because the head needs at least one."""
    places = np.flatnonzero(labels != IGNORE)
    return places if len(places) else np.zeros(1, dtype=np.int64)
