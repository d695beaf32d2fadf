"""What tasks share whose samples are a text, or a pair of texts, each with a label of its own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.contract import random
from launcher.tasks import Batch, Features, Row, Sample, Task, _token_batches

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts
    from launcher.prepare.encode import Encoder


def features(batch: pa.RecordBatch, encoder: "Encoder", length: int, columns: Mapping[str, pa.Array]) -> Features:
    """Texts or pairs of a batch as token ids, truncated, with these columns."""
    more = dict(columns)
    if "text_pair" in batch.schema.names:
        encoded, truncated = encoder.pairs(batch.column("text"), batch.column("text_pair"), length)
        cut: dict[str, NDArray[np.integer]] = {"rows": truncated.astype(np.int64)}
        if encoded.types is not None:
            more["token_type_ids"] = _token_batches.lists(encoded, pa.array(encoded.types))
    else:
        room = length - len(encoder.prefix) - len(encoder.suffix)
        whole = encoder.encode(batch.column("text"))
        cut = _token_batches.cut_rows(whole.lengths, room)
        encoded = whole.truncated(room).between(encoder.prefix, encoder.suffix)
    return Features(_token_batches.table(encoded, encoder.vocab_size, **more), cut=cut)


class TextInputs(Task):
    """`labels` of a sample is an array of its one label."""

    config: Any
    facts: "Facts"
    columns: tuple[str, ...] = ("text", "text_pair", "label")
    targets: tuple[str, ...] = ("label",)
    tokenized = True
    auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: Any, facts: "Facts"):
        self.config, self.facts = config, facts

    def samples(
        self, rows: Sequence[Row], epochs: Sequence[int], ids: Sequence[int], draw: random.Draw
    ) -> list[Sample]:
        names = ("input_ids", "token_type_ids")
        return [
            {name: row[name].astype(np.int64) for name in names if name in row}
            | {"labels": np.atleast_1d(np.asarray(row["label"]))}
            for row in rows
        ]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return {
            **_token_batches.inputs(samples, self.facts.pad_token_id),
            "labels": np.concatenate([s["labels"] for s in samples]),
        }

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        return []

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Shape (samples, outputs of the head)."""
        return _token_batches.full_precision(_token_batches.logits_of(model(**batch["inputs"])))

    def _shown(self, sample: Sample, tokenizer: Any, label: str) -> str:
        from rich.markup import escape

        text = " ".join(tokenizer.convert_ids_to_tokens(sample["input_ids"].tolist()))
        return f"{escape(text)} → [bold reverse]{escape(label)}[/]"
