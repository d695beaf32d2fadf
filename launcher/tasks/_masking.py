"""Which tokens are to be predicted: single ones, whole words, or spans of words. Functions of counters alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from launcher.contract import random

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def tokens(words: random.UInt, rate: float) -> Bools:
    """Each token by itself, with this probability. words: a 32-bit word for each token."""
    chosen: Bools = random.uniform(words) < rate
    return chosen


def whole_words(words: random.UInt, begins: Bools, rate: float) -> Bools:
    """Each word with this probability, all tokens of it together: the first one's word decides."""
    first = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    chosen: Bools = random.uniform(words)[first] < rate
    return chosen


def span_lengths(words: random.UInt, p: float, longest: int) -> Ints:
    """Lengths in words from a geometric distribution cut off at `longest` (Joshi et al., 2020)."""
    shares = np.cumsum(p * (1 - p) ** np.arange(longest))
    found: Ints = 1 + np.searchsorted(shares / shares[-1], random.uniform(words), side="right").astype(np.int64)
    return np.minimum(found, longest)


def spans(
    draws: tuple[random.UInt, ...], begins: Bools, free: Bools, rate: float, p: float, longest: int
) -> tuple[Bools, Ints]:
    """Spans of whole words until the share of tokens is reached (SpanBERT: Joshi et al., 2020), in one sample.

    A span begins at a word drawn evenly and is as many words long as drawn; words already chosen, and those with a
    token that is not `free`, are passed over. The last word may go beyond the budget. draws: four 32-bit words for each
    token, of which attempt k takes those of token k. Returns what is chosen, and for each token the first of its span.
    """
    starts = np.flatnonzero(begins & free)
    chosen, owner = np.zeros(len(begins), dtype=bool), np.arange(len(begins))
    budget = int(rate * np.count_nonzero(free) + random.uniform(draws[2])[0]) if len(begins) else 0
    edges = np.append(np.flatnonzero(begins), len(begins))
    lengths = span_lengths(draws[0], p, longest)
    anchors = random.below(draws[1], max(1, len(starts)))
    for attempt in range(len(begins)):
        if np.count_nonzero(chosen) >= budget or not len(starts):
            break
        word = int(np.searchsorted(edges, starts[anchors[attempt]]))
        _add(word, int(lengths[attempt]), edges, free, budget, chosen, owner)
    return chosen, owner


def _add(word: int, length: int, edges: Ints, free: Bools, budget: int, chosen: Bools, owner: Ints) -> None:
    """Choose the words of one span, up to the budget."""
    first = edges[word]
    for number in range(word, min(word + length, len(edges) - 1)):
        here = slice(edges[number], edges[number + 1])
        if np.count_nonzero(chosen) >= budget or not free[here].all():
            return
        if not chosen[here].any():
            chosen[here], owner[here] = True, first


def protected(size: int, ids: Sequence[int]) -> Bools:
    """A table over the vocabulary: the tokens that are never chosen."""
    table = np.zeros(size, dtype=bool)
    table[list(ids)] = True
    return table
