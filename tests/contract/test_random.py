"""Draws are pure functions of what they are for, and pass for random."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from launcher.contract import random
from launcher.contract.random import Stream

P_VALUE = 1e-4
WORD = 0xFFFFFFFF

properties = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**63 - 1)
streams = st.sampled_from(Stream)
ids = st.integers(0, 2**48 - 1)
words = st.integers(0, WORD)
purposes = st.tuples(seeds, streams, ids, ids, words)


def reference_philox(counter: tuple[int, ...], key: int) -> list[int]:
    """Philox4x32-10 written again, one counter at a time, in unbounded integers."""
    c, k = list(counter), [key & WORD, key >> 32]
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def flat(observed: np.ndarray, bins: int) -> float:
    """The p-value of integers in [0, bins) being equally likely."""
    return stats.chisquare(np.bincount(observed, minlength=bins)).pvalue


# Philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD, WORD), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    assert tuple(int(word) for word in random.philox(counter, key[0] | key[1] << 32)) == expected


@properties
@given(st.lists(st.tuples(words, words, words, words), min_size=1, max_size=20), st.integers(0, 2**64 - 1))
def test_vectorised_philox_agrees_with_philox_in_unbounded_integers(counters, key):
    drawn = random.philox(tuple(np.array(counters, dtype=np.uint64).T), key)
    assert np.stack(drawn, axis=-1).tolist() == [reference_philox(counter, key) for counter in counters]


def test_philox_leaves_its_counters_as_they_were():
    counters = [np.arange(start, start + 5, dtype=np.uint64) for start in range(4)]
    random.philox(tuple(counters), 7)
    assert [c.tolist() for c in counters] == [list(range(start, start + 5)) for start in range(4)]


# Draws


def test_the_numbers_of_the_streams_are_part_of_the_contract():
    known = {"ORDER": 1, "MASK": 2, "STEP": 3, "INIT": 4, "EVALUATE": 5, "MIXTURE": 6, "POINTS": 7, "DROPOUT": 8}
    assert {s.name: s.value for s in Stream} == known


def test_a_change_of_the_definition_of_draws_would_be_noticed():
    drawn = random.draws(2**40 + 17, Stream.MASK, 2**33 + 3, 2**34 + 5, 7)
    assert [int(word) for word in drawn] == [150332254, 3564994382, 2945369027, 66390367]


@properties
@given(seeds, streams, ids, ids, st.randoms(use_true_random=False))
def test_a_subset_or_a_permutation_of_positions_gets_the_same_words(seed, stream, epoch, sample, shuffler):
    chosen = list(range(64))
    shuffler.shuffle(chosen)
    chosen = np.array(chosen[: shuffler.randint(1, 64)])
    whole = random.draws(seed, stream, epoch, sample, np.arange(64))
    part = random.draws(seed, stream, epoch, sample, chosen)
    for of_whole, of_part in zip(whole, part, strict=True):
        assert np.array_equal(of_whole[chosen], of_part)


@properties
@given(seeds, streams, st.integers(0, 100), st.lists(ids, min_size=1, max_size=4))
def test_words_do_not_depend_on_the_shape_in_which_they_are_drawn(seed, stream, epoch, samples):
    positions = np.arange(6)
    grid = random.draws(seed, stream, epoch, np.array(samples)[:, None], positions)
    folded = random.draws(seed, stream, np.full((3, 2), epoch), samples[-1], positions.reshape(3, 2))
    for word in range(4):
        assert grid[word].shape == (len(samples), 6)
        for row, sample in enumerate(samples):
            alone = [int(random.draws(seed, stream, epoch, sample, int(p))[word]) for p in positions]
            assert grid[word][row].tolist() == alone
        assert folded[word].tolist() == grid[word][-1].reshape(3, 2).tolist()


@properties
@given(purposes, purposes)
@example((0, Stream.MASK, 0, 0, 0), (2**32, Stream.MASK, 0, 0, 0))
@example((0, Stream.MASK, 0, 2**32, 0), (0, Stream.MASK, 2**32, 0, 0))
@example((0, Stream.MASK, 1, 0, 0), (0, Stream.MASK, 0, 1, 0))
@example((0, Stream.MASK, 0, 1, 0), (0, Stream.MASK, 0, 0, 1))
@example((1, Stream.ORDER, 0, 0, 0), (0, Stream.MASK, 0, 0, 0))
def test_two_purposes_never_share_their_words(one, other):
    assume(one != other)
    assert [int(word) for word in random.draws(*one)] != [int(word) for word in random.draws(*other)]


@pytest.mark.parametrize("changed", range(5), ids=["seed", "stream", "epoch", "sample", "position"])
@properties
@given(purpose=purposes, data=st.data())
def test_changing_any_one_part_of_the_purpose_changes_the_words(changed, purpose, data):
    value = data.draw([seeds, streams, ids, ids, words][changed])
    assume(value != purpose[changed])
    other = (*purpose[:changed], value, *purpose[changed + 1 :])
    assert [int(word) for word in random.draws(*purpose)] != [int(word) for word in random.draws(*other)]


def test_no_word_is_lost_where_ids_and_epochs_grow_past_32_bits():
    corners = np.array([0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**47, 2**48 - 1])
    epochs, samples, positions = np.ix_(corners, corners, np.arange(4))
    first, second, _, _ = random.draws(3, Stream.ORDER, epochs, samples, positions)
    assert len(np.unique(first << np.uint64(32) | second)) == 8 * 8 * 4


@pytest.mark.parametrize("beyond", [2**48, 2**63, np.array([0, 2**48]), np.array([3, -1])])
def test_epochs_and_sample_ids_that_would_wrap_a_counter_raise(beyond):
    with pytest.raises(ValueError, match="below 2\\^48"):
        random.draws(0, Stream.MASK, beyond, 0, 0)
    with pytest.raises(ValueError, match="below 2\\^48"):
        random.draws(0, Stream.MASK, 0, beyond, 0)


def test_numbers_below_zero_raise():
    for where in [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]:
        with pytest.raises((ValueError, OverflowError)):
            random.draws(0, Stream.MASK, *where)


def test_the_largest_epoch_and_sample_id_are_drawn():
    assert all(int(word) <= WORD for word in random.draws(0, Stream.MASK, 2**48 - 1, 2**48 - 1, WORD))


@pytest.mark.parametrize("beyond", [2**32, np.array([0, 2**32 + 1]), np.array([-1])])
def test_positions_that_would_wrap_a_counter_raise(beyond):
    with pytest.raises(ValueError):
        random.draws(0, Stream.MASK, 0, 0, beyond)


@pytest.mark.parametrize("word", range(4))
@pytest.mark.parametrize("stream", Stream)
@pytest.mark.parametrize("along", ["epoch", "sample", "position"])
def test_each_word_is_flat_along_epochs_and_samples_and_positions(along, stream, word):
    where = {"epoch": 2, "sample": 11, "position": 5, along: np.arange(2**15)}
    drawn = random.draws(1, stream, **where)[word]
    assert flat((drawn >> np.uint64(24)).astype(np.int64), 256) > P_VALUE
    assert flat((drawn & np.uint64(0xFF)).astype(np.int64), 256) > P_VALUE


def test_words_are_flat_across_seeds():
    drawn = [int(random.draws(seed, Stream.MASK, 0, 0, 0)[0]) >> 28 for seed in range(2000)]
    assert flat(np.array(drawn), 16) > P_VALUE


@pytest.mark.parametrize("along", ["epoch", "sample", "position"])
def test_neighbours_are_independent(along):
    where = {"epoch": 2, "sample": 11, "position": 5, along: np.arange(2**16)}
    top = (random.draws(1, Stream.MASK, **where)[0] >> np.uint64(28)).astype(np.int64)
    assert flat(top[:-1:2] * 16 + top[1::2], 256) > P_VALUE


def test_the_four_words_of_a_draw_are_independent():
    drawn = random.draws(1, Stream.MASK, 0, 0, np.arange(2**16))
    top = [(word >> np.uint64(30)).astype(np.int64) for word in drawn]
    assert flat(top[0] * 64 + top[1] * 16 + top[2] * 4 + top[3], 256) > P_VALUE


# Uniform and below


@properties
@given(st.lists(words, min_size=1))
@example([0, 1, WORD - 1, WORD])
def test_uniform_numbers_are_the_words_over_2_to_32_and_stay_below_one(drawn):
    numbers = random.uniform(np.array(drawn, dtype=np.uint64))
    assert numbers.tolist() == [word / 2**32 for word in drawn]
    assert np.all((numbers >= 0) & (numbers < 1))


def test_uniform_numbers_are_uniform():
    numbers = random.uniform(random.draws(5, Stream.MASK, 0, np.arange(2**16), 3)[0])
    assert stats.kstest(numbers, "uniform").pvalue > P_VALUE


@pytest.mark.parametrize("rate", [0.15, 0.5, 0.8])
def test_a_threshold_on_uniform_numbers_selects_its_share(rate):
    numbers = random.uniform(random.draws(5, Stream.MASK, 1, np.arange(2000)[:, None], np.arange(64))[0])
    chosen = int((numbers < rate).sum())
    assert stats.binomtest(chosen, numbers.size, rate).pvalue > P_VALUE


@properties
@given(st.lists(words, min_size=1), st.integers(1, 2**32))
@example([0, WORD], 1)
@example([0, WORD], 2**32)
@example([0, WORD], 2**32 - 1)
def test_numbers_below_a_bound_are_in_range_and_scale_their_words(drawn, bound):
    numbers = random.below(np.array(drawn, dtype=np.uint64), bound)
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [word * bound >> 32 for word in drawn]
    assert np.all((numbers >= 0) & (numbers < bound))


@pytest.mark.parametrize("bound", [2, 3, 7, 10, 100, 1000])
def test_numbers_below_a_bound_are_flat(bound):
    numbers = random.below(random.draws(9, Stream.MASK, 0, 0, np.arange(100_000))[1], bound)
    assert flat(numbers, bound) > P_VALUE


def test_numbers_below_a_bound_reach_both_ends():
    assert random.below(np.array([0, WORD], dtype=np.uint64), 30_522).tolist() == [0, 30_521]


# Seeds for other generators


@properties
@given(seeds, streams, ids, st.integers(0, 2**20))
def test_a_seed_for_a_library_is_a_pure_function_with_63_bits(seed, stream, step, rank):
    value = random.seed_for(seed, stream, step, rank)
    assert isinstance(value, int)
    assert 0 <= value < 2**63
    assert random.seed_for(seed, stream, step, rank) == value


def test_a_seed_for_a_library_takes_rank_0_where_none_is_named():
    assert random.seed_for(1, Stream.INIT, 0) == random.seed_for(1, Stream.INIT, 0, 0)


def test_every_seed_and_stream_and_step_and_rank_has_its_own_seed():
    found = {
        random.seed_for(seed, stream, step, rank)
        for seed in (0, 1, 2**32)
        for stream in Stream
        for step in range(20)
        for rank in range(16)
    }
    assert len(found) == 3 * len(Stream) * 20 * 16


def test_seeds_for_a_library_use_all_of_their_bits():
    found = np.array([random.seed_for(0, Stream.STEP, step) for step in range(2000)])
    assert flat(found >> 59, 16) > P_VALUE
    assert flat(found & 15, 16) > P_VALUE
    assert np.all(np.abs([((found >> bit) & 1).mean() - 0.5 for bit in range(63)]) < 0.05)


def test_a_change_of_the_definition_of_seeds_would_be_noticed():
    assert random.seed_for(42, Stream.STEP, 1000, 3) == 8303832262352191847


@pytest.mark.parametrize(("step", "rank"), [(2**48, 0), (0, 2**48)])
def test_steps_and_ranks_that_would_wrap_a_counter_raise(step, rank):
    with pytest.raises(ValueError):
        random.seed_for(0, Stream.STEP, step, rank)
