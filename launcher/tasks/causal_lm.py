"""Causal language modelling: predict each token from the tokens before it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from launcher.contract.random import Draw
from launcher.tasks import (
    IGNORE,
    Batch,
    JsonObject,
    Outputs,
    Row,
    Sample,
    _generation,
    _language_modeling,
    _model_probes,
    _sequences,
    _token_batches,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Config(_language_modeling.PretrainingConfig):
    """Causal language modeling."""

    kind: Literal["causal_lm"] = "causal_lm"
    generate: _generation.Generation | None = None
    """Generation settings with which `launcher predict` continues texts; null: no continuation."""

    @property
    def generates(self) -> bool:
        return self.generate is not None


class Task(_language_modeling.PretrainingTask[Config]):
    auto_class = "AutoModelForCausalLM"
    causal = True

    def model_options(self) -> JsonObject:
        return {"is_decoder": True, "use_cache": False}

    def generation_options(self) -> JsonObject:
        return self.config.generate.options() if self.config.generate else {}

    def output_size(self, length: int) -> float:
        return float(length * self.facts.vocab_size)

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        """Build samples: each position is labelled with the next token, the last position with IGNORE."""
        tokens = [row["input_ids"].astype(np.int64) for row in rows]
        return [{"input_ids": one, "labels": np.append(one[1:], IGNORE)} for one in tokens]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = _token_batches.pad([s["labels"] for s in samples], IGNORE, self._padded_length(samples))
        rows = np.repeat(np.arange(len(labels)), labels.shape[1])
        return {**self._padded_inputs(samples), "rows": rows, "labels": labels.ravel()}

    def concatenate(self, samples: Sequence[Sample]) -> Batch:
        labels = np.concatenate([sample["labels"] for sample in samples])
        return {**_sequences.inputs(samples), "rows": _sequences.sample_numbers(samples), "labels": labels}

    def prepare_model(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        _model_probes.check_causal(model, batch["inputs"]["input_ids"])
        self._prepare_packing(model, batch)
        return self._prepare_output_layer(model, batch)

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        return _token_batches.full_precision(model(**self._model_inputs(batch)).logits.flatten(0, 1))

    def generate(self, model: "PreTrainedModel", batch: Batch) -> list[NDArray[np.int64]]:
        """Return the continuation of each text. A text's end token is removed first."""
        assert self.config.generate is not None
        ids, mask = batch["inputs"]["input_ids"], batch["inputs"].get("attention_mask")
        lengths = [ids.shape[1]] * len(ids) if mask is None else mask.sum(1).tolist()
        rows = [row[:length] for row, length in zip(ids.cpu().numpy(), lengths, strict=True)]
        prompts = [row[:-1] if len(row) > 1 and row[-1] == self.facts.end_token_id else row for row in rows]
        return _generation.continuations(model, self.config.generate, self.facts, prompts)

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        """Return the loss of each text, and its continuation if texts were generated."""
        losses = super().predictions(outputs, tokenizer)
        if "generated" not in outputs:
            return losses
        texts = _generation.texts(outputs["generated"], tokenizer)
        return [{**one, "continuation": text} for one, text in zip(losses, texts, strict=True)]

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        return _token_batches.render(sample["input_ids"], tokenizer)
