"""Sequences side by side in one row, without padding: a micro-batch of shape (1, tokens).

Embeddings, feed-forward layers and norms compute real tokens only. Attention needs the lengths of the sequences
(`launcher.tasks._sequence_attention`).
"""

from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from launcher.tasks import Batch, Sample, _token_batches

if TYPE_CHECKING:
    import torch

KEY = "sequences"
"""The key of the sequences among a micro-batch's `inputs`."""


class Run(NamedTuple):
    """Consecutive sequences of one length. `first`: the number of the first of them."""

    first: int
    sequences: int
    length: int

    @property
    def samples(self) -> slice:
        """The sequences of the run among those of the row."""
        return slice(self.first, self.first + self.sequences)


@dataclass(frozen=True)
class Sequences:
    """The sequences of a row. `lengths`: tokens of each, in their order. They stay on the host, so that no device has
    to be read."""

    lengths: tuple[int, ...]

    @cached_property
    def runs(self) -> list[Run]:
        """The runs of neighbours of equal length, in the order of the row."""
        return list(self._find_runs())

    def _find_runs(self) -> Iterator[Run]:
        first = 0
        for length, group in groupby(self.lengths):
            count = len(list(group))
            yield Run(first, count, length)
            first += count

    def pin_memory(self) -> "Sequences":
        """Return the same object: it has no memory that a device copies from. torch's DataLoader calls it."""
        return self

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


def inputs(samples: Many[Sample]) -> Batch:
    """Return a batch with the `inputs` of one row, in the order of the samples.

    `position_ids` begin at 0 in each sequence. The value of KEY holds their `lengths`, and `offsets`: the place of the
    first token of each and the end of the row, int32, shape (sequences + 1,).
    """
    lengths = tuple(_token_batches.lengths_of(samples).tolist())
    names = [name for name in ("input_ids", "token_type_ids") if name in samples[0]]
    row: Batch = {name: np.concatenate([sample[name] for sample in samples])[None] for name in names}
    row["position_ids"] = np.concatenate([np.arange(length) for length in lengths])[None]
    offsets = np.fromiter(accumulate(lengths, initial=0), dtype=np.int32)
    row[KEY] = {"lengths": Sequences(lengths), "offsets": offsets}
    return {"inputs": row}


def sample_numbers(samples: Many[Sample]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return the number of each token's sample, shape (tokens,)."""
    return np.repeat(np.arange(len(samples)), _token_batches.lengths_of(samples))


def count(batch: Batch) -> int:
    """Return the number of samples of a micro-batch, padded or in one row."""
    inputs = batch["inputs"]
    return len(inputs[KEY]["lengths"].lengths) if KEY in inputs else len(inputs["input_ids"])


def padded(values: "torch.Tensor", batch: Batch) -> "torch.Tensor":
    """Return a value for each token, shape (1, tokens, ...), as (samples, longest, ...) with zeros at the end of the
    shorter ones. The values of a padded micro-batch are returned unchanged."""
    if KEY not in batch["inputs"]:
        return values
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence(values[0].split(list(batch["inputs"][KEY]["lengths"].lengths)), batch_first=True)
