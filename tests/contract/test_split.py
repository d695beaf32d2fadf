"""How samples fall on ranks and micro-batches: all of them, once, balanced, within the budget."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from launcher.contract.split import split

properties = settings(deadline=None, max_examples=50)
all_lengths = st.lists(st.integers(1, 512), max_size=100)
some_lengths = st.lists(st.integers(1, 512), min_size=1, max_size=100)
odd_lengths = st.lists(st.sampled_from([0, 0, 1, 7, 7, 128, 10_000]), max_size=40)
rank_counts = st.integers(1, 12)


@st.composite
def cases(draw, lengths=some_lengths):
    """(lengths, ranks, max_tokens) to split: the budget holds the longest sample, or there is none."""
    tokens = draw(lengths)
    longest = max(tokens, default=0)
    spare = draw(st.one_of(st.none(), st.integers(0, 1), st.integers(0, 4096)))
    return tokens, draw(rank_counts), None if spare is None else longest + spare


def share(micro_batches: list[np.ndarray]) -> list[int]:
    """A rank's places, in the order of its micro-batches."""
    return [place for batch in micro_batches for place in batch.tolist()]


def shape(shares: list[list[np.ndarray]]) -> list[list[int]]:
    return [[len(batch) for batch in rank] for rank in shares]


# A partition


@properties
@given(st.one_of(cases(), cases(all_lengths), cases(odd_lengths)))
def test_every_place_falls_on_one_rank_and_one_micro_batch(case):
    lengths, ranks, budget = case
    shares = split(lengths, ranks, budget)
    assert len(shares) == ranks
    assert sorted(place for rank in shares for place in share(rank)) == list(range(len(lengths)))


@properties
@given(st.one_of(cases(), cases(all_lengths), cases(odd_lengths)))
def test_every_rank_has_the_same_number_of_micro_batches(case):
    assert len({len(rank) for rank in split(*case)}) == 1


@properties
@given(st.one_of(cases(), cases(odd_lengths)))
def test_every_micro_batch_is_an_array_that_can_index_the_lengths(case):
    lengths = np.array(case[0], dtype=np.int64)
    for rank in split(*case):
        for batch in rank:
            assert batch.dtype == np.int64
            assert batch.shape == (len(batch),)
            assert lengths[batch].shape == batch.shape


@properties
@given(cases())
def test_a_rank_takes_its_samples_longest_first_and_empty_micro_batches_last(case):
    lengths, _, _ = case
    for rank in split(*case):
        taken = [lengths[place] for place in share(rank)]
        assert taken == sorted(taken, reverse=True)
        sizes = [len(batch) > 0 for batch in rank]
        assert sizes == sorted(sizes, reverse=True)


@properties
@given(cases(), st.sampled_from([np.int32, np.int64, np.uint16]))
def test_the_same_lengths_are_split_the_same_on_every_rank(case, dtype):
    lengths, ranks, budget = case
    tokens = np.array(lengths, dtype=dtype)
    first = split(lengths, ranks, budget)
    again = split(tokens, ranks, budget)
    assert [[b.tolist() for b in rank] for rank in first] == [[b.tolist() for b in rank] for rank in again]
    assert tokens.tolist() == lengths


def test_a_change_of_the_split_would_be_noticed():
    shares = split([5, 9, 5, 3, 8, 1, 5, 2, 7, 4], 3, 16)
    assert [[batch.tolist() for batch in rank] for rank in shares] == [
        [[1], [6, 7, 5]],
        [[4, 2], [3]],
        [[8, 0], [9]],
    ]


# The budget


@properties
@given(st.one_of(cases(), cases(odd_lengths)))
def test_no_micro_batch_is_over_its_budget_of_padded_tokens(case):
    lengths, _, budget = case
    assume(budget is not None)
    for rank in split(*case):
        for batch in rank:
            if len(batch):
                assert len(batch) * max(lengths[place] for place in batch) <= budget


@properties
@given(cases())
def test_some_rank_is_cut_no_finer_than_the_budget_asks(case):
    lengths, _, budget = case
    assume(budget is not None)

    def full(batch):
        return (len(batch) + 1) * lengths[batch[0]] > budget

    assert any(all(len(b) for b in rank) and all(full(b) for b in rank[:-1]) for rank in split(*case))


@properties
@given(cases())
def test_a_micro_batch_is_empty_only_where_a_rank_has_no_sample_left_for_it(case):
    for rank in split(*case):
        sizes = [len(batch) for batch in rank]
        assert 0 not in sizes or max(sizes) <= 1


@properties
@given(some_lengths, rank_counts)
def test_without_a_budget_every_rank_has_one_micro_batch(lengths, ranks):
    assume(len(lengths) >= ranks)
    shares = split(lengths, ranks)
    assert [len(rank) for rank in shares] == [1] * ranks
    assert all(len(rank[0]) for rank in shares)


@properties
@given(some_lengths, rank_counts)
def test_a_budget_for_the_whole_batch_is_as_good_as_none(lengths, ranks):
    free = split(lengths, ranks)
    ample = split(lengths, ranks, len(lengths) * max(lengths))
    assert [[b.tolist() for b in rank] for rank in free] == [[b.tolist() for b in rank] for rank in ample]


