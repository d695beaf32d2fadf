"""Training of the unigram language model of subwords (Kudo, 2018), with the same result each time.

The trainer of `tokenizers` is not deterministic: it adds up probabilities in the order of a hash map, which differs in
each process. Rounding then decides between pieces that are equally good, and the scores of the rarest characters depend
on the order. Here whole or rounded numbers decide, and ties are broken by the text of a piece.

To this end, the seeds are the merges of BPE (the paper suggests them beside frequent substrings), and a piece is
counted where the best segmentation of a word uses it, not over all segmentations. A piece also lends a share of its
count to the pieces that would replace it. This keeps the parts of words during the rounds in which the whole words are
still pieces.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np

_KEPT = 0.75
"""Share of the longer pieces that one round keeps, as in SentencePiece."""
_COUNTS = 2
"""Counts in each round, as in SentencePiece."""
_LENT = 0.1
"""Share of its count that a piece lends to the pieces that would replace it."""
_BATCH = 10_000
"""Words that are segmented at a time."""

Counts = Mapping[str, float]
Scores = dict[str, float]


def pieces(words: Mapping[str, int], seeds: Iterable[str], size: int) -> list[tuple[str, float]]:
    """Return at most `size` pieces with their log probabilities, the most probable first.

    words: word -> frequency. seeds: candidates of two or more characters. Single characters take precedence, the
    frequent ones before the rare.
    """
    words = dict(sorted(words.items()))
    characters = _characters(words)[:size]
    longer = sorted({seed for seed in seeds if len(seed) > 1 and set(seed) <= set(characters)})
    room = size - len(characters)
    scores = _scores(_covered(words, [*characters, *longer]))
    while True:
        for _ in range(_COUNTS):
            counts = _used(words, scores)
            scores = _scores(counts)
        if len(longer) <= room:
            return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        counts = _lent(longer, counts, scores)
        scores = _scores(counts)
        missed = {piece: _missed(piece, counts[piece], scores) for piece in longer}
        longer.sort(key=lambda piece: (-missed[piece], piece))
        longer = longer[: max(room, int(_KEPT * len(longer)))]
        scores = {piece: scores[piece] for piece in [*characters, *longer]}


def _characters(words: Mapping[str, int]) -> list[str]:
    found = Counter[str]()
    for word, count in words.items():
        for character in word:
            found[character] += count
    return sorted(found, key=lambda character: (-found[character], character))


def _scores(counts: Counts) -> Scores:
    """Compute log probabilities, rounded, since the last bits of a logarithm depend on the machine. An unused piece
    keeps a small probability."""
    total = max(1, sum(counts.values()))
    return {piece: round(math.log(max(count, 0.5) / total), 6) for piece, count in counts.items()}


def _covered(words: Mapping[str, int], candidates: list[str]) -> Counts:
    """Count the characters of the words that each candidate would cover: the initial counts, as in SentencePiece."""
    found, longest = dict.fromkeys(candidates, 0), max(map(len, candidates), default=0)
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + longest, len(word)) + 1):
                if (piece := word[start:end]) in found:
                    found[piece] += count * len(piece)
    return found


def _used(words: Mapping[str, int], scores: Scores) -> Counts:
    """Count each piece in the best segmentations of the words."""
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.Unigram([("", 0.0), *scores.items()], unk_id=0))
    found, left = np.zeros(len(scores) + 1, dtype=np.int64), iter(words.items())
    while batch := list(islice(left, _BATCH)):
        ids = [encoding.ids for encoding in backend.encode_batch_fast([word for word, _ in batch])]
        np.add.at(found, np.concatenate(ids), np.repeat([count for _, count in batch], [len(each) for each in ids]))
    return dict(zip(scores, found[1:].tolist(), strict=True))


def _lent(pieces: list[str], counts: Counts, scores: Scores) -> Counts:
    """Return the counts after each piece has lent a share `_LENT` of its count to others.

    The others are the pieces of its best segmentation without itself. Long pieces come first, so that pieces also lend
    what they were lent. The count of the lender stays.
    """
    found = dict(counts)
    for piece in sorted(pieces, key=lambda piece: (-len(piece), piece)):
        for part in _without(piece, scores)[1]:
            found[part] += _LENT * found[piece]
    return found


def _missed(piece: str, count: float, scores: Scores) -> float:
    """Compute the loss of log likelihood without a piece."""
    return round(count * (scores[piece] - _without(piece, scores)[0]), 6)


def _without(piece: str, scores: Scores) -> tuple[float, list[str]]:
    """Find the best segmentation of a piece into others. Returns its log probability and its pieces."""
    best, begins = [0.0] + [-math.inf] * len(piece), [0] * (len(piece) + 1)
    for end in range(1, len(piece) + 1):
        for start in range(end):
            part = piece[start:end]
            if part != piece and best[start] + scores.get(part, -math.inf) > best[end]:
                best[end], begins[end] = best[start] + scores[part], start
    parts, end = list[str](), len(piece)
    while end:
        parts.append(piece[begins[end] : end])
        end = begins[end]
    return best[-1], parts
