"""The order of samples: step -> sample ids, a pure function without a stored list or state.

Epoch e visits every sample once, in the order of a keyed pseudo-random permutation. Epochs follow each other without a
gap: a batch may hold the end of one epoch and the beginning of the next. The permutation is a Feistel network over
pairs of digits in base b = ceil(sqrt(size)). Cycle walking (Black and Rogaway, 2002) replaces the few pairs that are no
sample. Four rounds make a strong pseudo-random permutation (Luby and Rackoff, 1988) of a large set. On sets of a few
hundred samples, six rounds are needed before positions spread over the epochs as in a shuffle.
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
    """The order of `size` samples under `seed`. O(1) in time and memory for any step. The size is below 2^48."""

    size: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.size < 2**48:
            raise ValueError(f"an order needs between 1 and 2^48 samples, not {self.size}")

    def step(self, step: int, global_batch: int) -> tuple[Ids, Ids]:
        """Return the epochs and sample ids of a step, both int64 of shape (global_batch,)."""
        first = step * global_batch
        epoch, start = divmod(first, self.size)
        places = start + np.arange(global_batch, dtype=np.int64)
        epochs = epoch + places // self.size
        return epochs, self.permute(epochs, places % self.size)

    def permute(self, epochs: Ids, places: Ids) -> Ids:
        """Return the samples at these places of these epochs, in the same shape."""
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
class Mixture:
    """The order of several sources' samples, mixed by weight. O(sources) in time and memory for any step.

    Every prefix of the stream holds each source's share, to within half a sample for each source and the rounding of
    shares to 2^-33. Each source has its own epochs. Sample ids continue from source to source.

    sizes: samples of each source. weights: positive, with any sum.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.weights) or min(self.weights, default=0) <= 0:
            raise ValueError(f"a mixture needs a positive weight for each source, not {self.weights}")

    def step(self, step: int, global_batch: int) -> tuple[Ids, Ids]:
        """Return the epochs and sample ids of a step, both int64 of shape (global_batch,).

        An epoch is a pass over the source of the sample.
        """
        sources, turns = self.sources(step * global_batch + np.arange(global_batch, dtype=np.int64))
        epochs, ids = np.empty_like(turns), np.empty_like(turns)
        for number, size in enumerate(self.sizes):
            here = sources == number
            order = Order(size, random.seed_for(self.seed, random.Stream.MIXTURE, number))
            epochs[here] = turns[here] // size
            ids[here] = order.permute(epochs[here], turns[here] % size) + sum(self.sizes[:number])
        return epochs, ids

    def sources(self, places: Ids) -> tuple[Ids, Ids]:
        """Return the source of each place of the stream, and the number of earlier places of that source.

        The places of the first source are spread evenly by its share, as in a Bresenham line. The remaining places form
        the stream of the other sources, and so on.
        """
        sources, turns = np.empty_like(places), np.empty_like(places)
        left, here = np.arange(len(places)), places
        for number in range(len(self.sizes)):
            share = self.weights[number] / sum(self.weights[number:])
            before, after = _taken(here, share), _taken(here + 1, share)
            mine = after > before if number < len(self.sizes) - 1 else np.ones(len(here), dtype=bool)
            sources[left[mine]] = number
            turns[left[mine]] = before[mine] if number < len(self.sizes) - 1 else here[mine]
            left, here = left[~mine], (here - before)[~mine]
        return sources, turns


def _taken(places: Ids, share: float) -> Ids:
    """Return round(places * share), exact for places below 2^48.

    It is computed in integers, with the share in units of 2^-32.
    """
    parts, scaled = round(share * 2**32), places.astype(np.uint64)
    high, low = scaled >> np.uint64(32), scaled & np.uint64(0xFFFFFFFF)
    taken: Ids = (high * np.uint64(parts) + ((low * np.uint64(parts) + np.uint64(2**31)) >> np.uint64(32))).astype(
        np.int64
    )
    return taken
