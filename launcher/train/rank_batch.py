"""A rank's share of a global batch."""

from dataclasses import dataclass, replace

import torch

from launcher.tasks import Batch
from launcher.train.sample_rows import SampleRows


@dataclass(frozen=True)
class RankBatch:
    """A rank's share of a global batch.

    `rows`: the samples in the rows of each micro-batch. `weight`, `digest`, `tokens`: those of the share; their sums
    over the ranks are those of the global batch, as for `squares`, the sum of the squared lengths of samples. `padded`:
    the number of positions that the model computes, with padding; `positions`: those of each micro-batch.
    """

    micro_batches: list[Batch]
    rows: list[SampleRows]
    weight: float
    digest: int
    tokens: int
    padded: int
    squares: int = 0
    positions: tuple[int, ...] = ()

    def pin_memory(self) -> "RankBatch":
        """Return the share in pinned memory, from which an accelerator copies while the host goes on. torch's
        DataLoader calls it."""
        return replace(
            self,
            micro_batches=[_pinned(batch) for batch in self.micro_batches],
            rows=[rows.pin_memory() for rows in self.rows],
        )


def _pinned(batch: Batch) -> Batch:
    def pin(value: object) -> object:
        if isinstance(value, dict):
            return _pinned(value)
        return value.pin_memory() if isinstance(value, torch.Tensor) else value

    return {name: pin(value) for name, value in batch.items()}
