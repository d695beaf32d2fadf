"""Which samples share a row. A performance decision, like the split: a row is attended to sample by sample, so that the
loss does not know of it.

Best fit, the longest first (Johnson, 1973): each sample goes into the fullest row that has room for it.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


def capacity(lengths: Sequence[int] | NDArray[np.integer], ranks: int, longest: int) -> int:
    """How long a row may be: `longest`, or less where that would leave ranks without a row, as far as the longest
    sample allows (rows of at most a rank's share, rounded down, are no fewer than the ranks)."""
    tokens = np.asarray(lengths, dtype=np.int64)
    if not len(tokens):
        return longest
    return int(min(longest, max(tokens.max(), tokens.sum() // ranks)))


def pack(lengths: Sequence[int] | NDArray[np.integer], capacity: int) -> list[Places]:
    """Rows of places (indices into `lengths`), each at most `capacity` tokens long, every place in one of them.

    Raises ValueError where a single sample is longer than a row.
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
