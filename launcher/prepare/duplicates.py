"""Exact duplicates: of rows with equal content only the first is kept. A byte of memory for each row of the corpus."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher.config.atomic_files import flush

AT_ONCE = 2**21
"""Rows that are compared at a time, at some 100 bytes each."""


def drop(hashes: Sequence[Path], dropped: Sequence[Path]) -> int:
    """Find the rows to drop. Returns their number.

    hashes: a .npy file for each shard, shape (rows, 2), uint64. dropped: the files to write, each with the places of a
    shard's rows that stand in it, or in a shard before, already. Equal hashes (128 bits) are taken for equal rows.
    """
    counts = [len(np.load(file, mmap_mode="r", allow_pickle=False)) for file in hashes]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    buckets = max(1, -(-int(starts[-1]) // AT_ONCE))
    again = np.zeros(starts[-1], dtype=bool)
    for bucket in range(buckets):
        again[_later(hashes, starts, bucket, buckets)] = True
    for file, first, end in zip(dropped, starts, starts[1:], strict=False):
        save(file, np.flatnonzero(again[first:end]))
    return int(np.count_nonzero(again))


def save(file: Path, array: NDArray[Any]) -> None:
    """A .npy file, whole or not there. Through memory: numpy's own way to a full disk gives no reason for its error."""
    content, aside = io.BytesIO(), file.with_name(f".{os.getpid()}.{file.name}")
    np.save(content, array)
    aside.write_bytes(content.getbuffer())
    flush(aside)
    aside.replace(file)


def _later(hashes: Sequence[Path], starts: NDArray[np.int64], bucket: int, buckets: int) -> NDArray[np.int64]:
    """The rows, numbered through all shards, whose hash falls into this bucket and stood before."""
    keys, rows = [], []
    for file, start in zip(hashes, starts, strict=False):
        all_keys = np.load(file, mmap_mode="r", allow_pickle=False)
        here = np.flatnonzero(all_keys[:, 0] % np.uint64(buckets) == bucket)
        keys.append(all_keys[here])
        rows.append(here + start)
    key, row = np.concatenate(keys), np.concatenate(rows)
    order = np.lexsort((row, key[:, 1], key[:, 0]))
    key, row = key[order], row[order]
    again = np.zeros(len(row), dtype=bool)
    again[1:] = (key[1:] == key[:-1]).all(axis=1)
    later: NDArray[np.int64] = row[again]
    return later
