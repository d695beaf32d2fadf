"""Selection of the tokens to mask: single tokens, whole words, or spans of words. Pure functions of random bits."""

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
    """Select each word, with all its tokens, with probability `rate`. words: 32 random bits for each token; those of a
    word's first token are used. begins: whether a word begins at a token."""
    first = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    selected: Bools = random.uniform(words)[first] < rate
    return selected


def span_lengths(words: random.UInt, p: float, longest: int) -> Ints:
    """Return lengths in words from a geometric distribution truncated at `longest` (Joshi et al., 2020). words: 32
    random bits for each length."""
    shares = np.cumsum(p * (1 - p) ** np.arange(longest))
    lengths: Ints = 1 + np.searchsorted(shares / shares[-1], random.uniform(words), side="right").astype(np.int64)
    return np.minimum(lengths, longest)


def spans(
    draws: tuple[random.UInt, ...], begins: Bools, free: Bools, rate: float, p: float, longest: int
) -> tuple[Bools, Ints]:
    """Select spans of whole words until a share `rate` of the free tokens is reached (Joshi et al., 2020).

    A span begins at a uniformly drawn word and has a drawn length in words. It skips words that are already selected,
    and ends before a word with a token that is not `free`. The last word may exceed the budget. draws: four 32-bit
    numbers for each token; attempt k uses those of token k. begins: whether a word begins at a token. Returns the
    selection, and for each token the index of the first token of its span.
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
    """Select the words of one span in place, until the budget is reached or a word has a token that is not free."""
    begin = edges[word]
    for number in range(word, min(word + length, len(edges) - 1)):
        tokens = slice(edges[number], edges[number + 1])
        if np.count_nonzero(selected) >= budget or not free[tokens].all():
            return
        if not selected[tokens].any():
            selected[tokens], first[tokens] = True, begin


def protected(size: int, ids: Sequence[int]) -> Bools:
    """Return an array over the vocabulary, shape (size,), which is True for the tokens in `ids`."""
    table = np.zeros(size, dtype=bool)
    table[list(ids)] = True
    return table
