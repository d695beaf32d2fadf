"""Selection of the tokens to mask: single ones, whole words, or spans of words. Pure functions of random words."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from launcher.contract import random

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def tokens(words: random.UInt, rate: float) -> Bools:
    """Select each token with probability `rate`. words: 32 random bits for each token."""
    selected: Bools = random.uniform(words) < rate
    return selected


def whole_words(words: random.UInt, begins: Bools, rate: float) -> Bools:
    """Select each word with probability `rate`, all its tokens together. words: 32 random bits for each token; those of
    a word's first token decide. begins: whether a word begins at a token."""
    first = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    selected: Bools = random.uniform(words)[first] < rate
    return selected


def span_lengths(words: random.UInt, p: float, longest: int) -> Ints:
    """Return lengths in words from a geometric distribution truncated at `longest` (Joshi et al., 2020)."""
    shares = np.cumsum(p * (1 - p) ** np.arange(longest))
    lengths: Ints = 1 + np.searchsorted(shares / shares[-1], random.uniform(words), side="right").astype(np.int64)
    return np.minimum(lengths, longest)


def spans(
    draws: tuple[random.UInt, ...], begins: Bools, free: Bools, rate: float, p: float, longest: int
) -> tuple[Bools, Ints]:
    """Select spans of whole words in one sample until the share of tokens is reached (SpanBERT: Joshi et al., 2020).

    A span begins at a uniformly drawn word and has a drawn length in words. Words that are already selected, or have a
    token that is not `free`, are skipped. The last word may exceed the budget. draws: four 32-bit words for each token;
    attempt k uses those of token k. Returns the selection, and for each token the first one of its span.
    """
    starts = np.flatnonzero(begins & free)
    selected, first = np.zeros(len(begins), dtype=bool), np.arange(len(begins))
    budget = int(rate * np.count_nonzero(free) + random.uniform(draws[2])[0]) if len(begins) else 0
    edges = np.append(np.flatnonzero(begins), len(begins))
    lengths = span_lengths(draws[0], p, longest)
    anchors = random.below(draws[1], max(1, len(starts)))
    for attempt in range(len(begins)):
        if np.count_nonzero(selected) >= budget or not len(starts):
            break
        word = int(np.searchsorted(edges, starts[anchors[attempt]]))
        _add_span(word, int(lengths[attempt]), edges, free, budget, selected, first)
    return selected, first


def _add_span(word: int, length: int, edges: Ints, free: Bools, budget: int, selected: Bools, first: Ints) -> None:
    """Select the words of one span, up to the budget."""
    begin = edges[word]
    for number in range(word, min(word + length, len(edges) - 1)):
        tokens = slice(edges[number], edges[number + 1])
        if np.count_nonzero(selected) >= budget or not free[tokens].all():
            return
        if not selected[tokens].any():
            selected[tokens], first[tokens] = True, begin


def protected(size: int, ids: Sequence[int]) -> Bools:
    """Return a table over the vocabulary: whether a token is one of `ids`."""
    table = np.zeros(size, dtype=bool)
    table[list(ids)] = True
    return table
