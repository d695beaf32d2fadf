"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011), vectorised over counters.

A draw is a pure function of its purpose. It does not depend on the rank or on the order of draws.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

UInt = NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


class Stream(IntEnum):
    """Purpose of a draw. Two streams never share a number. The values are part of the contract and never change."""

    ORDER = 1
    MASK = 2
    STEP = 3
    INIT = 4
    EVALUATE = 5
    MIXTURE = 6
    POINTS = 7
    DROPOUT = 8


@dataclass(frozen=True)
class Draw:
    """Random inputs of a sample's augmentation.

    `progress`: fraction of the run's steps that are done, from 0 to 1; 1 in an evaluation.
    """

    seed: int
    stream: Stream
    progress: float = 1.0


def philox(counter: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike], key: int) -> tuple[UInt, UInt, UInt, UInt]:
    """Return four 32-bit words (as uint64 arrays) for each counter.

    counter: four words of 32 bits, scalars or arrays that broadcast. key: 64 bits.
    """
    broadcast = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) for c in counter))
    c0, c1, c2, c3 = (c & _LOW for c in broadcast)
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c2 = (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0), (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c0, c1, c2, c3


@cache
def key(seed: int, stream: Stream) -> int:
    """Return the 64-bit Philox key for a recipe's seed (below 2^64) and a stream."""
    low, high, _, _ = philox((seed & 0xFFFFFFFF, seed >> 32, int(stream), 0x4C41554E), 0)
    return int(low) | int(high) << 32


def draws(
    seed: int, stream: Stream, epoch: ArrayLike, sample: ArrayLike, position: ArrayLike
) -> tuple[UInt, UInt, UInt, UInt]:
    """Return four independent uniform 32-bit words for each (epoch, sample id, position).

    Raises ValueError for epochs or sample ids from 2^48 on and positions from 2^32 on, which would repeat numbers.
    """
    epochs, samples, positions = (_counter(c, bits) for c, bits in ((epoch, 48), (sample, 48), (position, 32)))
    high = (samples >> _SHIFT) | ((epochs >> _SHIFT) << np.uint64(16))
    return philox((positions, samples, high, epochs), key(seed, stream))


def _counter(values: ArrayLike, bits: int) -> UInt:
    array = np.asarray(values)
    if np.any(array < 0) or np.any(array >= 2**bits):
        raise ValueError(f"a counter must be from 0 to below 2^{bits}")
    return array.astype(np.uint64)


def uniform(words: UInt) -> NDArray[np.float64]:
    """Convert 32-bit words to numbers in [0, 1)."""
    return words.astype(np.float64) * 2.0**-32


def below(words: UInt, bound: int) -> NDArray[np.int64]:
    """Convert 32-bit words to integers in [0, bound), for a bound from 1 to 2^32.

    Method: Lemire (2019), without rejection; the bias is below bound / 2^32.
    """
    return ((words * np.uint64(bound)) >> _SHIFT).astype(np.int64)


def seed_for(seed: int, stream: Stream, step: int, rank: int = 0) -> int:
    """Return a 63-bit seed for a library's own generator (dropout, weights): a function of (seed, step, rank)."""
    low, high, _, _ = draws(seed, stream, step, rank, 0)
    return (int(low) | int(high) << 32) >> 1
