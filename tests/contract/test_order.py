"""The order of samples: a pure function of (seed, step), a permutation in each epoch, no list anywhere."""

import dataclasses
import functools
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from launcher.contract import random
from launcher.contract.order import Order

P_VALUE = 1e-4
HUGE = 10**9

properties = settings(deadline=None, max_examples=30)
slow_properties = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 2**63 - 1)
sizes = st.one_of(st.integers(1, 300), st.integers(1, 20_000))
small_sizes = st.integers(1, 60)
batches = st.integers(1, 40)


def epoch_of(size: int, seed: int, epoch: int = 0) -> np.ndarray:
    """A whole epoch's samples, in order."""
    return Order(size, seed).permute(np.full(size, epoch), np.arange(size))


def stream_of(order: Order, batch: int, steps: range) -> list[tuple[int, int]]:
    """The (epoch, sample) pairs of these steps, one after the other."""
    pairs = []
    for step in steps:
        epochs, samples = order.step(step, batch)
        pairs += zip(epochs.tolist(), samples.tolist(), strict=True)
    return pairs


# A permutation


def test_every_epoch_visits_every_sample_once_at_every_size_up_to_200():
    for size in range(1, 201):
        for epoch in (0, 2**40):
            assert sorted(epoch_of(size, seed=7, epoch=epoch).tolist()) == list(range(size)), size


@properties
@given(sizes, seeds, st.integers(0, 2**48 - 1))
@example(20_000, 0, 0)
@example(141**2, 0, 0)
@example(141**2 + 1, 0, 0)
@example(141**2 - 1, 0, 0)
def test_every_epoch_visits_every_sample_once(size, seed, epoch):
    visits = np.bincount(epoch_of(size, seed, epoch), minlength=size)
    assert visits.shape == (size,)
    assert np.all(visits == 1)


