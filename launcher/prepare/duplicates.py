"""Exact deduplication: only the first of several rows with equal content is kept. It takes a byte of memory per row."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from launcher.config.atomic_files import write_aside

ROWS_AT_ONCE = 2**21
"""Rows that are compared at a time, at some 100 bytes each."""


def drop(hashes: Sequence[Path], dropped: Sequence[Path]) -> int:
    """Write the indices of the duplicates. Returns their number.

    hashes: a .npy file for each shard, shape (rows, 2), uint64. Rows count as equal if their hashes (128 bits) are.
    dropped: the .npy files to write, one for each shard, with the indices of the rows to drop.
    """
    counts = [len(np.load(file, mmap_mode="r", allow_pickle=False)) for file in hashes]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    buckets = max(1, -(-int(starts[-1]) // ROWS_AT_ONCE))
    duplicate = np.zeros(starts[-1], dtype=bool)
    for bucket in range(buckets):
        duplicate[_repeated(hashes, starts, bucket, buckets)] = True
    for file, first, end in zip(dropped, starts, starts[1:], strict=False):
        save(file, np.flatnonzero(duplicate[first:end]))
    return int(np.count_nonzero(duplicate))


def save(file: Path, array: NDArray[np.generic]) -> None:
    """Write a .npy file atomically.

    It is built in memory, because numpy does not report the reason if the disk is full.
    """
    content = io.BytesIO()
    np.save(content, array)
    with write_aside(file) as aside:
        aside.write_bytes(content.getbuffer())


def _repeated(hashes: Sequence[Path], starts: NDArray[np.int64], bucket: int, buckets: int) -> NDArray[np.int64]:
    """Return the rows of a bucket of hashes that repeat an earlier row, numbered through all shards."""
    keys, rows = [], []
    for file, start in zip(hashes, starts, strict=False):
        all_keys = np.load(file, mmap_mode="r", allow_pickle=False)
        here = np.flatnonzero(all_keys[:, 0] % np.uint64(buckets) == bucket)
        keys.append(all_keys[here])
        rows.append(here + start)
    key, row = np.concatenate(keys), np.concatenate(rows)
    order = np.lexsort((row, key[:, 1], key[:, 0]))
    key, row = key[order], row[order]
    repeated = np.zeros(len(row), dtype=bool)
    repeated[1:] = (key[1:] == key[:-1]).all(axis=1)
    found: NDArray[np.int64] = row[repeated]
    return found
