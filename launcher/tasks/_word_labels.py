"""Conversion of labels of words to labels of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.prepare.token_arrays import TokenArrays
from launcher.tasks import IGNORE, FeatureContext, Features, _labels, _token_batches

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Alignment:
    """The words of rows as truncated token sequences, including special tokens.

    tokens: the sequences of rows that have tokens. words: for each token the number of its word in the row, -1 for a
    special token. begins: whether a token is the first of its word. nonempty, truncated: for every row of the batch,
    whether it has tokens, and whether it was truncated.
    """

    tokens: TokenArrays
    words: Ints
    begins: NDArray[np.bool_]
    nonempty: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def features(batch: pa.RecordBatch, context: FeatureContext, label_all: bool) -> Features:
    """Return rows of words as truncated token sequences with labels. Rows without tokens are left out. label_all:
    whether all tokens of a word are labelled, instead of the first only."""
    words = batch.column("words")
    aligned = _align(words, context)
    counts = words.value_lengths().to_numpy().astype(np.int64)
    names: list[str] = context.survey["labels"]
    known = np.full(counts.sum(), IGNORE, dtype=np.int64)
    labels = np.full(len(aligned.words), IGNORE, dtype=np.int64)
    if "labels" in batch.schema.names:
        known = _labels.indices(batch.column("labels").flatten(), names, f"{context.key}.labels").to_numpy()
        labels = _token_labels(aligned, known, counts, names, label_all)
    last, seen = _reached(aligned)
    columns = {"labels": labels, "words": np.where(aligned.begins, aligned.words, -1)}
    lists = {
        name: _token_batches.lists(aligned.tokens, pa.array(values.astype(np.int32)))
        for name, values in columns.items()
    }
    lists["row_labels"] = _row_labels(known, counts, aligned.nonempty, seen[aligned.nonempty])
    table = _token_batches.table(aligned.tokens, context.encoder.vocab_size, **lists)
    empty = int(np.count_nonzero(~aligned.nonempty))
    return Features(table, empty, _cut(known, counts, aligned.truncated, last, names))


def _align(words: pa.Array, context: FeatureContext) -> _Alignment:
    """Encode rows of words, and find the word of each token."""
    encoder = context.encoder
    encoded, numbers = encoder.words(words)
    nonempty = encoded.lengths > 0
    room = context.max_length - len(encoder.prefix) - len(encoder.suffix)
    truncated = encoded.lengths > room
    words_of_tokens = TokenArrays(numbers.astype(np.uint32), encoded.offsets, encoded.begins)  # truncated as the tokens
    zeros = [np.zeros_like(tokens) for tokens in (encoder.prefix, encoder.suffix)]
    tokens = encoded.select(nonempty).truncated(room).between(encoder.prefix, encoder.suffix)
    words_of_tokens = words_of_tokens.select(nonempty).truncated(room).between(*zeros)
    number = words_of_tokens.ids.astype(np.int64) - 1
    begins = np.diff(number, prepend=-1) != 0
    begins[words_of_tokens.offsets[:-1]] = True
    begins &= number >= 0
    return _Alignment(tokens, number, begins, nonempty, truncated)


def _token_labels(aligned: _Alignment, known: Ints, counts: Ints, names: Sequence[str], label_all: bool) -> Ints:
    """Return the label of each token. known: labels of all words; counts: words in each row; names: of the labels."""
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1][aligned.nonempty]
    word = np.repeat(starts, aligned.tokens.lengths) + aligned.words
    labels = np.full(len(word), IGNORE, dtype=np.int64)
    labels[aligned.begins] = known[word[aligned.begins]]
    if label_all:
        rest = ~aligned.begins & (aligned.words >= 0)
        of_word = known[word[rest]]
        labels[rest] = np.where(of_word == IGNORE, IGNORE, _inside(names)[np.maximum(of_word, 0)])
    return labels


def _reached(aligned: _Alignment) -> tuple[Ints, Ints]:
    """Return two numbers of words for every row of the batch: up to the last word with a token, and with a token."""
    last, seen = np.zeros((2, len(aligned.nonempty)), np.int64)
    if len(aligned.words):
        starts = aligned.tokens.offsets[:-1]
        last[aligned.nonempty] = np.maximum.reduceat(aligned.words + 1, starts)
        seen[aligned.nonempty] = np.add.reduceat(aligned.begins.astype(np.int64), starts)
    return last, seen


def _row_labels(known: Ints, counts: Ints, nonempty: NDArray[np.bool_], seen: Ints) -> pa.Array:
    """Return a list of int32 for each row that has tokens: the labels of all its words; empty if every word has a
    token.

    known: labels of all words; counts: words in each row; nonempty: whether a row has tokens; seen: words with a token
    in each row that has tokens.
    """
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = TokenArrays(known.astype(np.uint32), offsets, np.ones(len(known), np.bool_)).select(nonempty)
    kept = rows.slices(rows.offsets[:-1], np.where(seen < rows.lengths, rows.offsets[1:], rows.offsets[:-1]))
    return _token_batches.lists(kept, pa.array(kept.ids.astype(np.int32)))


def _cut(known: Ints, counts: Ints, truncated: NDArray[np.bool_], last: Ints, labels: Sequence[str]) -> dict[str, Ints]:
    """Return `Features.cut`. known: labels of all words; counts: words in each row; truncated: whether a row was
    truncated; last: the number of words up to the last one with a token."""
    row = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(known)) - np.repeat(np.cumsum(counts) - counts, counts)
    beyond = truncated[row] & (number >= last[row])
    named = beyond & (known != IGNORE) & (known != (labels.index("O") if "O" in labels else IGNORE))
    return {
        "rows": truncated.astype(np.int64),
        "words": np.bincount(row[beyond], minlength=len(counts)),
        "labels": np.bincount(row[named], minlength=len(counts)),
    }


def _inside(labels: Sequence[str]) -> Ints:
    """Return for each label that of the later tokens of a word: I-PER for B-PER if it exists, else the same."""
    inside = [f"I-{label[2:]}" if label.startswith("B-") else label for label in labels]
    return np.array([labels.index(one if one in labels else own) for one, own in zip(inside, labels, strict=True)])
