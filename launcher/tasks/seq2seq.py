"""From one text to another, by an encoder and a decoder (T5, BART): summaries, translations."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from launcher.config.errors import Problem, UserError
from launcher.config.types import TaskConfig
from launcher.contract import random
from launcher.prepare.token_arrays import prefixed
from launcher.tasks import IGNORE, Batch, Features, Outputs, Row, Sample, _generation, _rouge, _token_batches
from launcher.tasks._language_modeling import LanguageModeling, unigram_entropy

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder


class Config(TaskConfig):
    """Text to text, with an encoder and a decoder."""

    kind: Literal["seq2seq"] = "seq2seq"
    prefix: str = ""
    """Text put before each input, such as "summarize: "."""
    max_target_length: int = Field(128, gt=1)
    """Maximum number of tokens of a target."""
    generate: _generation.Generation | None = _generation.Generation()
    """How `launcher evaluate` and `launcher predict` generate texts; null: they do not."""

    @property
    def longest_target(self) -> int:
        return self.max_target_length

    @property
    def generates(self) -> bool:
        return self.generate is not None


class Task(LanguageModeling):
    """`labels` of a sample: the tokens of its target. Its length counts both texts."""

    columns = ("text", "target")
    targets = ("target",)
    surveyed = ()
    tokenized = True
    auto_class = "AutoModelForSeq2SeqLM"

    @staticmethod
    def prepared(config: Config) -> dict[str, Any]:
        return {"features": "seq2seq", "prefix": config.prefix, "target": config.max_target_length}

    @staticmethod
    def features(
        config: Config,
        rows: Iterable[pa.RecordBatch],
        survey: dict[str, Any],
        encoder: "Encoder",
        length: int,
        key: str,
    ) -> Iterator[Features]:
        around = len(encoder.prefix) + len(encoder.suffix)

        def tokens(texts: pa.Array, most: int) -> tuple[Any, NDArray[np.integer]]:
            whole, room = encoder.encode(texts), max(0, most - around)
            kept = whole.truncated(room).between(encoder.prefix, encoder.suffix)
            return kept, _token_batches.cut_rows(whole.lengths, room)["rows"]

        for batch in rows:
            text, cut_texts = tokens(prefixed(config.prefix, batch.column("text")), length)
            cut = {"rows": cut_texts}
            table = _token_batches.table(text, encoder.vocab_size)
            if "target" in batch.schema.names:
                target, cut["targets"] = tokens(batch.column("target"), config.max_target_length)
                ids = _token_batches.lists(target, pa.array(target.ids.astype(np.int32)))
                both = pa.array((text.lengths + target.lengths).astype(np.int32))
            else:
                ids, both = pa.array([[IGNORE]] * batch.num_rows, pa.list_(pa.int32())), table["length"]
            yield Features(table.set_column(1, "length", both).append_column("target", ids), cut=cut)

    @staticmethod
    def baseline(config: Config, validation: Iterable[pa.Table], special_ids: Sequence[int]) -> dict[str, float]:
        return {"unigram_entropy": unigram_entropy((table["target"] for table in validation), special_ids)}

    def __init__(self, config: Config, facts: "Facts"):
        self.config, self.facts = config, facts
        self._start = facts.pad_token_id

    def options(self) -> dict[str, Any]:
        return {}

    def generation(self) -> dict[str, Any]:
        return self.config.generate.options() if self.config.generate else {}

    def outputs(self, length: int) -> float:
        return float(min(length, self.config.max_target_length) * self.facts.vocab_size)

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        names = {"input_ids": "input_ids", "labels": "target"}
        return [{name: row[column].astype(np.int64) for name, column in names.items()} for row in rows]

    def weight(self, sample: Sample) -> float:
        return float(np.count_nonzero(sample["labels"] != IGNORE))

    def zero_weight(self, sample: Sample) -> Sample:
        return _token_batches.zero_weight(sample)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        labels = _token_batches.pad([s["labels"] for s in samples], IGNORE, least=1)
        rows = np.repeat(np.arange(len(labels)), labels.shape[1])
        return {**_token_batches.inputs(samples, self.facts.pad_token_id), "rows": rows, "labels": labels.ravel()}

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        """Raises UserError for a model that is no encoder with a decoder."""
        if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            what = f"{type(model).__name__} is no encoder with a decoder (take t5 or bart)"
            raise UserError(Problem("model", what))
        said = [getattr(one, "decoder_start_token_id", None) for one in (model.config, model.generation_config)]
        known = [start for start in said if start is not None and start < self.facts.vocab_size]
        self._start = known[0] if known else self.facts.pad_token_id  # as T5 begins
        return []

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """The decoder is given the target one place late."""
        labels = batch["labels"].view(len(batch["inputs"]["input_ids"]), -1)
        given = labels.roll(1, dims=1).masked_fill(labels.roll(1, dims=1) == IGNORE, self.facts.pad_token_id)
        given[:, 0] = self._start
        made = model(**batch["inputs"], decoder_input_ids=given, use_cache=False)
        return _token_batches.full_precision(made.logits.flatten(0, 1))

    def predict(self, model: "torch.nn.Module", batch: Batch) -> dict[str, Any]:
        labels = batch["labels"].view(len(batch["inputs"]["input_ids"]), -1).cpu().numpy()
        return {**super().predict(model, batch), "target": [row[row != IGNORE] for row in labels]}

    def generate(self, model: Any, batch: Batch) -> list[NDArray[np.int64]]:
        import torch

        inputs = {"attention_mask": torch.ones_like(batch["inputs"]["input_ids"]), **batch["inputs"]}
        given = {"decoder_start_token_id": self._start}
        assert self.config.generate is not None
        return _generation.generated(model, self.config.generate, self.facts, inputs, **given)

    def scores(self, outputs: Outputs, tokenizer: Any) -> dict[str, float]:
        """Of generated texts beside their targets as far as these were prepared, means over the samples that have
        one."""
        found, truth = (_generation.texts(outputs[name], tokenizer) for name in ("generated", "target"))
        pairs = [(t, f) for t, f, weight in zip(truth, found, outputs["weight"], strict=True) if weight]
        by_name: dict[str, Callable[[str, str], float]] = {
            "rouge1": _rouge.rouge1,
            "rougeL": _rouge.rouge_l,
            "exact_match": _equal,
        }
        return {name: float(np.mean([score(*pair) for pair in pairs] or [0.0])) for name, score in by_name.items()}

    def predictions(self, outputs: Outputs, tokenizer: Any) -> list[dict[str, Any]]:
        """The generated text of each sample, where there is one; else the loss of its target."""
        if "generated" not in outputs:
            return super().predictions(outputs, tokenizer)
        return [{"target": text} for text in _generation.texts(outputs["generated"], tokenizer)]

    def show(self, sample: Sample, tokenizer: Any) -> str:
        from rich.markup import escape

        target = sample["labels"][sample["labels"] != IGNORE]
        text, target = (
            " ".join(tokenizer.convert_ids_to_tokens(ids.tolist())) for ids in (sample["input_ids"], target)
        )
        return f"{escape(text)} → [bold reverse]{escape(target)}[/]"


def _equal(text: str, other: str) -> float:
    return float(text == other)
