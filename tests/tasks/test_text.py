"""What text tasks share: padding to the longest, attention masks where they are needed, and encoding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.tasks import IGNORE, _text

properties = settings(deadline=None, max_examples=60)
pieces = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=6)


@properties
@given(pieces, st.integers(-100, 100))
def test_padding_adds_to_the_end_and_changes_nothing(arrays, value):
    padded = _text.pad([np.array(array, dtype=np.uint16) for array in arrays], value)
    assert padded.shape == (len(arrays), max(map(len, arrays)))
    for row, array in zip(padded.tolist(), arrays, strict=True):
        assert row == array + [value] * (len(row) - len(array))


@properties
@given(pieces)
def test_the_attention_mask_is_where_the_tokens_are_and_only_where_some_are_padded(arrays):
    inputs = _text.inputs([{"input_ids": np.array(array)} for array in arrays], 0)["inputs"]
    lengths = [len(array) for array in arrays]
    assert ("attention_mask" in inputs) == (len(set(lengths)) > 1)
    if "attention_mask" in inputs:
        assert inputs["attention_mask"].sum(axis=1).tolist() == lengths
        assert np.all(np.diff(inputs["attention_mask"], axis=1) <= 0)


@properties
@given(st.integers(0, 2500))
def test_batches_are_the_rows_in_order(count):
    batches = list(_text.batches(iter(range(count))))
    assert [row for batch in batches for row in batch] == list(range(count))
    assert {len(batch) for batch in batches[:-1]} <= {_text.ROWS_AT_ONCE}
    assert all(batches)


def test_encodings_are_those_of_the_tokenizer_whatever_was_encoded_before(words):
    row = {"text": "the step learns the order of the batch"}
    whole = words(row["text"])["input_ids"]
    for max_length in (None, 5, None, 8, 64):
        (encoded,) = _text.encode(words, [row], max_length)
        expected = whole if max_length is None or len(whole) <= max_length else [*whole[: max_length - 1], whole[-1]]
        assert encoded.ids == expected


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
    assert _text.full_precision(torch.ones(2, dtype=given_type)).dtype == kept


def test_muting_takes_the_labels_away_and_nothing_else():
    sample = {"input_ids": np.array([1, 2]), "labels": np.array([3, IGNORE])}
    muted = _text.mute(sample)
    assert muted["labels"].tolist() == [IGNORE, IGNORE]
    assert muted["input_ids"] is sample["input_ids"]
    assert sample["labels"].tolist() == [3, IGNORE]
