"""The unigram language model of subwords (Kudo, 2018), the same whenever it is trained.

The trainer of `tokenizers` is not: it adds up probabilities in the order of a hash map that is another in each process,
so rounding tells apart pieces that are equally good, and the rarest characters get their scores by their place in it.
Here what decides is a whole number or is rounded first, and the text of a piece settles what is left. To that end the
seeds are given (the merges of BPE, as the paper suggests beside frequent substrings), and a piece counts where the best
segmentation of a word uses it, in place of a sum over all segmentations. So that the parts of words are not lost while
the whole words are still there, a piece also lends a share of its count to those that would take its place.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np

_KEPT = 0.75
"""The share of the longer pieces that one round leaves, after so many counts: as in SentencePiece."""
_COUNTS = 2
_LENT = 0.1
_BATCH = 10_000

Counts = Mapping[str, float]
Scores = dict[str, float]


def pieces(words: Mapping[str, int], seeds: Iterable[str], size: int) -> list[tuple[str, float]]:
    """At most `size` pieces with their log probabilities, the likeliest first. `words`: how often each is seen;
    `seeds`: candidates of two characters and more. Single characters come first, the frequent before the rare."""
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
    """Log probabilities, rounded: the last bits of a logarithm are the machine's. What is not used stays possible."""
    total = max(1, sum(counts.values()))
    return {piece: round(math.log(max(count, 0.5) / total), 6) for piece, count in counts.items()}


def _covered(words: Mapping[str, int], candidates: list[str]) -> Counts:
    """How many characters of the words each candidate would cover: the first guess, as in SentencePiece."""
    found, longest = dict.fromkeys(candidates, 0), max(map(len, candidates), default=0)
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + longest, len(word)) + 1):
                if (piece := word[start:end]) in found:
                    found[piece] += count * len(piece)
    return found


def _used(words: Mapping[str, int], scores: Scores) -> Counts:
    """How often each piece stands in the best segmentations of the words."""
    from tokenizers import Tokenizer, models

    backend: Any = Tokenizer(models.Unigram([("", 0.0), *scores.items()], unk_id=0))
    found, left = np.zeros(len(scores) + 1, dtype=np.int64), iter(words.items())
    while batch := list(islice(left, _BATCH)):
        ids = [encoding.ids for encoding in backend.encode_batch_fast([word for word, _ in batch])]
        np.add.at(found, np.concatenate(ids), np.repeat([count for _, count in batch], [len(each) for each in ids]))
    return dict(zip(scores, found[1:].tolist(), strict=True))


def _lent(pieces: list[str], counts: Counts, scores: Scores) -> Counts:
    """The counts, with what longer pieces lend to the parts that would take their places."""
    found = dict(counts)
    for piece in sorted(pieces, key=lambda piece: (-len(piece), piece)):
        for part in _without(piece, scores)[1]:
            found[part] += _LENT * found[piece]
    return found


def _missed(piece: str, count: float, scores: Scores) -> float:
    """What the log likelihood loses without a piece."""
    return round(count * (scores[piece] - _without(piece, scores)[0]), 6)


def _without(piece: str, scores: Scores) -> tuple[float, list[str]]:
    """The best segmentation of a piece into others, and its log probability."""
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
