"""Which samples share a row: all of them, once, none over the capacity, and as few rows as best fit finds."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.contract.packing import capacity, pack

properties = settings(deadline=None, max_examples=100)
some_lengths = st.lists(st.integers(1, 128), min_size=1, max_size=60)
all_lengths = st.lists(st.integers(1, 128), max_size=60)


@st.composite
def cases(draw):
    """(lengths, capacity) where every sample fits."""
    lengths = draw(all_lengths)
    return lengths, max(lengths, default=1) + draw(st.integers(0, 200))


def places(rows):
    return [row.tolist() for row in rows]


@properties
@given(cases())
def test_every_place_is_in_one_row(case):
    rows = pack(*case)
    assert sorted(place for row in places(rows) for place in row) == list(range(len(case[0])))
    assert all(len(row) and row.dtype == np.int64 for row in rows)


@properties
@given(cases())
def test_no_row_is_over_the_capacity(case):
    lengths, most = np.array(case[0], dtype=np.int64), case[1]
    assert all(lengths[row].sum() <= most for row in pack(lengths, most))


@properties
@given(cases())
def test_rows_are_those_of_best_fit_written_out(case):
    """Each sample, the longest first, in the fullest row with room for it, the first of several."""
    lengths, most = case
    rows, rooms = [], []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        fitting = [(room, row) for row, room in enumerate(rooms) if room >= lengths[place]]
        if fitting:
            row = min(fitting)[1]
        else:
            row = len(rows)
            rows.append([])
            rooms.append(most)
        rows[row].append(place)
        rooms[row] -= lengths[place]
    assert places(pack(lengths, most)) == rows


@properties
@given(cases())
def test_there_are_no_two_rows_that_one_could_hold(case):
    lengths, most = np.array(case[0], dtype=np.int64), case[1]
    rows = pack(lengths, most)
    assert len(rows) <= len(lengths)
    assert all(lengths[one].sum() + lengths[other].sum() > most for one, other in combinations(rows, 2))


@properties
@given(cases())
def test_rows_are_the_same_each_time_whatever_the_type_of_the_lengths(case):
    lengths, most = case
    before = list(lengths)
    assert places(pack(lengths, most)) == places(pack(np.array(lengths, dtype=np.int32), most))
    assert lengths == before


def test_a_sample_that_fits_no_row_raises():
    with pytest.raises(ValueError, match="a sample of 9 tokens does not fit into a row of 8"):
        pack([3, 9, 2], 8)


def test_a_change_of_the_packing_would_be_noticed():
    assert places(pack([3, 7, 5, 1, 3, 4], 8)) == [[1, 3], [2, 0], [5, 4]]


# How long a row may be


@properties
@given(some_lengths, st.integers(1, 16), st.integers(0, 300))
def test_a_row_holds_the_longest_sample_and_is_never_longer_than_it_may_be(lengths, ranks, spare):
    longest = max(lengths) + spare
    assert max(lengths) <= capacity(lengths, ranks, longest) <= longest
    pack(lengths, capacity(lengths, ranks, longest))


@properties
@given(some_lengths, st.integers(1, 16), st.integers(0, 300))
@example([1] * 9, 4, 100)
@example([2] * 9, 4, 100)
def test_every_rank_gets_a_row_where_no_sample_is_longer_than_a_ranks_share(lengths, ranks, spare):
    """Rows of at most the share of a rank (rounded down) are at least as many as there are ranks."""
    rows = pack(lengths, capacity(lengths, ranks, max(lengths) + spare))
    if max(lengths) <= sum(lengths) // ranks:
        assert len(rows) >= ranks


@properties
@given(some_lengths, st.integers(0, 300))
def test_rows_are_as_long_as_they_may_be_where_there_is_enough_for_all(lengths, spare):
    longest = max(lengths) + spare
    ranks = sum(lengths) // longest
    if ranks:
        assert capacity(lengths, ranks, longest) == longest


def test_no_samples_are_no_rows():
    assert capacity([], 4, 64) == 64
    assert pack([], 64) == []
