"""What tasks share whose samples are arrays of one shape, each with a label of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.tasks import Batch, Features, Sample, Task, _token_batches

if TYPE_CHECKING:
    import torch

    from launcher.plan.facts import Facts


def features(name: str, values: NDArray[np.generic], label: pa.Array) -> Features:
    """Finished samples of arrays, shape (samples, values of one), as a list column `name`."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))
    return Features(pa.table({name: lists, "length": np.ones(len(values), dtype=np.int32), "label": label}))


class ArraySamples(Task):
    """`given`: the name under which a model takes its array. `labels` of a sample is an array of its one label."""

    given: str
    config: Any
    facts: "Facts"
    targets: tuple[str, ...] = ("label",)
    tokenized = False

    def __init__(self, config: Any, facts: "Facts"):
        self.config, self.facts = config, facts

    def collate(self, samples: Sequence[Sample]) -> Batch:
        arrays = np.stack([sample[self.given] for sample in samples])
        return {"inputs": {self.given: arrays}, "labels": np.concatenate([sample["labels"] for sample in samples])}

    def attach(self, model: "torch.nn.Module", batch: Batch) -> list[str]:
        return []

    def logits(self, model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
        """Shape (samples, outputs of the head)."""
        dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        inputs = {name: array.to(dtype) for name, array in batch["inputs"].items()}
        return _token_batches.full_precision(_token_batches.logits_of(model(**inputs)))
