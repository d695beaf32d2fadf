"""The order of samples: step -> sample ids, a pure function with no list and no state.

Epoch e visits every sample once, in the order of a keyed pseudo-random permutation; the stream of epochs has no seam:
a batch may hold the end of one epoch and the beginning of the next. The permutation is a Feistel network over pairs of
digits in base b = ceil(sqrt(size)), with cycle walking (Black and Rogaway, 2002) for the few pairs that stand for no
sample. Four rounds make a strong pseudo-random permutation (Luby and Rackoff, 1988) of a large set; on sets of some
hundred samples six are needed before the spread over epochs cannot be told from a shuffle's.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher.contract import random

Ids = NDArray[np.int64]

_ROUNDS = 6


@dataclass(frozen=True)
class Order:
    """The order of `size` samples under `seed`. O(1) in time and memory for any step. Size below 2^48."""

    size: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.size < 2**48:
            raise ValueError(f"an order needs between 1 and 2^48 samples, not {self.size}")

    def step(self, step: int, global_batch: int) -> tuple[Ids, Ids]:
        """The epochs and the sample ids of a step, both of shape (global_batch,), int64."""
        first = step * global_batch
        epoch, start = divmod(first, self.size)
        places = start + np.arange(global_batch, dtype=np.int64)
        epochs = epoch + places // self.size
        return epochs, self.permute(epochs, places % self.size)

    def permute(self, epochs: Ids, places: Ids) -> Ids:
        """The samples at these places of these epochs, same shape."""
        samples = self._walk(epochs, places)
        while np.any(outside := samples >= self.size):
            samples[outside] = self._walk(epochs[outside], samples[outside])
        return samples

    def _walk(self, epochs: Ids, values: Ids) -> Ids:
        base = math.isqrt(self.size - 1) + 1
        left, right = values // base, values % base
        for turn in range(_ROUNDS):
            words = random.draws(self.seed, random.Stream.ORDER, epochs, right, turn)
            left, right = right, (left + random.below(words[0], base)) % base
        walked: Ids = left * base + right
        return walked


@dataclass(frozen=True)
class InTurn:
    """Samples as they stand, once, for evaluation: the last step may hold fewer."""

    size: int

    def step(self, step: int, global_batch: int) -> tuple[Ids, Ids]:
        """Epochs (all 0) and sample ids of a step, int64."""
        ids = np.arange(step * global_batch, min((step + 1) * global_batch, self.size), dtype=np.int64)
        return np.zeros_like(ids), ids