@properties
@given(some_lengths, rank_counts)
def test_a_budget_of_the_longest_sample_is_enough_and_one_less_raises(lengths, ranks):
    longest = max(lengths)
    split(lengths, ranks, longest)
    with pytest.raises(ValueError, match=f"{longest} tokens does not fit into max_tokens {longest - 1}"):
        split(lengths, ranks, longest - 1)


def test_one_sample_over_the_budget_raises_whichever_it_is():
    for place in range(6):
        lengths = [10] * 6
        lengths[place] = 65
        with pytest.raises(ValueError, match="65 tokens"):
            split(lengths, 2, 64)


# Balance


@properties
@given(cases())
def test_no_rank_has_more_than_its_mean_load_and_a_longest_sample(case):
    lengths, ranks, _ = case
    loads = [sum(lengths[place] for place in share(rank)) for rank in split(*case)]
    assert max(loads) <= sum(lengths) / ranks + max(lengths)
    assert max(loads) * ranks <= sum(lengths) + (ranks - 1) * max(lengths)  # Graham, 1966: any list schedule
    assert max(loads) - min(loads) <= max(lengths)


@properties
@given(st.integers(1, 512), st.integers(1, 100), rank_counts)
def test_equal_lengths_are_dealt_evenly(length, count, ranks):
    sizes = [len(share(rank)) for rank in split([length] * count, ranks)]
    assert max(sizes) - min(sizes) <= 1


@properties
@given(st.integers(1, 60), rank_counts)
def test_samples_without_tokens_are_dealt_evenly(count, ranks):
    sizes = [len(share(rank)) for rank in split([0] * count, ranks, 0)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_micro_batches_of_similar_lengths_are_filled(ranks):
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 512).astype(int).clip(4, 512)
    shares = split(lengths, ranks, 2048)
    padded = sum(len(batch) * lengths[batch].max() for rank in shares for batch in rank if len(batch))
    as_they_came = lengths.reshape(-1, 16)
    assert padded < 0.7 * (as_they_came.max(axis=1) * 16).sum()


# Known layouts


@pytest.mark.parametrize(
    ("ranks", "budget", "micro_batches", "samples"),
    [(1, 1024, 8, 8), (2, 1024, 4, 8), (4, 1024, 2, 8), (8, 1024, 1, 8), (4, 512, 4, 4), (2, 512, 8, 4)],
)
def test_64_samples_of_128_tokens_make_the_layouts_of_the_recipes(ranks, budget, micro_batches, samples):
    assert shape(split([128] * 64, ranks, budget)) == [[samples] * micro_batches] * ranks


def test_fewer_samples_than_ranks_leave_empty_micro_batches():
    shares = split([3, 9, 5], 5)
    assert shape(shares) == [[1], [1], [1], [0], [0]]
    assert [share(rank) for rank in shares] == [[1], [2], [0], [], []]


@properties
@given(st.lists(st.integers(1, 512), min_size=1, max_size=11), st.integers(2, 12), st.booleans())
def test_fewer_samples_than_ranks_give_one_each_and_then_none(lengths, ranks, budgeted):
    assume(len(lengths) < ranks)
    sizes = shape(split(lengths, ranks, max(lengths) if budgeted else None))
    assert sorted(sizes) == [[0]] * (ranks - len(lengths)) + [[1]] * len(lengths)


def test_the_rank_with_fewer_micro_batches_halves_its_largest_to_keep_step():
    shares = split([8, 2, 10, 2, 2, 2, 1, 8], 2, 11)
    assert [[batch.tolist() for batch in rank] for rank in shares] == [
        [[2], [1, 3], [4, 6]],  # the budget alone would leave it at [2], [1, 3, 4, 6]
        [[0], [7], [5]],
    ]


def test_no_samples_make_no_micro_batches():
    assert split([], 3) == [[], [], []]
    assert split([], 3, 10) == [[], [], []]


# Rows without padding: a micro-batch costs the sum of its lengths


@properties
@given(st.one_of(cases(), cases(all_lengths), cases(odd_lengths)))
def test_without_padding_every_place_falls_on_one_micro_batch_within_the_budget(case):
    lengths, ranks, budget = case
    shares = split(lengths, ranks, budget, padding_free=True)
    assert len({len(rank) for rank in shares}) == 1
    assert sorted(place for rank in shares for place in share(rank)) == list(range(len(lengths)))
    sums = [sum(lengths[place] for place in batch) for rank in shares for batch in rank]
    assert all(budget is None or total <= budget for total in sums)
    for rank in shares:
        ordered = [lengths[place] for batch in rank for place in batch]
        assert ordered == sorted(ordered, reverse=True), "equal lengths are neighbours"


@properties
@given(cases(), st.integers(1, 512))
def test_without_padding_ranks_have_the_same_samples_and_equal_lengths_the_same_micro_batches(case, length):
    lengths, ranks, budget = case
    padded, free = (split(lengths, ranks, budget, padding_free=free) for free in (False, True))
    assert [sorted(share(rank)) for rank in padded] == [sorted(share(rank)) for rank in free]
    assert all(len(a) >= len(b) for a, b in zip(padded, free, strict=True))
    equal = [length] * len(lengths)
    budget = None if budget is None else max(budget, length)
    assert shape(split(equal, ranks, budget)) == shape(split(equal, ranks, budget, padding_free=True))
