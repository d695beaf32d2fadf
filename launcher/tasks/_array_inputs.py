"""Prepared features, samples and micro-batches that are arrays of one shape, for tasks without tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.tasks import Array, Batch, Features, _token_batches

if TYPE_CHECKING:
    import torch


def features(name: str, values: NDArray[np.generic], label: pa.Array) -> Features:
    """Return a table with the values of each sample as a list in column `name`. values: shape (samples, values of one
    sample)."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))
    return Features(pa.table({name: lists, "length": np.ones(len(values), dtype=np.int32), "label": label}))


def inputs(name: str, arrays: Sequence[Array]) -> Batch:
    """Return a batch with one model input, `name`: the stacked arrays."""
    return {"inputs": {name: np.stack(arrays)}}


def logits(model: "torch.nn.Module", batch: Batch) -> "torch.Tensor":
    """Return the model's logits, in at least fp32. Inputs are converted to the data type of the parameters."""
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return _token_batches.model_logits(model, {name: array.to(dtype) for name, array in batch["inputs"].items()})
