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
    """Return the length of a row in tokens: `longest`, or less if some ranks would otherwise have no row.

    A row is at least as long as the longest sample. A row of at most a rank's mean share of tokens, rounded down, gives
    at least as many rows as ranks. Without samples, the result is `longest`.
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    if not len(tokens):
        return longest
    return int(min(longest, max(tokens.max(), tokens.sum() // ranks)))


def pack(lengths: Sequence[int] | NDArray[np.integer], capacity: int) -> list[Places]:
    """Return rows of places (indices into `lengths`), each of at most `capacity` tokens. Every place is in one row.

    Raises ValueError if a sample is longer than a row.
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    if len(tokens) and tokens.max() > capacity:
        raise ValueError(f"a sample of {tokens.max()} tokens does not fit into a row of {capacity}")
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free tokens of a row, row), sorted
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
