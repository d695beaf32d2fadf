"""The witness: the same for the same samples however they fell, another for anything else."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from launcher.contract import digest
from launcher.contract.split import split

properties = settings(deadline=None, max_examples=30)
tokens = st.integers(-(2**31), 2**31 - 1)
numbers = st.integers(0, 2**62)
hashes = st.integers(0, 2**64 - 1)


@st.composite
def samples(draw):
    """(place, epoch, id, arrays) as a task gives them."""
    length = draw(st.integers(1, 12))
    row = st.lists(tokens, min_size=length, max_size=length)
    names = draw(st.sets(st.sampled_from(["input_ids", "labels", "a", "b"])))
    arrays = {name: np.array(draw(row)) for name in sorted(names)}
    return draw(numbers), draw(numbers), draw(numbers), arrays | {"attention_mask": np.array(draw(row))}


def batch_of(lengths: list[int]) -> list[int]:
    """The hashes of a global batch of samples with these lengths, in the order of their places."""
    return [
        digest.sample(place, 3, 100 + place, {"input_ids": np.arange(n), "labels": np.full(n, -100)})
        for place, n in enumerate(lengths)
    ]


# Whatever the layout


@properties
@given(
    st.lists(st.integers(1, 32), min_size=1, max_size=40),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(32, 200)),
)
def test_the_sum_does_not_depend_on_how_samples_fall_on_ranks(lengths, ranks, max_tokens):
    batch = batch_of(lengths)
    shares = [
        digest.total([batch[place] for micro_batch in rank for place in micro_batch])
        for rank in split(lengths, ranks, max_tokens)
    ]
    assert digest.total(shares) == digest.total(batch)


@properties
@given(st.lists(hashes), st.lists(st.integers(0, 7), min_size=0), st.randoms(use_true_random=False))
def test_the_sum_of_the_sums_of_any_shares_is_the_sum(parts, cuts, shuffler):
    shuffled = list(parts)
    shuffler.shuffle(shuffled)
    dealt = [[] for _ in range(8)]
    for index, part in enumerate(shuffled):
        dealt[cuts[index % len(cuts)] if cuts else 0].append(part)
    assert digest.total([digest.total(share) for share in dealt]) == digest.total(parts)


@properties
@given(st.lists(hashes))
@example([2**64 - 1, 1])
@example([2**64 - 1] * 5)
def test_a_sum_stays_within_64_bits(parts):
    assert digest.total(parts) == sum(parts) % 2**64
    assert 0 <= digest.total(parts) < 2**64


def test_the_sum_of_nothing_is_zero():
    assert digest.total([]) == 0


@properties
@given(st.lists(hashes, min_size=1))
def test_sums_that_travelled_as_signed_integers_are_the_same(parts):
    signed = [part - 2**64 if part >= 2**63 else part for part in parts]
    assert digest.total(signed) == digest.total(parts)


# What does not count


@properties
@given(samples())
def test_the_same_sample_has_the_same_hash_of_64_bits(sample):
    place, epoch, sample_id, arrays = sample
    value = digest.sample(*sample)
    assert isinstance(value, int)
    assert 0 <= value < 2**64
    assert digest.sample(place, epoch, sample_id, {n: a.copy() for n, a in arrays.items()}) == value


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "uint32", "uint64", ">i4", ">i8"])
def test_the_dtype_of_integers_does_not_matter(dtype):
    expected = digest.sample(1, 2, 3, {"input_ids": np.array([0, 1, 101, 102], dtype=np.int64)})
    assert digest.sample(1, 2, 3, {"input_ids": np.array([0, 1, 101, 102], dtype=dtype)}) == expected


@properties
@given(st.lists(tokens, min_size=1))
def test_int32_and_int64_are_the_same_for_any_token(row):
    narrow, wide = np.array(row, dtype=np.int32), np.array(row, dtype=np.int64)
    assert digest.sample(0, 0, 0, {"labels": narrow}) == digest.sample(0, 0, 0, {"labels": wide})


def test_a_mask_of_booleans_is_a_mask_of_ones_and_zeros():
    mask = np.array([True, True, False])
    assert digest.sample(0, 0, 0, {"m": mask}) == digest.sample(0, 0, 0, {"m": mask.astype(np.int64)})


@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_the_layout_of_an_array_in_memory_does_not_matter(kind):
    array = np.arange(24, dtype=kind).reshape(4, 6)
    expected = digest.sample(0, 0, 0, {"x": array})
    assert digest.sample(0, 0, 0, {"x": np.asfortranarray(array)}) == expected
    assert digest.sample(0, 0, 0, {"x": np.repeat(array, 2, axis=1)[:, ::2]}) == expected


def test_the_order_in_which_arrays_are_given_does_not_matter():
    ids, mask = np.array([5, 6]), np.array([1, 1])
    one, other = {"ids": ids, "mask": mask}, {"mask": mask, "ids": ids}
    assert digest.sample(0, 0, 0, one) == digest.sample(0, 0, 0, other)


def test_hashing_leaves_the_arrays_as_they_were():
    ids = np.array([5, 6], dtype=np.int32)
    digest.sample(0, 0, 0, {"ids": ids})
    assert ids.dtype == np.int32
    assert ids.tolist() == [5, 6]


# What counts


@pytest.mark.parametrize("changed", range(3), ids=["place", "epoch", "sample id"])
@properties
@given(sample=samples(), value=numbers)
def test_another_place_or_epoch_or_id_changes_the_hash(changed, sample, value):
    assume(value != sample[changed])
    assert digest.sample(*sample[:changed], value, *sample[changed + 1 :]) != digest.sample(*sample)


@properties
@given(samples(), tokens, st.data())
def test_any_other_value_in_any_array_changes_the_hash(sample, value, data):
    place, epoch, sample_id, arrays = sample
    name = data.draw(st.sampled_from(sorted(arrays)))
    at = data.draw(st.integers(0, len(arrays[name]) - 1))
    assume(arrays[name][at] != value)
    changed = arrays[name].copy()
    changed[at] = value
    assert digest.sample(place, epoch, sample_id, arrays | {name: changed}) != digest.sample(*sample)


@properties
@given(samples(), st.data())
def test_another_name_changes_the_hash(sample, data):
    place, epoch, sample_id, arrays = sample
    name = data.draw(st.sampled_from(sorted(arrays)))
    renamed = {("other" if n == name else n): array for n, array in arrays.items()}
    assert digest.sample(place, epoch, sample_id, renamed) != digest.sample(*sample)


@properties
@given(samples(), st.data())
def test_an_array_more_or_less_changes_the_hash(sample, data):
    place, epoch, sample_id, arrays = sample
    name = data.draw(st.sampled_from(sorted(arrays)))
    fewer = {n: array for n, array in arrays.items() if n != name}
    assert digest.sample(place, epoch, sample_id, fewer) != digest.sample(*sample)


def test_place_and_epoch_and_id_do_not_stand_for_each_other():
    ids = {"ids": np.array([5, 6])}
    assert len({digest.sample(*where, ids) for where in itertools.permutations((1, 2, 3))}) == 6


def test_arrays_that_swap_their_names_change_the_hash():
    ids, labels = np.array([5, 6]), np.array([7, 8])
    one = digest.sample(0, 0, 0, {"ids": ids, "labels": labels})
    assert digest.sample(0, 0, 0, {"ids": labels, "labels": ids}) != one


def test_another_shape_of_the_same_values_changes_the_hash():
    values = np.arange(12)
    shapes = [(12,), (1, 12), (12, 1), (3, 4), (4, 3), (2, 6), (6, 2), (2, 2, 3)]
    assert len({digest.sample(0, 0, 0, {"x": values.reshape(shape)}) for shape in shapes}) == len(shapes)


def test_padding_changes_the_hash_so_it_is_taken_before_padding():
    short, padded = np.array([5, 6]), np.array([5, 6, 0])
    assert digest.sample(0, 0, 0, {"ids": short}) != digest.sample(0, 0, 0, {"ids": padded})


@pytest.mark.parametrize(("one", "other"), [((), (0,)), ((1,), (1, 0))])
def test_an_empty_array_is_not_a_zero(one, other):
    zero, empty = np.zeros(one, dtype=np.int64), np.zeros(other, dtype=np.int64)
    assert digest.sample(0, 0, 0, {"x": zero}) != digest.sample(0, 0, 0, {"x": empty})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_last_bit_of_a_float_changes_the_hash(dtype):
    target = np.array([0.1, 2.5], dtype=dtype)
    nudged = np.nextafter(target, np.inf, dtype=dtype)
    assert digest.sample(0, 0, 0, {"labels": target}) != digest.sample(0, 0, 0, {"labels": nudged})


@properties
@given(st.lists(st.integers(1, 32), min_size=2, max_size=20), st.data())
def test_a_batch_with_one_sample_missing_or_doubled_has_another_sum(lengths, data):
    batch = batch_of(lengths)
    at = data.draw(st.integers(0, len(batch) - 1))
    assert digest.total(batch[:at] + batch[at + 1 :]) != digest.total(batch)
    assert digest.total(batch + [batch[at]]) != digest.total(batch)


def test_two_samples_that_swap_their_places_have_another_sum():
    one, other = {"ids": np.array([5, 6])}, {"ids": np.array([7])}
    straight = [digest.sample(0, 0, 10, one), digest.sample(1, 0, 11, other)]
    swapped = [digest.sample(0, 0, 11, other), digest.sample(1, 0, 10, one)]
    assert digest.total(straight) != digest.total(swapped)


# The definition


def test_a_change_of_the_definition_of_the_hash_would_be_noticed():
    arrays = {
        "input_ids": np.array([101, 7592, 103, 102], dtype=np.int32),
        "attention_mask": np.ones(4, dtype=bool),
        "labels": np.array([-100, -100, 2088, -100]),
        "weights": np.array([[0.5], [1.25]], dtype=np.float32),
    }
    assert digest.text(digest.sample(7, 2, 123_456_789, arrays)) == "a12aa82c7870184d"
    assert digest.text(digest.total(batch_of([3, 1, 4, 1, 5, 9, 2, 6]))) == "02e97e067a0522eb"


@properties
@given(hashes)
@example(0)
@example(2**64 - 1)
def test_text_is_16_hexadecimal_digits(value):
    written = digest.text(value)
    assert re.fullmatch("[0-9a-f]{16}", written)
    assert int(written, 16) == value
