"""The split of a global batch into ranks and micro-batches. The loss does not depend on it: only performance does.

Every rank computes the whole split from the sample lengths. Samples are assigned in descending length to the rank with
the fewest tokens (LPT; Graham, 1969), so that ranks finish together. Each rank's share is cut into micro-batches of
similar lengths under a budget of tokens, which counts padding. All ranks have the same number of micro-batches, because
some strategies communicate in the forward pass. If a rank has too few samples, its last micro-batches are empty.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]


def split(
    lengths: Sequence[int] | NDArray[np.integer],
    ranks: int,
    max_tokens: int | None = None,
    equal_lengths: bool = False,
    padding_free: bool = False,
) -> list[list[Places]]:
    """Return the micro-batches of each rank: arrays of places (indices into `lengths`) in descending length.

    lengths: tokens of each sample of the global batch. max_tokens: budget of a micro-batch, samples x longest sample.
    equal_lengths: whether the samples of a micro-batch have one length, for models whose outputs change with padding.
    padding_free: whether a micro-batch costs the sum of its lengths, without padding.
    Raises ValueError if there is no rank, or if a sample exceeds the budget.
    """
    if ranks < 1:
        raise ValueError(f"a batch needs a rank to fall on, not {ranks}")
    tokens = np.asarray(lengths, dtype=np.int64)
    if max_tokens is not None and len(tokens) and tokens.max() > max_tokens:
        raise ValueError(f"a sample of {tokens.max()} tokens does not fit into max_tokens {max_tokens}")
    uncut = _deal(tokens, ranks)
    if padding_free:
        shares = [rows_without_padding(share, tokens, max_tokens) for share in uncut]
    else:
        shares = [micro_batches(share, tokens, max_tokens, equal_lengths) for share in uncut]
    count = max((len(share) for share in shares), default=0)
    return [_pad(share, tokens, count, padding_free) for share in shares]


def _deal(tokens: Places, ranks: int) -> list[Places]:
    """Assign each sample, the longest first, to the rank with the fewest tokens so far.

    Returns the places (indices into `tokens`) of each rank, in descending length. Samples of equal length keep their
    order.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    load = [(0, 0, rank) for rank in range(ranks)]
    for place in np.argsort(-tokens, kind="stable").tolist():
        total, held, rank = load[0]
        shares[rank].append(place)
        heapq.heapreplace(load, (total + int(tokens[place]), held + 1, rank))
    return [np.asarray(share, dtype=np.int64) for share in shares]


def micro_batches(
    share: Places, tokens: Places, max_tokens: int | None, equal_lengths: bool = False, most: int | None = None
) -> list[Places]:
    """Cut a rank's share, places in descending length, into micro-batches.

    Each takes as many samples as `max_tokens` allows, but at least one and at most `most`. `equal_lengths`: the samples
    of a micro-batch have one length.
    """
    pieces, start, lengths = [], 0, tokens[share]
    while start < len(share):
        longest = int(lengths[start])
        stop = int(np.searchsorted(-lengths, -longest, side="right")) if equal_lengths else len(share)
        if max_tokens is not None:
            stop = min(stop, start + max(1, max_tokens // max(1, longest)))
        if most is not None:
            stop = min(stop, start + most)
        pieces.append(share[start:stop])
        start = stop
    return pieces


def rows_without_padding(
    share: Places, tokens: Places, max_tokens: int | None, most: int | None = None
) -> list[Places]:
    """Cut a rank's share, places in descending length, into micro-batches of at most `max_tokens` tokens in total, but
    at least one sample and at most `most`."""
    if max_tokens is None and most is None:
        return [share] if len(share) else []
    pieces, start, ends = [], 0, np.cumsum(tokens[share])
    while start < len(share):
        before, stop = int(ends[start - 1]) if start else 0, len(share)
        if max_tokens is not None:
            stop = max(start + 1, int(np.searchsorted(ends, before + max_tokens, side="right")))
        if most is not None:
            stop = min(stop, start + most)
        pieces.append(share[start:stop])
        start = stop
    return pieces


def _pad(pieces: list[Places], tokens: Places, count: int, padding_free: bool) -> list[Places]:
    """Return exactly `count` pieces: halve the piece with the most tokens repeatedly, then add empty pieces."""
    pieces = list(pieces)
    while len(pieces) < count:
        costs = [_cost(piece, tokens, padding_free) if len(piece) > 1 else -1 for piece in pieces]
        at = int(np.argmax(costs)) if costs else -1
        if at < 0 or costs[at] < 0:
            return pieces + [np.empty(0, dtype=np.int64)] * (count - len(pieces))
        half = (len(pieces[at]) + 1) // 2
        pieces[at : at + 1] = [pieces[at][:half], pieces[at][half:]]
    return pieces


def _cost(piece: Places, tokens: Places, padding_free: bool) -> int:
    """Return the tokens that a micro-batch computes."""
    return int(tokens[piece].sum()) if padding_free else len(piece) * int(tokens[piece[0]])
