"""The witness of the contract: 64 bits over what a step's samples were, whatever rank they fell on.

Each sample is hashed with its place in the global batch, its epoch, its id and the arrays the model is given (so the
masked positions are in it). The hashes are added modulo 2^64: ranks add up their own shares, and the sum is that of the
canonical order, since each term holds its place.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

MODULUS = 2**64


def sample(place: int, epoch: int, sample_id: int, arrays: Mapping[str, NDArray[np.generic]]) -> int:
    """The hash of one sample, before padding. Arrays enter in the order of their names; integers as int64, others as
    float64."""
    state = hashlib.blake2b(np.array([place, epoch, sample_id], dtype="<i8").tobytes(), digest_size=8)
    for name in sorted(arrays):
        array = arrays[name]
        kind = "<i8" if array.dtype.kind in "iub" else "<f8"
        state.update(f"{name}\0{kind}".encode() + np.array([array.ndim, *array.shape], dtype="<i8").tobytes())
        state.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return int.from_bytes(state.digest(), "little")


def total(parts: list[int]) -> int:
    """The sum of hashes, of samples or of ranks' shares."""
    return sum(parts) % MODULUS


def text(value: int) -> str:
    """As it stands in metrics.jsonl: 16 hexadecimal digits."""
    return f"{value:016x}"
