"""Causal language modelling: predict each token from those before it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from launcher.contract import random
from launcher.tasks import (
    IGNORE,
    Batch,
    Outputs,
    Row,
    Sample,
    _causality_probe,
    _generation,
    _pretraining,
    _token_batches,
)

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


class Config(_pretraining.PretrainingConfig):
    """Causal language modeling."""

    kind: Literal["causal_lm"] = "causal_lm"
    generate: _generation.Generation | None = None
    """How `launcher predict` continues texts; null: it does not."""

    @property
    def generates(self) -> bool:
        return self.generate is not None


class Task(_pretraining.Pretraining):
    auto_class = "AutoModelForCausalLM"
    causal = True

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts

    def options(self) -> dict[str, Any]:
        return {"is_decoder": True, "use_cache": False}

    def generation(self) -> dict[str, Any]:
        return self.config.generate.options() if self.config.generate else {}

    def outputs(self, length: int) -> float:
        return float(length * self.facts.vocab_size)

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        return [self._sample(row["input_ids"].astype(np.int64)) for row in rows]

    def _sample(self, tokens: Any) -> Sample:
        """`labels` at each position: the token that comes next; none at the last."""
        return {"input_ids": tokens, "labels": np.append(tokens[1:], IGNORE)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = _token_batches.pad([s["labels"] for s in samples], IGNORE)
        rows = np.repeat(np.arange(len(labels)), labels.shape[1])
        return {**self._padded(samples), "rows": rows, "labels": labels.ravel()}

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        _causality_probe.check(model, batch["inputs"]["input_ids"])
        self._try_packing(model, batch)
        return []

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        return _token_batches.full_precision(model(**self._inputs(batch)).logits.flatten(0, 1))

    def generate(self, model: Any, batch: Batch) -> list[NDArray[np.int64]]:
        """How each text goes on: what ends it is taken off."""
        ids, there = batch["inputs"]["input_ids"], batch["inputs"].get("attention_mask")
        lengths = [ids.shape[1]] * len(ids) if there is None else there.sum(1).tolist()
        rows = [row[:length] for row, length in zip(ids.cpu().numpy(), lengths, strict=True)]
        prompts = [row[:-1] if len(row) > 1 and row[-1] == self.facts.end_token_id else row for row in rows]
        return _generation.continued(model, self.config.generate, self.facts, prompts)

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """The loss of each text, and how it goes on where that was asked for."""
        told = super().predictions(outputs, tokenizer)
        if "generated" not in outputs:
            return told
        more = _generation.texts(outputs["generated"], tokenizer)
        return [{**one, "continuation": text} for one, text in zip(told, more, strict=True)]

    def show(self, sample: Sample, tokenizer: Any) -> str:
        from rich.markup import escape

        return escape(" ".join(tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist())))
