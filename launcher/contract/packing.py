"""Packing of samples into rows. It affects performance only: attention stays within each sample, so that the loss does
not change.

Best fit decreasing (Johnson, 1973): each sample, the longest first, goes into the fullest row that has room for it.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


def capacity(lengths: Sequence[int] | NDArray[np.integer], ranks: int, longest: int) -> int:
    """Length of a row: `longest`, or less where ranks would otherwise have no row, but at least the longest sample.
    Rows of at most a rank's share of tokens, rounded down, are no fewer than the ranks."""
    tokens = np.asarray(lengths, dtype=np.int64)
    if not len(tokens):
        return longest
    return int(min(longest, max(tokens.max(), tokens.sum() // ranks)))


def pack(lengths: Sequence[int] | NDArray[np.integer], capacity: int) -> list[Places]:
    """Rows of places (indices into `lengths`), each of at most `capacity` tokens. Every place is in one row.

    Raises ValueError where a sample is longer than a row.
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    if len(tokens) and tokens.max() > capacity:
        raise ValueError(f"a sample of {tokens.max()} tokens does not fit into a row of {capacity}")
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is left of each row, and which, sorted
    for place in np.argsort(-tokens, kind="stable").tolist():
        at = bisect_left(rooms, (int(tokens[place]), -1))
        if at == len(rooms):
            rows.append([])
            room, row = capacity, len(rows) - 1
        else:
            room, row = rooms.pop(at)
        rows[row].append(place)
        insort(rooms, (room - int(tokens[place]), row))
    return [np.asarray(row, dtype=np.int64) for row in rows]
