"""Tokens of many texts in flat arrays, so that operations on texts are operations on arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass(frozen=True)
class TokenArrays:
    """The tokens of texts.

    `ids`: token ids, shape (tokens,). `offsets`: text i is `ids[offsets[i]:offsets[i + 1]]`. `begins`: whether a word
    of the pre-tokenizer begins at a token, shape (tokens,). `types`: token type ids of pairs.
    """

    ids: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    begins: NDArray[np.bool_]
    types: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def slices(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> "TokenArrays":
        """Return these ranges of the tokens as new texts."""
        lengths = stops - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        where = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        types = None if self.types is None else self.types[where]
        return TokenArrays(self.ids[where], offsets, self.begins[where], types)

    def select(self, chosen: NDArray[np.bool_]) -> "TokenArrays":
        """Return the texts that a mask selects."""
        return self.slices(self.offsets[:-1][chosen], self.offsets[1:][chosen])

    def truncated(self, most: int) -> "TokenArrays":
        """Return the first `most` tokens of each text."""
        return self.slices(self.offsets[:-1], np.minimum(self.offsets[1:], self.offsets[:-1] + most))

    def windows(self, most: int, stride: int) -> "TokenArrays":
        """Split each text into windows of at most `most` tokens. Neighbours share `stride` tokens, fewer than
        `most`."""
        step = most - stride
        counts = 1 + np.maximum(0, -(-(self.lengths - most) // step))
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(self.offsets[:-1], counts) + number * step
        return self.slices(starts, np.minimum(starts + most, np.repeat(self.offsets[1:], counts)))

    def between(self, prefix: NDArray[np.uint32], suffix: NDArray[np.uint32]) -> "TokenArrays":
        """Add tokens before and after each text. Each added token begins a word."""
        around = len(prefix) + len(suffix)
        if not around:
            return self
        offsets = self.offsets + around * np.arange(len(self.offsets))
        ids, begins = np.empty(offsets[-1], dtype=np.uint32), np.ones(offsets[-1], dtype=np.bool_)
        where = np.arange(len(self.ids)) + np.repeat(offsets[:-1] + len(prefix) - self.offsets[:-1], self.lengths)
        ids[where], begins[where] = self.ids, self.begins
        for number, token in enumerate(prefix):
            ids[offsets[:-1] + number] = token
        for number, token in enumerate(suffix[::-1], start=1):
            ids[offsets[1:] - number] = token
        return TokenArrays(ids, offsets, begins)

    def after(self, earlier: "TokenArrays") -> "TokenArrays":
        """Return the texts of both, the earlier ones first."""
        return concatenate(earlier, self)

    def cut(self, length: int, last: bool) -> "tuple[TokenArrays, TokenArrays]":
        """Join all texts and cut them into pieces of `length` tokens.

        Returns the pieces, and the remaining tokens as one text. `last`: the remaining tokens become a shorter piece.
        """
        total = len(self.ids)
        whole = total if last else total // length * length
        offsets = np.minimum(np.arange(-(-whole // length) + 1, dtype=np.int64) * length, whole)
        rest = TokenArrays(self.ids[whole:], np.array([0, total - whole], dtype=np.int64), self.begins[whole:])
        return TokenArrays(self.ids[:whole], offsets, self.begins[:whole]), rest


@dataclass(frozen=True)
class PairTemplate:
    """The special tokens around a pair of texts in a sample.

    `special`: tokens before, between and after the texts. `types`: token type ids of these three groups and of the two
    texts, in the order of the sample; None for a model without types.
    """

    special: tuple[NDArray[np.uint32], ...]
    types: tuple[NDArray[np.uint8], ...] | None

    def __len__(self) -> int:
        return sum(map(len, self.special))

    def around(self, one: NDArray[np.uint32], other: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return the sample of two texts."""
        before, between, after = self.special
        return np.concatenate([before, one, between, other, after])

    def types_of(self, one: int, other: int) -> NDArray[np.uint8]:
        """Return the token type ids of a sample of two texts with `one` and `other` tokens."""
        assert self.types is not None
        before, first, between, second, after = self.types
        return np.concatenate([before, np.repeat(first[:1], one), between, np.repeat(second[:1], other), after])


def prefixed(prefix: str, texts: pa.Array) -> pa.Array:
    """Add a prefix to each text."""
    import pyarrow.compute as pc

    first, separator = (pa.scalar(text, texts.type) for text in (prefix, ""))
    return pc.binary_join_element_wise(first, texts, separator)


def join(encodings: "Sequence[Encoding]") -> TokenArrays:
    """Convert encodings of `tokenizers` to arrays."""
    lengths = np.array([len(e) for e in encodings], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.fromiter((i for e in encodings for i in e.ids), dtype=np.uint32, count=offsets[-1])
    words = np.fromiter(
        (-1 if w is None else w for e in encodings for w in e.word_ids), dtype=np.int64, count=offsets[-1]
    )
    begins = np.ones(len(ids), dtype=np.bool_)
    begins[1:] = (words[1:] != words[:-1]) | (words[1:] < 0)
    begins[offsets[:-1][lengths > 0]] = True
    return TokenArrays(ids, offsets, begins)


def no_texts() -> TokenArrays:
    """Return arrays without a text."""
    return TokenArrays(np.empty(0, np.uint32), np.zeros(1, np.int64), np.empty(0, np.bool_))


def concatenate(one: TokenArrays, other: TokenArrays) -> TokenArrays:
    """Return the texts of both, those of `one` first."""
    offsets = np.concatenate([one.offsets, other.offsets[1:] + one.offsets[-1]])
    return TokenArrays(np.concatenate([one.ids, other.ids]), offsets, np.concatenate([one.begins, other.begins]))


def take(pieces: TokenArrays, numbers: NDArray[np.int64], first: NDArray[np.int64]) -> TokenArrays:
    """Join pieces to texts: text i consists of the pieces `numbers[first[i]:first[i + 1]]`."""
    lengths = pieces.lengths[numbers]
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    where = np.arange(ends[-1]) + np.repeat(pieces.offsets[numbers] - ends[:-1], lengths)
    return TokenArrays(pieces.ids[where], ends[first], pieces.begins[where])


def interleave(one: TokenArrays, other: TokenArrays, from_other: NDArray[np.bool_]) -> TokenArrays:
    """Merge the texts of both. `from_other`: for each text of the result, whether it is the next of `other`."""
    both = concatenate(one, other)
    numbers = np.empty(len(from_other), dtype=np.int64)
    numbers[~from_other] = np.arange(len(one))
    numbers[from_other] = len(one) + np.arange(len(other))
    return take(both, numbers, np.arange(len(numbers) + 1))
