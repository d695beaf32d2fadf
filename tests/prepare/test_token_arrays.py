"""Operations on token arrays give the same as operations on lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.prepare.token_arrays import TokenArrays, concatenate, interleave, join, no_texts, take

properties = settings(deadline=None, max_examples=100)
texts = st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=9), max_size=6)
tokens = st.lists(st.integers(10, 19), max_size=3)


def made(lists):
    """Build texts from lists of (id, whether a word begins)."""
    flat = [token for text in lists for token in text]
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in lists])]).astype(np.int64)
    ids, begins = np.array([i for i, _ in flat], np.uint32), np.array([b for _, b in flat], bool)
    return TokenArrays(ids, offsets, begins)


def told(encoded):
    """Return texts as lists of (id, whether a word begins)."""
    assert encoded.offsets[0] == 0
    assert encoded.offsets[-1] == len(encoded.ids) == len(encoded.begins)
    pairs = list(zip(encoded.ids.tolist(), encoded.begins.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]


@properties
@given(texts)
def test_lists_are_kept(lists):
    encoded = made(lists)
    assert told(encoded) == lists
    assert len(encoded) == len(lists)
    assert encoded.lengths.tolist() == [len(text) for text in lists]


@properties
@given(texts, st.data())
def test_slices(lists, data):
    encoded = made(lists)
    bounds = st.integers(0, len(encoded.ids))
    ranges = data.draw(st.lists(st.tuples(bounds, bounds).map(sorted), max_size=5))
    starts, stops = (np.array([pair[n] for pair in ranges], np.int64) for n in (0, 1))
    flat = [token for text in lists for token in text]
    assert told(encoded.slices(starts, stops)) == [flat[a:b] for a, b in ranges]


@properties
@given(texts, st.data())
def test_select(lists, data):
    chosen = data.draw(st.lists(st.booleans(), min_size=len(lists), max_size=len(lists)))
    selected = made(lists).select(np.array(chosen, bool))
    assert told(selected) == [text for text, there in zip(lists, chosen, strict=True) if there]


@properties
@given(texts, st.integers(0, 10))
def test_truncated(lists, most):
    assert told(made(lists).truncated(most)) == [text[:most] for text in lists]


def windows(text, most, stride):
    """Windows, up to the first that reaches the end."""
    pieces, at = [text[:most]], 0
    while at + most < len(text):
        at += most - stride
        pieces.append(text[at : at + most])
    return pieces


@properties
@given(texts, st.integers(1, 6), st.data())
def test_windows(lists, most, data):
    stride = data.draw(st.integers(0, most - 1))
    expected = [piece for text in lists for piece in windows(text, most, stride)]
    assert told(made(lists).windows(most, stride)) == expected


@properties
@given(texts, tokens, tokens)
def test_between(lists, prefix, suffix):
    around = [[(token, True) for token in side] for side in (prefix, suffix)]
    encoded = made(lists).between(np.array(prefix, np.uint32), np.array(suffix, np.uint32))
    assert told(encoded) == [around[0] + text + around[1] for text in lists]


@properties
@given(texts, texts)
def test_after_and_concatenate(one, other):
    assert told(made(one).after(made(other))) == other + one
    assert told(concatenate(made(one), made(other))) == one + other
    assert told(concatenate(no_texts(), made(one))) == told(concatenate(made(one), no_texts())) == one


@properties
@given(texts, st.integers(1, 7), st.booleans())
def test_cut(lists, length, last):
    pieces, rest = made(lists).cut(length, last)
    flat = [token for text in lists for token in text]
    whole = len(flat) if last else len(flat) // length * length
    assert told(pieces) == [flat[at : min(at + length, whole)] for at in range(0, whole, length)]
    assert told(rest) == [flat[whole:]]


@properties
@given(st.lists(texts, max_size=5), st.integers(1, 7))
def test_what_remains_goes_on_with_the_next_texts(batches, length):
    """The chunks of a stream of batches are those of the whole."""
    found, rest = [], None
    for batch in batches:
        joined = made(batch) if rest is None else made(batch).after(rest)
        pieces, rest = joined.cut(length, last=False)
        found += told(pieces)
    if rest is not None:
        found += told(rest.cut(length, last=True)[0])
    flat = [token for batch in batches for text in batch for token in text]
    assert found == [flat[at : at + length] for at in range(0, len(flat), length)]


@properties
@given(texts, st.data())
def test_take(lists, data):
    chosen = data.draw(st.lists(st.lists(st.integers(0, len(lists) - 1), max_size=4) if lists else st.just([])))
    first = np.concatenate([[0], np.cumsum([len(text) for text in chosen])]).astype(np.int64)
    numbers = np.array([number for text in chosen for number in text], np.int64)
    expected = [[token for number in text for token in lists[number]] for text in chosen]
    assert told(take(made(lists), numbers, first)) == expected


@properties
@given(st.lists(st.tuples(st.booleans(), st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=4))))
def test_interleave(marked):
    one, other = ([text for mark, text in marked if mark == side] for side in (False, True))
    mask = np.array([mark for mark, _ in marked], bool)
    assert told(interleave(made(one), made(other), mask)) == [text for _, text in marked]


class FromTokenizers:
    """An encoding as of `tokenizers`: ids, and the number of each one's word (None: a special token)."""

    def __init__(self, ids, word_ids):
        self.ids, self.word_ids = ids, word_ids

    def __len__(self):
        return len(self.ids)


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        ([[0, 0, 1, 1, 2]], [True, False, True, False, True]),
        ([[None, 0, 0, None, None]], [True, True, False, True, True]),
        ([[0, 0], [0, 0]], [True, False, True, False]),
        ([[0], [], [0, 0], []], [True, True, False]),
        ([[], []], []),
        ([], []),
    ],
)
def test_join_knows_where_words_begin(words, begins):
    encoded = join([FromTokenizers(list(range(len(text))), text) for text in words])
    assert encoded.begins.tolist() == begins
    assert encoded.lengths.tolist() == [len(text) for text in words]