@slow_properties
@given(small_sizes, seeds, st.integers(4, 80))
def test_steps_visit_every_sample_once_before_any_comes_again(size, seed, batch):
    pairs = stream_of(Order(size, seed), batch, range(-(-3 * size // batch)))
    for epoch in range(3):
        part = pairs[epoch * size : (epoch + 1) * size]
        assert {e for e, _ in part} == {epoch}
        assert sorted(sample for _, sample in part) == list(range(size))


@pytest.mark.parametrize("size", [HUGE, 2**40 + 1, 2**48 - 1])
@pytest.mark.parametrize("start", [0, HUGE // 2, HUGE - 40_000])
def test_a_window_of_a_huge_epoch_is_in_range_and_holds_no_sample_twice(size, start):
    places = np.arange(start, start + 40_000)
    samples = Order(size, seed=3).permute(np.zeros_like(places), places)
    assert samples.min() >= 0
    assert samples.max() < size
    assert len(np.unique(samples)) == len(samples)


def test_steps_far_apart_in_a_huge_epoch_hold_no_sample_twice():
    order = Order(HUGE, seed=3)
    samples = np.concatenate([order.step(step, 256)[1] for step in range(0, HUGE // 256, HUGE // 256 // 300)])
    assert len(np.unique(samples)) == len(samples)


def test_a_single_sample_comes_at_every_place():
    epochs, samples = Order(1, seed=0).step(5, 4)
    assert epochs.tolist() == [20, 21, 22, 23]
    assert samples.tolist() == [0, 0, 0, 0]


# A pure function of (seed, step)


@properties
@given(sizes, seeds, st.integers(0, 10**6), batches)
def test_a_step_holds_a_global_batch_of_epochs_and_samples(size, seed, step, batch):
    epochs, samples = Order(size, seed).step(step, batch)
    assert epochs.shape == samples.shape == (batch,)
    assert epochs.dtype == samples.dtype == np.int64
    assert np.all((samples >= 0) & (samples < size))
    assert epochs.tolist() == [(step * batch + place) // size for place in range(batch)]


@properties
@given(sizes, seeds, st.lists(st.integers(0, 10**6), min_size=1, max_size=4), batches)
def test_a_step_is_the_same_whatever_was_asked_before(size, seed, steps, batch):
    used = Order(size, seed)
    for step in steps:
        epochs, samples = used.step(step, batch)
        fresh_epochs, fresh_samples = Order(size, seed).step(step, batch)
        assert np.array_equal(epochs, fresh_epochs)
        assert np.array_equal(samples, fresh_samples)


@slow_properties
@given(small_sizes, seeds, batches, st.integers(0, 6))
def test_resuming_at_a_step_goes_on_with_the_stream_that_was_left(size, seed, batch, stopped):
    straight = stream_of(Order(size, seed), batch, range(6))
    before = stream_of(Order(size, seed), batch, range(stopped))
    after = stream_of(Order(size, seed), batch, range(stopped, 6))
    assert before + after == straight


def test_an_order_holds_nothing_but_its_size_and_seed():
    order = Order(50, seed=1)
    order.step(3, 8)
    assert vars(order) == {"size": 50, "seed": 1}
    with pytest.raises(dataclasses.FrozenInstanceError):
        order.seed = 2


def test_permute_leaves_its_arguments_as_they_were():
    epochs, places = np.zeros(50, dtype=np.int64), np.arange(50)
    Order(50, seed=1).permute(epochs, places)
    assert not epochs.any()
    assert places.tolist() == list(range(50))


@properties
@given(sizes, seeds, st.randoms(use_true_random=False))
def test_a_sample_does_not_depend_on_which_other_places_are_asked(size, seed, shuffler):
    chosen = np.array([shuffler.randrange(size) for _ in range(20)])
    part = Order(size, seed).permute(np.zeros_like(chosen), chosen)
    assert np.array_equal(part, epoch_of(size, seed)[chosen])


def test_a_change_of_the_definition_of_the_order_would_be_noticed():
    assert epoch_of(10, seed=0).tolist() == [7, 4, 1, 3, 0, 9, 6, 5, 8, 2]
    epochs, samples = Order(HUGE, seed=2**40 + 1).step(10**8, 5)
    assert epochs.tolist() == [0] * 5
    assert samples.tolist() == [894619623, 636236569, 921373510, 916683397, 391218218]


# No seam


def test_a_batch_across_the_seam_is_the_tail_of_one_epoch_and_the_head_of_the_next():
    epochs, samples = Order(10, seed=4).step(2, 4)
    assert epochs.tolist() == [0, 0, 1, 1]
    assert samples[:2].tolist() == epoch_of(10, 4, epoch=0)[8:].tolist()
    assert samples[2:].tolist() == epoch_of(10, 4, epoch=1)[:2].tolist()


def test_a_batch_larger_than_the_data_goes_through_whole_epochs():
    epochs, samples = Order(10, seed=4).step(1, 25)
    assert epochs.tolist() == [2] * 5 + [3] * 10 + [4] * 10
    expected = [*epoch_of(10, 4, 2)[5:], *epoch_of(10, 4, 3), *epoch_of(10, 4, 4)]
    assert samples.tolist() == [int(sample) for sample in expected]


def test_a_batch_across_the_seam_of_huge_data_is_the_tail_and_the_head_too():
    order, step = Order(HUGE, seed=4), HUGE // 96
    epochs, samples = order.step(step, 96)
    tail = HUGE - step * 96
    assert 0 < tail < 96
    assert epochs.tolist() == [0] * tail + [1] * (96 - tail)
    assert np.array_equal(samples[:tail], order.permute(np.zeros(tail, int), np.arange(HUGE - tail, HUGE)))
    assert np.array_equal(samples[tail:], order.permute(np.ones(96 - tail, int), np.arange(96 - tail)))


@slow_properties
@given(small_sizes, seeds, st.integers(1, 12), st.integers(1, 12))
@example(30, 0, 12, 4)
@example(7, 0, 12, 4)
def test_the_stream_does_not_depend_on_the_batch_it_is_cut_into(size, seed, one, other):
    order = Order(size, seed)
    assert stream_of(order, one, range(other)) == stream_of(order, other, range(one))


@properties
@given(st.integers(1, 2**48 - 1), seeds, st.integers(0, 10**12))
def test_a_step_of_12_is_three_steps_of_4_anywhere_in_data_of_any_size(size, seed, step):
    order = Order(size, seed)
    assert stream_of(order, 12, range(step, step + 1)) == stream_of(order, 4, range(3 * step, 3 * step + 3))


# The cost of a step


def peak_bytes(size: int, step: int) -> int:
    order = Order(size, seed=0)
    order.step(step, 256)  # what is allocated once, at the first call, is not the step's
    tracemalloc.start()
    try:
        order.step(step, 256)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("step", [0, 10**8, 10**14], ids=["first", "far", "very far"])
@pytest.mark.parametrize("size", [1000, HUGE, 2**48 - 1])
def test_a_step_needs_memory_for_its_batch_alone(size, step):
    assert peak_bytes(size, step) < 256 * 1024


@pytest.mark.parametrize("step", [0, 10**8, 10**14], ids=["first", "far", "very far"])
@pytest.mark.parametrize("size", [1000, 10_001, HUGE, 2**48 - 1])
def test_a_step_draws_a_few_counters_for_each_of_its_samples_wherever_it_is(monkeypatch, size, step):
    drawn = []
    draws = random.draws

    def counting(*purpose):
        words = draws(*purpose)
        drawn.append(words[0].size)
        return words

    monkeypatch.setattr(random, "draws", counting)
    Order(size, seed=0).step(step, 256)
    assert 256 <= sum(drawn) < 16 * 256


# As good as a shuffle


@functools.cache
def shuffles(size: int, across: str) -> np.ndarray:
    """100 epochs, one a row: of one seed, or the first of each of as many seeds."""
    return np.stack([epoch_of(size, *((1, k) if across == "epochs" else (k, 0))) for k in range(100)])


@properties
@given(st.integers(50, 20_000), seeds, st.integers(0, 1000))
def test_epochs_differ(size, seed, epoch):
    assert not np.array_equal(epoch_of(size, seed, epoch), epoch_of(size, seed, epoch + 1))


@properties
@given(st.integers(50, 20_000), seeds, seeds)
def test_seeds_differ(size, seed, other):
    assert seed == other or not np.array_equal(epoch_of(size, seed), epoch_of(size, other))


@pytest.mark.parametrize("across", ["epochs", "seeds"])
def test_two_shuffles_agree_at_about_one_place(across):
    agreed = sum(int((one == other).sum()) for one, other in itertools.pairwise(shuffles(1000, across)))
    assert P_VALUE < stats.poisson.cdf(agreed, 100 - 1) < 1 - P_VALUE


@pytest.mark.parametrize("size", [128, 1000, 4096])
@pytest.mark.parametrize("across", ["epochs", "seeds"])
def test_half_of_the_first_half_stays_in_the_first_half(size, across):
    stayed = (shuffles(size, across)[:, : size // 2] < size // 2).sum(axis=1)
    scores = (stayed - size / 4) / np.sqrt(size**2 / (16 * (size - 1)))
    assert abs(scores.mean()) < 4 / np.sqrt(100)
    assert 0.6 < scores.var() < 1.5


@pytest.mark.parametrize(("size", "batch"), [(HUGE, 32), (10**6, 256), (20_000, 256)])
def test_batches_hold_the_first_half_of_the_data_as_often_as_in_a_shuffle(size, batch):
    samples = Order(size, seed=6).step(1, 1000 * batch)[1].reshape(1000, batch)
    held = (samples < size // 2).sum(axis=1)
    scores = (held - batch / 2) / np.sqrt(batch / 4 * (size - batch) / (size - 1))
    assert P_VALUE < stats.chi2.sf((scores**2).sum(), len(scores)) < 1 - P_VALUE


@pytest.mark.parametrize("size", [128, 1000, 4096])
def test_samples_move_as_far_as_in_a_shuffle(size):
    moved = np.abs(shuffles(size, "seeds") - np.arange(size)).mean()
    expected, error = (size**2 - 1) / (3 * size), np.sqrt(2 * size / 45 / 100)
    assert abs(moved - expected) < 4 * error


@pytest.mark.parametrize("size", [100, 101, 1000])
def test_each_place_gets_every_sample_equally_often(size):
    epochs = 100 * size
    for place in (0, 1, size // 2, size - 1):
        samples = Order(size, seed=2).permute(np.arange(epochs), np.full(epochs, place))
        assert stats.chisquare(np.bincount(samples, minlength=size)).pvalue > P_VALUE


def test_places_of_huge_data_get_samples_from_all_of_it():
    samples = Order(HUGE, seed=2).step(1000, 50_000)[1]
    assert stats.chisquare(np.bincount(samples // (HUGE // 100), minlength=100)).pvalue > P_VALUE
    assert stats.chisquare(np.bincount(samples % 100, minlength=100)).pvalue > P_VALUE


def test_neighbours_in_the_data_do_not_stay_neighbours():
    samples = epoch_of(10_000, seed=2)
    assert abs(stats.spearmanr(samples[:-1], samples[1:]).statistic) < 0.05
    assert abs(stats.spearmanr(samples, np.arange(10_000)).statistic) < 0.05


# Limits


@pytest.mark.parametrize("size", [0, -1, 2**48, 2**60])
def test_a_size_out_of_range_raises(size):
    with pytest.raises(ValueError, match=f"not {size}"):
        Order(size, seed=0)


def test_a_step_before_the_first_raises():
    with pytest.raises(ValueError):
        Order(10, seed=0).step(-1, 4)


def test_an_epoch_beyond_the_counters_raises_rather_than_repeats():
    with pytest.raises(ValueError):
        Order(2, seed=0).step(2**48, 4)
