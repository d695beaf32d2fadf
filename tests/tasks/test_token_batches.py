"""What text tasks share: padding to the longest, attention masks where they are needed, and sequences as tables."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.prepare.token_arrays import TokenArrays
from launcher.tasks import IGNORE, _token_batches

properties = settings(deadline=None, max_examples=60)
pieces = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=6)


@properties
@given(pieces, st.integers(-100, 100))
def test_padding_adds_to_the_end_and_changes_nothing(arrays, value):
    padded = _token_batches.pad([np.array(array, dtype=np.uint16) for array in arrays], value)
    assert padded.shape == (len(arrays), max(map(len, arrays)))
    for row, array in zip(padded.tolist(), arrays, strict=True):
        assert row == array + [value] * (len(row) - len(array))


@properties
@given(pieces)
def test_the_attention_mask_is_where_the_tokens_are_and_only_where_some_are_padded(arrays):
    inputs = _token_batches.inputs([{"input_ids": np.array(array)} for array in arrays], 0)["inputs"]
    lengths = [len(array) for array in arrays]
    assert ("attention_mask" in inputs) == (len(set(lengths)) > 1)
    if "attention_mask" in inputs:
        assert inputs["attention_mask"].sum(axis=1).tolist() == lengths
        assert np.all(np.diff(inputs["attention_mask"], axis=1) <= 0)


def encoded_of(rows):
    ids, lengths = [token for row in rows for token in row], [len(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenArrays(np.array(ids, dtype=np.uint32), offsets, np.ones(len(ids), dtype=bool))


@properties
@given(st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=9), max_size=6), st.sampled_from([2**16, 2**16 + 1]))
def test_a_table_holds_each_sequence_with_its_length_in_the_smallest_type(rows, vocabulary):
    encoded = encoded_of(rows)
    table = _token_batches.table(encoded, vocabulary, more=_token_batches.lists(encoded, pa.array(encoded.begins)))
    assert table["input_ids"].to_pylist() == rows
    assert table["length"].to_pylist() == [len(row) for row in rows]
    assert table["more"].to_pylist() == [[True] * len(row) for row in rows]
    assert table.schema.field("input_ids").type.value_type == (pa.uint16() if vocabulary == 2**16 else pa.uint32())


@pytest.mark.parametrize(
    ("given_type", "kept"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_logits_of_half_precision_become_single_and_others_stay(given_type, kept):
    assert _token_batches.full_precision(torch.ones(2, dtype=given_type)).dtype == kept


def test_zero_weight_removes_only_the_labels():
    sample = {"input_ids": np.array([1, 2]), "labels": np.array([3, IGNORE])}
    muted = _token_batches.zero_weight(sample)
    assert muted["labels"].tolist() == [IGNORE, IGNORE]
    assert muted["input_ids"] is sample["input_ids"]
    assert sample["labels"].tolist() == [3, IGNORE]
