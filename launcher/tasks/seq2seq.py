"""Text-to-text tasks with an encoder and a decoder (T5, BART), such as summarization and translation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from launcher.config.errors import Problem, UserError
from launcher.config.types import TaskConfig
from launcher.contract.random import Draw
from launcher.prepare.token_arrays import prefixed
from launcher.tasks import (
    IGNORE,
    Batch,
    BatchOutputs,
    FeatureContext,
    Features,
    JsonObject,
    Outputs,
    Row,
    Sample,
    _generation,
    _language_modeling,
    _metrics,
    _token_batches,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder
    from launcher.prepare.token_arrays import TokenArrays


class Config(TaskConfig):
    """Text to text, with an encoder and a decoder."""

    kind: Literal["seq2seq"] = "seq2seq"
    prefix: str = ""
    """Text put before each input, such as "summarize: "."""
    max_target_length: int = Field(128, gt=1)
    """Maximum number of tokens of a target."""
    generate: _generation.Generation | None = _generation.Generation()
    """Generation settings of `launcher evaluate` and `launcher predict`; null: they generate no texts."""

    @property
    def longest_target(self) -> int:
        return self.max_target_length

    @property
    def generates(self) -> bool:
        return self.generate is not None


class Task(_language_modeling.LanguageModelingTask[Config]):
    """`labels` of a sample are the tokens of its target. The length of a sample counts both texts."""

    columns = ("text", "target")
    target_columns = ("target",)
    auto_class = "AutoModelForSeq2SeqLM"

    @staticmethod
    def preparation_key(config: Config) -> JsonObject:
        return {"features": "seq2seq", "prefix": config.prefix, "target": config.max_target_length}

    @staticmethod
    def features(config: Config, rows: Iterable[pa.RecordBatch], context: FeatureContext) -> Iterator[Features]:
        encoder = context.encoder
        for batch in rows:
            texts = prefixed(config.prefix, batch.column("text"))
            text, cut_texts = _truncated(texts, context.max_length, encoder)
            cut = {"rows": cut_texts}
            table = _token_batches.table(text, encoder.vocab_size)
            if "target" in batch.schema.names:
                target, cut["targets"] = _truncated(batch.column("target"), config.max_target_length, encoder)
                ids = _token_batches.lists(target, pa.array(target.ids.astype(np.int32)))
                lengths = pa.array((text.lengths + target.lengths).astype(np.int32))
            else:
                ids, lengths = pa.array([[IGNORE]] * batch.num_rows, pa.list_(pa.int32())), table["length"]
            yield Features(table.set_column(1, "length", lengths).append_column("target", ids), cut=cut)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return _language_modeling.unigram_baseline((table["target"] for table in validation), special_ids)

    def __init__(self, config: Config, facts: "Facts"):
        super().__init__(config, facts)
        self._decoder_start = facts.pad_token_id

    def generation_options(self) -> JsonObject:
        return self.config.generate.options() if self.config.generate else {}

    def output_size(self, length: int) -> float:
        return float(min(length, self.config.max_target_length) * self.facts.vocab_size)

    def samples(self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: Draw) -> list[Sample]:
        columns = {"input_ids": "input_ids", "labels": "target"}
        return [{name: row[column].astype(np.int64) for name, column in columns.items()} for row in rows]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = _token_batches.pad([s["labels"] for s in samples], IGNORE, least=1)
        rows = np.repeat(np.arange(len(labels)), labels.shape[1])
        return {**_token_batches.inputs(samples, self.facts.pad_token_id), "rows": rows, "labels": labels.ravel()}

    def prepare_model(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """Find the decoder's start token. Raises UserError if the model is no encoder with a decoder."""
        if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            what = f"{type(model).__name__} is no encoder with a decoder (take t5 or bart)"
            raise UserError(Problem("model", what))
        starts = [getattr(one, "decoder_start_token_id", None) for one in (model.config, model.generation_config)]
        valid = [start for start in starts if start is not None and start < self.facts.vocab_size]
        self._decoder_start = valid[0] if valid else self.facts.pad_token_id  # T5's default
        return self._prepare_output_layer(model, batch)

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Return logits of shape (n, vocabulary). The decoder's input is the target, shifted right by one token."""
        labels = batch["labels"].view(len(batch["inputs"]["input_ids"]), -1)
        shifted = labels.roll(1, dims=1).masked_fill(labels.roll(1, dims=1) == IGNORE, self.facts.pad_token_id)
        shifted[:, 0] = self._decoder_start
        output = model(**batch["inputs"], decoder_input_ids=shifted, use_cache=False)
        return _token_batches.full_precision(output.logits.flatten(0, 1))

    def predict(self, model: "torch.nn.Module", batch: Batch) -> BatchOutputs:
        labels = batch["labels"].view(len(batch["inputs"]["input_ids"]), -1)
        return {**super().predict(model, batch), "target": labels}

    def host_outputs(self, outputs: BatchOutputs) -> BatchOutputs:
        return {**outputs, "target": [row[row != IGNORE] for row in outputs["target"].numpy()]}

    def generate(self, model: "PreTrainedModel", batch: Batch) -> list[NDArray[np.int64]]:
        import torch

        assert self.config.generate is not None
        inputs = {"attention_mask": torch.ones_like(batch["inputs"]["input_ids"]), **batch["inputs"]}
        start = self._decoder_start
        return _generation.generate(model, self.config.generate, self.facts, inputs, decoder_start_token_id=start)

    def generation_metrics(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> dict[str, float]:
        """Return scores of generated texts against truncated targets: means over the samples that have a target."""
        texts = [_generation.texts(outputs[name], tokenizer) for name in ("target", "generated")]
        pairs = [(t, p) for t, p, weight in zip(*texts, outputs["weight"], strict=True) if weight]
        scores: dict[str, Callable[[str, str], float]] = {
            "rouge1": _metrics.rouge1,
            "rougeL": _metrics.rouge_l,
            "exact_match": _exact_match,
        }
        return {name: float(np.mean([score(*pair) for pair in pairs] or [0.0])) for name, score in scores.items()}

    def predictions(self, outputs: Outputs, tokenizer: "PreTrainedTokenizerBase") -> list[JsonObject]:
        """Return the generated text of each sample; if none was generated, the loss of the target."""
        if "generated" not in outputs:
            return super().predictions(outputs, tokenizer)
        return [{"target": text} for text in _generation.texts(outputs["generated"], tokenizer)]

    def render(self, sample: Sample, tokenizer: "PreTrainedTokenizerBase") -> str:
        target = sample["labels"][sample["labels"] != IGNORE]
        text, marked = (_token_batches.render(ids, tokenizer) for ids in (sample["input_ids"], target))
        return f"{text} → [bold reverse]{marked}[/]"


def _truncated(texts: pa.Array, length: int, encoder: "Encoder") -> "tuple[TokenArrays, NDArray[np.integer]]":
    """Return token sequences of at most `length` tokens, and whether each was cut."""
    whole, room = encoder.encode(texts), max(0, length - len(encoder.prefix) - len(encoder.suffix))
    kept = whole.truncated(room).between(encoder.prefix, encoder.suffix)
    return kept, _token_batches.cut_rows(whole.lengths, room)["rows"]


def _exact_match(truth: str, predicted: str) -> float:
    return float(truth == predicted)
