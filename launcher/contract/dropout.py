"""Counter-based dropout: each number that a model draws in a training step is a hash of the purpose of the draw.

The definition, in unsigned 32-bit words. A state is a pair of words (low, high):

    key of the sample     Philox of (seed, stream, epoch, sample id); of (seed, stream, step) if all samples share it
    place in the model    exclusive or with the 64-bit BLAKE2b of the module's path
    call                  fold(state, invocation of the module in the step * 2^16 + draw within the invocation)
    coordinate            fold(state, c) for each coordinate of the element in its sample, except the last one
    draw                  a half of word(state, last // 2) as a signed number: the low half if `last` is even, else
                          the high half

A value is dropped if its draw is below `threshold(rate)`. Rates are therefore exact to 2^-17. Kept values are divided
by `kept(rate)`, the mean share of kept values. Numbers in (0, 1) take the 23 highest bits of word(state, last).

`mix` is the finaliser lowbias32 (Wellons, Prospecting for Hash Functions, 2018), a bijection of 32-bit words with two
multiplications. Position and feature are separate coordinates, not one flat index, so that padding does not change a
draw. `launcher.train.counter_dropout` computes the same bits with torch.
"""

import hashlib
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from launcher.contract import random

Words = NDArray[np.uint32]
State = tuple[Words, Words]

GOLDEN, FIRST, SECOND = 0x9E3779B1, 0x7FEB352D, 0x846CA68B
SHIFTS = (16, 15, 16)
DRAWS = 2**16
VERSION = 1
"""Version of this definition, stored in checkpoints."""


def sample_keys(seed: int, epochs: ArrayLike, samples: ArrayLike) -> NDArray[np.int64]:
    """Return the keys of samples in epochs: 64 bits as signed integers."""
    return _joined(random.draws(seed, random.Stream.DROPOUT, epochs, samples, 0))


def step_key(seed: int, step: int) -> NDArray[np.int64]:
    """Return the key, of shape (1,), for draws that all samples of a step share, such as skipped layers."""
    return _joined(random.draws(seed, random.Stream.DROPOUT, [step], [0], 1))


@cache
def place_key(path: str) -> int:
    """Return the 64-bit key of a module's path in the model."""
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "little")


def state(keys: ArrayLike, path: str, invocation: int = 0, draw: int = 0) -> State:
    """Return the states of keys (int64) at a place of the model, before any coordinate."""
    return begin(keys, place_key(path), call(invocation, draw))


def begin(keys: ArrayLike, place: int, number: int) -> State:
    """Return the states of keys (int64) at a place of this key, with the coordinate of a call."""
    words = np.asarray(keys, dtype=np.int64).view(np.uint64) ^ np.uint64(place)
    low, high = (words & np.uint64(0xFFFFFFFF)).astype(np.uint32), (words >> np.uint64(32)).astype(np.uint32)
    return fold((low, high), number)


def call(invocation: int, draw: int) -> int:
    """Return the coordinate of a draw in an invocation of its module: invocation * 2^16 + draw.

    A module may run several times in a step. Raises ValueError for a `draw` from 2^16 or an `invocation` from 2^15 on.
    """
    if not (0 <= draw < 2**16 and 0 <= invocation < 2**15):
        raise ValueError(f"draw {draw} of invocation {invocation} has no number of its own")
    return (invocation << 16) + draw


@np.errstate(over="ignore")  # numpy warns of the overflow of scalars
def fold(pair: State, coordinate: ArrayLike) -> State:
    """Add a coordinate (below 2^32) to states, broadcast together."""
    low, high = pair
    high = mix(high ^ (np.asarray(coordinate).astype(np.uint32) * np.uint32(GOLDEN)))
    return mix(low + high), high


@np.errstate(over="ignore")
def word(pair: State, index: ArrayLike) -> Words:
    """Return a 32-bit word for each state and index, broadcast together."""
    low, high = pair
    value = low + np.asarray(index).astype(np.uint32) * np.uint32(GOLDEN)
    value = (value ^ (value >> np.uint32(SHIFTS[0]))) * np.uint32(FIRST)
    value = value ^ high
    value = (value ^ (value >> np.uint32(SHIFTS[1]))) * np.uint32(SECOND)
    words: Words = value ^ (value >> np.uint32(SHIFTS[2]))
    return words


@np.errstate(over="ignore")
def mix(value: Words) -> Words:
    """Map 32-bit words by a bijection in which each bit of the input affects every bit of the output."""
    value = (value ^ (value >> np.uint32(SHIFTS[0]))) * np.uint32(FIRST)
    value = (value ^ (value >> np.uint32(SHIFTS[1]))) * np.uint32(SECOND)
    return value ^ (value >> np.uint32(SHIFTS[2]))


def draws(pair: State, last: ArrayLike) -> NDArray[np.int64]:
    """Return draws in [-2^15, 2^15) for each state and last coordinate, broadcast together."""
    index = np.asarray(last, dtype=np.int64)
    halves = word(pair, index // 2) >> (16 * (index % 2)).astype(np.uint32)
    return halves.astype(np.uint16).view(np.int16).astype(np.int64)


def uniform(pair: State, last: ArrayLike) -> NDArray[np.float64]:
    """Return numbers in (0, 1) for each state and last coordinate, broadcast together. 23 bits: exact in fp32."""
    return ((word(pair, last) >> np.uint32(9)).astype(np.float64) + 0.5) * 2.0**-23


def keep(pair: State, last: ArrayLike, rate: float) -> NDArray[np.bool_]:
    """Return whether values are kept under dropout of this rate.

    The result has a boolean for each state and last coordinate, broadcast together.
    """
    return draws(pair, last) >= threshold(rate)


def threshold(rate: float) -> int:
    """Return the number below which draws are dropped. Raises ValueError for a rate outside of [0, 1)."""
    return _dropped(rate) - DRAWS // 2


def kept(rate: float) -> float:
    """Return the mean share of kept values, by which kept values are divided."""
    return 1 - _dropped(rate) / DRAWS


def _dropped(rate: float) -> int:
    """Return how many of the 2^16 possible draws are dropped, at most 2^16 - 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"a dropout rate is at least 0 and below 1, not {rate}")
    return min(round(rate * DRAWS), DRAWS - 1)


def _joined(words: tuple[random.UInt, ...]) -> NDArray[np.int64]:
    return (words[0] | words[1] << np.uint64(32)).view(np.int64)
