"""The samples in the rows of a micro-batch, for their random draws.

`owners`: for each row the indices of its samples in `keys` and `lengths`. `step`: the key of the step, shape (1,).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class SampleRows:
    """The samples in the rows of a micro-batch.

    `keys`: the key of each row's sample, int64, shape (rows,). If samples share rows: the key of each token's sample,
    shape (rows, tokens). `positions`: of the tokens in their samples, int32, shape (rows, tokens); None unless samples
    share rows. `step`: the key of the step, shape (1,). It stays on the CPU, because few models use it, and some of
    them there. `sequences`: the key of each sample of a row without padding, shape (samples,); else None.
    """

    keys: torch.Tensor
    step: torch.Tensor
    positions: torch.Tensor | None = None
    sequences: torch.Tensor | None = None

    def to(self, device: torch.device) -> "SampleRows":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "SampleRows":
        return self._each(lambda tensor: tensor.pin_memory())

    def on_device(self) -> list[torch.Tensor]:
        """Return the tensors that `to` copies."""
        return [one for one in (self.keys, self.positions, self.sequences) if one is not None]

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "SampleRows":
        names = ("keys", "positions", "sequences")
        return replace(self, **{n: change(getattr(self, n)) for n in names if getattr(self, n) is not None})


def by_row(owners: list[Ids], keys: Ids, step: torch.Tensor) -> SampleRows:
    """Return the samples of rows with one sample each."""
    return SampleRows(torch.from_numpy(keys[np.concatenate(owners)]), step)


def by_token(owners: list[Ids], keys: Ids, lengths: Ids, step: torch.Tensor) -> SampleRows:
    """Return the samples of the tokens in rows that samples share."""
    tokens = [(np.repeat(keys[row], lengths[row]), [np.arange(n) for n in lengths[row]]) for row in owners]
    longest = max(len(of_tokens) for of_tokens, _ in tokens)
    padded = np.zeros((2, len(owners), longest), dtype=np.int64)
    for number, (of_tokens, positions) in enumerate(tokens):
        padded[0, number, : len(of_tokens)] = of_tokens
        padded[1, number, : len(of_tokens)] = np.concatenate(positions)
    return SampleRows(torch.from_numpy(padded[0]), step, torch.from_numpy(padded[1].astype(np.int32)))


def side_by_side(owners: list[Ids], keys: Ids, lengths: Ids, step: torch.Tensor) -> SampleRows:
    """Return the samples of one row without padding, in the order of `owners`."""
    places = np.concatenate(owners)
    return replace(by_token([places], keys, lengths, step), sequences=torch.from_numpy(keys[places]))
