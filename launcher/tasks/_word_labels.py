"""Labels of words as labels of tokens."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from launcher.prepare.token_arrays import TokenArrays
from launcher.tasks import IGNORE, FeatureContext, Features, _labels, _token_batches

Ints = NDArray[np.int64]


def features(batch: pa.RecordBatch, context: FeatureContext, label_all: bool) -> Features:
    """Return rows of words as truncated token sequences with labels, without rows that have no token. label_all:
    whether further tokens of a word get its label too."""
    encoder, words = context.encoder, batch.column("words")
    encoded, numbers = encoder.words(words)
    nonempty = encoded.lengths > 0
    room = context.max_length - len(encoder.prefix) - len(encoder.suffix)
    truncated = encoded.lengths > room
    words_of_tokens = TokenArrays(numbers.astype(np.uint32), encoded.offsets, encoded.begins)  # cut as the tokens are
    zeros = [np.zeros_like(tokens) for tokens in (encoder.prefix, encoder.suffix)]
    encoded = encoded.select(nonempty).truncated(room).between(encoder.prefix, encoder.suffix)
    words_of_tokens = words_of_tokens.select(nonempty).truncated(room).between(*zeros)
    number = words_of_tokens.ids.astype(np.int64) - 1
    begins = np.diff(number, prepend=-1) != 0
    begins[words_of_tokens.offsets[:-1]] = True
    begins &= number >= 0
    counts = words.value_lengths().to_numpy().astype(np.int64)
    labels: list[str] = context.survey["labels"]
    known, label = np.full(counts.sum(), IGNORE, dtype=np.int64), np.full(len(number), IGNORE, dtype=np.int64)
    if "labels" in batch.schema.names:
        known = _labels.indices(batch.column("labels").flatten(), labels, f"{context.key}.labels").to_numpy()
        starts = np.concatenate([[0], np.cumsum(counts)])[:-1][nonempty]
        word = np.repeat(starts, words_of_tokens.lengths) + number
        label[begins] = known[word[begins]]
        if label_all:
            rest = ~begins & (number >= 0)
            of_word = known[word[rest]]
            label[rest] = np.where(of_word == IGNORE, IGNORE, _inside(labels)[np.maximum(of_word, 0)])
    columns = {"labels": label, "words": np.where(begins, number, -1)}
    lists = {name: _token_batches.lists(encoded, pa.array(values.astype(np.int32))) for name, values in columns.items()}
    last, seen = np.zeros((2, len(counts)), np.int64)
    if len(number):
        last[nonempty] = np.maximum.reduceat(number + 1, words_of_tokens.offsets[:-1])
        seen[nonempty] = np.add.reduceat(begins.astype(np.int64), words_of_tokens.offsets[:-1])
    lists["row_labels"] = _row_labels(known, counts, nonempty, seen[nonempty])
    table = _token_batches.table(encoded, encoder.vocab_size, **lists)
    return Features(table, int(np.count_nonzero(~nonempty)), _cut(known, counts, truncated, last, labels))


def _row_labels(known: Ints, counts: Ints, nonempty: NDArray[np.bool_], seen: Ints) -> pa.Array:
    """Return the labels of all words of each row with a token, as lists of int32; empty where every word has a token.
    known: labels of all words; counts: words in each row; seen: words with a token in each row that is not empty."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = TokenArrays(known.astype(np.uint32), offsets, np.ones(len(known), np.bool_)).select(nonempty)
    kept = rows.slices(rows.offsets[:-1], np.where(seen < rows.lengths, rows.offsets[1:], rows.offsets[:-1]))
    return _token_batches.lists(kept, pa.array(kept.ids.astype(np.int32)))


def _cut(known: Ints, counts: Ints, truncated: NDArray[np.bool_], last: Ints, labels: Sequence[str]) -> dict[str, Ints]:
    """Return `Features.cut`. known: labels of all words; counts: words in each row; truncated: whether a row is cut;
    last: the number of words up to the last one with a token."""
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
    """Return the label of a word's further tokens for each label: I-PER for B-PER, where it exists."""
    inside = [f"I-{label[2:]}" if label.startswith("B-") else label for label in labels]
    return np.array([labels.index(one if one in labels else own) for one, own in zip(inside, labels, strict=True)])
