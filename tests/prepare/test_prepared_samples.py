"""PreparedSamples read by number, in the requested order."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.prepare.prepared_samples import PreparedSamples
from launcher.prepare.token_arrays import TokenArrays
from launcher.tasks import _token_batches

VOCABULARY, COUNT = 300, 2400


def written(folder, pieces, batch, vocabulary=VOCABULARY, **columns):
    """Write a side of a prepared folder. `batch`: samples of an Arrow batch."""
    whole = _token_batches.table(encoded(pieces), vocabulary, **columns)
    with pa.ipc.new_stream(folder / "train.arrow", whole.schema) as writer:
        writer.write_table(whole, max_chunksize=batch)
    return PreparedSamples(folder, "train")


def encoded(pieces):
    ids = np.concatenate([np.asarray(piece, np.uint32) for piece in pieces])
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
    return TokenArrays(ids, offsets, np.ones(len(ids), bool))


@pytest.fixture(scope="module")
def pieces():
    draw = np.random.default_rng(3)
    return [draw.integers(0, VOCABULARY, n) for n in draw.integers(1, 9, COUNT)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory, pieces):
    """Three Arrow batches."""
    labels = pa.array(np.arange(COUNT), type=pa.int64())
    return written(tmp_path_factory.mktemp("samples"), pieces, 1000, label=labels)


def same(rows, pieces, ids):
    assert len(rows) == len(ids)
    for row, number in zip(rows, ids, strict=True):
        assert row["input_ids"].tolist() == pieces[number].tolist()
        assert row["length"] == len(pieces[number])
        assert row["label"] == number


def test_all_of_them_are_those_that_were_written(samples, pieces):
    assert len(samples) == COUNT
    same(samples.rows(range(COUNT)), pieces, range(COUNT))
    assert samples.lengths(np.arange(COUNT)).tolist() == [len(piece) for piece in pieces]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, COUNT - 1), max_size=40))
def test_any_order_and_any_repetition_gives_them_in_that_order(samples, pieces, ids):
    same(samples.rows(ids), pieces, ids)
    assert samples.lengths(np.array(ids, dtype=np.int64)).tolist() == [len(pieces[n]) for n in ids]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, COUNT), st.integers(0, COUNT))
def test_a_run_of_them_may_cross_the_batches_they_were_written_in(samples, pieces, one, other):
    ids = np.arange(min(one, other), max(one, other))
    same(samples.rows(ids), pieces, ids.tolist())


def test_the_same_one_three_times_is_three_rows(samples, pieces):
    same(samples.rows([1999, 1999, 1999]), pieces, [1999] * 3)


def test_none_is_none(samples):
    assert samples.rows([]) == []
    assert samples.lengths([]).tolist() == []
    assert samples.lengths([]).dtype == np.int64


def test_the_first_of_each_batch_is_read_alone(samples, pieces):
    for number in (0, 999, 1000, 1001, 2000, COUNT - 1):
        same(samples.rows([number]), pieces, [number])


def test_further_columns_of_lists_come_as_arrays(tmp_path, pieces):
    types = pa.array([[n % 2] * len(piece) for n, piece in enumerate(pieces[:30])], type=pa.list_(pa.uint8()))
    samples = written(tmp_path, pieces[:30], 10, token_type_ids=types)
    for number, row in zip((7, 29, 10), samples.rows([7, 29, 10]), strict=True):
        assert row["token_type_ids"].tolist() == [number % 2] * len(pieces[number])


def test_an_empty_sample_among_others_is_empty(tmp_path):
    samples = written(tmp_path, [[1, 2], [], [3], []], 3)
    assert [row["input_ids"].tolist() for row in samples.rows([1, 0, 3, 2])] == [[], [1, 2], [], [3]]


@pytest.mark.parametrize(
    ("vocabulary", "kind"), [(1, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32"), (250_002, "uint32")]
)
def test_token_ids_take_the_smallest_integer_that_holds_the_vocabulary(tmp_path, vocabulary, kind):
    largest = [[vocabulary - 1, 0]]
    (row,) = written(tmp_path, largest, 1, vocabulary).rows([0])
    assert row["input_ids"].tolist() == largest[0]
    assert row["input_ids"].dtype == kind


def test_a_token_beyond_the_vocabularys_integer_is_refused_and_not_wrapped():
    with pytest.raises(pa.ArrowInvalid):
        _token_batches.table(encoded([[2**16]]), 2**16)
