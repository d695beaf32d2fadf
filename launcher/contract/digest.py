"""The digest of a step: 64 bits that identify its samples, whichever ranks they were on.

Each sample is hashed with its place in the global batch, its epoch, its id and its arrays, masked positions included.
Each rank adds the hashes of its own samples modulo 2^64. Samples may be added in any order, since each hash includes
the sample's place.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

MODULUS = 2**64


def sample(place: int, epoch: int, sample_id: int, arrays: Mapping[str, NDArray[np.generic]]) -> int:
    """Return the hash of one sample before padding.

    Arrays are hashed in the order of their names, integers as int64 and others as float64.
    """
    state = hashlib.blake2b(np.array([place, epoch, sample_id], dtype="<i8").tobytes(), digest_size=8)
    for name in sorted(arrays):
        array = arrays[name]
        kind = "<i8" if array.dtype.kind in "iub" else "<f8"
        state.update(f"{name}\0{kind}".encode() + np.array([array.ndim, *array.shape], dtype="<i8").tobytes())
        state.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return int.from_bytes(state.digest(), "little")


def total(parts: list[int]) -> int:
    """Return the sum of the hashes of samples or ranks, modulo 2^64."""
    return sum(parts) % MODULUS


def text(value: int) -> str:
    """Return a digest as 16 hexadecimal digits, as in metrics.jsonl."""
    return f"{value:016x}"
