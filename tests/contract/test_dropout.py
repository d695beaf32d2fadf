"""Dropout is a pure function of what is dropped, and passes for random along and across every coordinate."""

import hashlib
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from launcher.contract import dropout, random
from launcher.contract.random import Stream

P_VALUE = 1e-6
WORD = 0xFFFFFFFF
HALF = 2**15

RATES = (0.1, 0.15, 0.3, 0.5)
PATH = "encoder.layer.0.dropout"
SAMPLES, POSITIONS, FEATURES = 16, 128, 256

properties = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**63 - 1)
ids = st.integers(0, 2**48 - 1)
keys = st.integers(-(2**63), 2**63 - 1)
words = st.integers(0, WORD)
paths = st.text("layer.0123", max_size=12)
rates = st.floats(0, 1, exclude_max=True)


def lowbias32(x: int) -> int:
    """Wellons' function written again, in unbounded integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def inverse_of_lowbias32(x: int) -> int:
    """With the factors that Wellons publishes for it."""
    x ^= x >> 16
    x = x * 0x43021123 % 2**32
    x ^= x >> 15 ^ x >> 30
    x = x * 0x1D69E2A5 % 2**32
    return x ^ x >> 16


def reference_fold(pair: tuple[int, int], coordinate: int) -> tuple[int, int]:
    high = lowbias32(pair[1] ^ coordinate * 0x9E3779B1 % 2**32)
    return lowbias32((pair[0] + high) % 2**32), high


def reference_word(pair: tuple[int, int], index: int) -> int:
    """lowbias32 with the high word of the state between its multiplications."""
    x = (pair[0] + index * 0x9E3779B1) % 2**32
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32 ^ pair[1]
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def reference_draw(key: int, path: str, invocation: int, number: int, coordinates: list[int]) -> int:
    """The definition of the module's docstring, one number at a time."""
    place = int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "little")
    pair = ((key ^ place) % 2**32, (key ^ place) // 2**32 % 2**32)
    for coordinate in [invocation * 2**16 + number, *coordinates[:-1]]:
        pair = reference_fold(pair, coordinate)
    drawn = reference_word(pair, coordinates[-1] // 2) >> 16 * (coordinates[-1] % 2) & 0xFFFF
    return drawn - 2**16 if drawn >= HALF else drawn


def pairs(*values: tuple[int, int]) -> dropout.State:
    low, high = np.array(values, dtype=np.uint32).T
    return low, high


def drawn(of: np.ndarray, *sizes: int, path: str = PATH, invocation: int = 0, draw: int = 0) -> np.ndarray:
    """The draws of an array of shape (keys, *sizes)."""
    pair = dropout.state(of.reshape(-1, *[1] * len(sizes)), path, invocation, draw)
    for number, size in enumerate(sizes[:-1]):
        pair = dropout.fold(pair, np.arange(size).reshape(-1, *[1] * (len(sizes) - 1 - number)))
    return dropout.draws(pair, np.arange(sizes[-1]))


def of_samples(count: int = SAMPLES, seed: int = 7, epoch: int = 0) -> np.ndarray:
    return dropout.sample_keys(seed, epoch, np.arange(count))


def activations(of: np.ndarray | None = None, **place) -> np.ndarray:
    return drawn(of_samples() if of is None else of, POSITIONS, FEATURES, **place)


def attention(samples: int = 4, heads: int = 8, queries: int = 128, keys: int = 128) -> np.ndarray:
    return drawn(of_samples(samples), heads, queries, keys, path="encoder.layer.0.attention.self")


def of_epochs(count: int = 512) -> np.ndarray:
    """The draws of a few values of one sample in many epochs."""
    return drawn(dropout.sample_keys(7, np.arange(count), 3), 16, 64)


@cache
def of_steps(count: int = 512) -> np.ndarray:
    return drawn(np.concatenate([dropout.step_key(7, step) for step in range(count)]), 16, 64)


def flat(observed: np.ndarray, bins: int) -> float:
    """The p-value of integers in [0, bins) being equally likely."""
    return stats.chisquare(np.bincount(observed.ravel(), minlength=bins)).pvalue


def two_sided(statistic: float, distribution) -> float:
    return 2 * min(distribution.cdf(statistic), distribution.sf(statistic))


# The function behind it


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (1, 0x688990C0),
        (2, 0xD1132181),
        (0x9E3779B1, 0x6D523710),
        (0xDEADBEEF, 0xE628C683),
        (WORD, 0x6768824A),
    ],
)
def test_mix_gives_the_known_answers_of_lowbias32(value, expected):
    # of Wellons' C, compiled
    assert int(dropout.mix(np.array([value], dtype=np.uint32))[0]) == expected == lowbias32(value)


@properties
@given(st.lists(words, min_size=1, max_size=20))
@example([0, 1, WORD])
def test_mix_agrees_with_lowbias32_in_unbounded_integers(values):
    mixed = dropout.mix(np.array(values, dtype=np.uint32))
    assert mixed.dtype == np.uint32
    assert mixed.tolist() == [lowbias32(value) for value in values]


@properties
@given(words)
def test_mix_is_undone_by_the_published_inverse(value):
    assert inverse_of_lowbias32(int(dropout.mix(np.array([value], dtype=np.uint32))[0])) == value


def test_mix_is_a_bijection_whose_steps_can_all_be_undone():
    assert 0x43021123 * dropout.SECOND % 2**32 == 0x1D69E2A5 * dropout.FIRST % 2**32 == 1
    assert dropout.SHIFTS == (16, 15, 16)
    some = np.arange(2**20, dtype=np.uint32) * np.uint32(4093)
    assert len(np.unique(dropout.mix(some))) == 2**20


def test_coordinates_are_spread_by_an_odd_factor_so_that_none_are_lost():
    assert dropout.GOLDEN % 2 == 1


def test_each_bit_of_the_input_of_mix_moves_every_bit_of_its_output():
    values = random.draws(1, Stream.MASK, 0, 0, np.arange(2**11))[0].astype(np.uint32)
    flipped = values[:, None] ^ np.uint32(1) << np.arange(32, dtype=np.uint32)
    moved = dropout.mix(values)[:, None] ^ dropout.mix(flipped)
    shares = ((moved[..., None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)).mean(0)
    assert shares.min() > 0.4 and shares.max() < 0.6


@properties
@given(words, words, words)
@example(0, 0, 0)
@example(WORD, WORD, WORD)
def test_fold_and_word_agree_with_unbounded_integers(low, high, number):
    folded, made = dropout.fold(pairs((low, high)), number), dropout.word(pairs((low, high)), number)
    assert (int(folded[0][0]), int(folded[1][0])) == reference_fold((low, high), number)
    assert int(made[0]) == reference_word((low, high), number)
    assert folded[0].dtype == folded[1].dtype == made.dtype == np.uint32


@properties
@given(keys, paths, st.integers(0, 2**15 - 1), st.integers(0, 2**16 - 1), st.lists(words, min_size=1, max_size=4))
@example(-1, "", 0, 0, [WORD])
def test_draws_are_those_of_the_definition_in_unbounded_integers(key, path, invocation, number, coordinates):
    pair = dropout.state([key], path, invocation, number)
    for coordinate in coordinates[:-1]:
        pair = dropout.fold(pair, coordinate)
    expected = reference_draw(key, path, invocation, number, coordinates)
    assert dropout.draws(pair, coordinates[-1]).tolist() == [expected]


# Known answers


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", 0xB4B2797457A0A6E4),
        ("encoder.layer.0.dropout", 0xC00A8B78156845A3),
        ("bert.encoder.layer.11.attention.self", 0xBDA8BF5054CC593B),
    ],
)
def test_a_change_of_the_keys_of_places_would_be_noticed(path, expected):
    assert dropout.place_key(path) == expected


def test_a_change_of_the_keys_of_samples_would_be_noticed():
    known = {
        (0, 0, 0): -8328637990111053171,
        (7, 3, 11): -6995228406574569818,
        (2**40 + 17, 2**33 + 3, 2**34 + 5): 2416080036732476468,
    }
    assert {where: int(dropout.sample_keys(*where)) for where in known} == known


def test_a_change_of_the_keys_of_steps_would_be_noticed():
    assert dropout.step_key(0, 0).tolist() == [-823162068696335063]
    assert dropout.step_key(7, 1000).tolist() == [6768338647536539932]


def test_a_change_of_the_definition_would_be_noticed():
    key = dropout.sample_keys(7, 3, [11])
    assert [int(one[0]) for one in dropout.state(key, PATH)] == [0x98AA46C2, 0xFC68D0F0]
    assert [int(one[0]) for one in dropout.state(key, PATH, 2, 5)] == [0x84FD61CA, 0xE2582CC6]
    pair = dropout.fold(dropout.state(key, PATH), 9)
    assert [int(one[0]) for one in pair] == [0x0CA6C582, 0x69DA67C0]
    assert dropout.word(pair, np.arange(4)).tolist() == [0xF9C001C1, 0xF6B2DBB7, 0xD0EF7A9E, 0xC98409F8]
    assert dropout.draws(pair, np.arange(8)).tolist() == [449, -1600, -9289, -2382, 31390, -12049, 2552, -13948]
    assert (dropout.uniform(pair, np.arange(4)) * 2**24).tolist() == [16367617, 16167643, 13692795, 13206537]
    assert dropout.keep(pair, np.arange(8), 0.3).tolist() == [True] * 7 + [False]
    assert dropout.keep(pair, np.arange(8), 0.4).tolist() == [True, True, False, True, True, False, True, False]
    assert dropout.keep(pair, np.arange(8), 0.5).tolist() == [True, False, False, False, True, False, True, False]


def test_the_coordinate_of_a_call_has_its_invocation_above_its_number():
    assert [dropout.call(0, 0), dropout.call(0, 3), dropout.call(2, 5)] == [0, 3, 2 * 2**16 + 5]


# Keys


@properties
@given(seeds, ids, ids)
def test_the_key_of_a_sample_is_its_first_draw_of_a_stream_of_its_own(seed, epoch, sample):
    low, high, _, _ = random.draws(seed, Stream.DROPOUT, epoch, sample, 0)
    assert int(dropout.sample_keys(seed, epoch, sample)) % 2**64 == int(low) | int(high) << 32


@properties
@given(seeds, ids)
def test_the_key_of_a_step_is_the_second_draw_of_the_stream_for_no_sample(seed, step):
    low, high, _, _ = random.draws(seed, Stream.DROPOUT, step, 0, 1)
    assert int(dropout.step_key(seed, step)[0]) % 2**64 == int(low) | int(high) << 32
    assert dropout.step_key(seed, step).dtype == np.int64


def test_the_number_of_the_stream_is_part_of_the_contract():
    assert Stream.DROPOUT == 8
    assert [stream for stream in Stream if stream.value == 8] == [Stream.DROPOUT]


@pytest.mark.parametrize("other", [stream for stream in Stream if stream is not Stream.DROPOUT])
def test_no_other_stream_has_the_keys_of_samples(other):
    low, high, _, _ = random.draws(7, other, 0, np.arange(2**10), 0)
    assert not np.isin(of_samples(2**10).view(np.uint64), low | high << np.uint64(32)).any()


def test_every_seed_and_epoch_and_sample_has_its_own_key():
    epochs, samples = np.ix_([0, 1, 2, 2**32, 2**48 - 1], np.concatenate([np.arange(2**12), [2**32, 2**48 - 1]]))
    made = [dropout.sample_keys(seed, epochs, samples) for seed in (0, 1, 2**32, 2**63)]
    assert made[0].shape == (5, 2**12 + 2)
    assert len(np.unique(made)) == 4 * made[0].size


def test_a_step_never_has_the_key_of_a_sample():
    epochs, samples = np.ix_(np.arange(32), np.arange(2**11))
    steps = [int(dropout.step_key(7, step)[0]) for step in range(512)]
    assert len(set(steps)) == 512
    assert not np.isin(steps, dropout.sample_keys(7, epochs, samples)).any()


def test_every_place_and_invocation_and_draw_has_its_own_state():
    key = dropout.sample_keys(7, 0, [3])
    names = [f"encoder.layer.{layer}.{name}" for layer in range(24) for name in ("attention.self", "dropout", "drop")]
    made = {
        tuple(int(one[0]) for one in dropout.state(key, name, invocation, draw))
        for name in names
        for invocation in range(4)
        for draw in range(4)
    }
    assert len(made) == len(names) * 4 * 4


def test_coordinates_are_not_interchangeable():
    pair = dropout.state(of_samples(1), PATH)
    one = dropout.fold(dropout.fold(pair, 3), 5)
    other = dropout.fold(dropout.fold(pair, 5), 3)
    assert one[0] != other[0] and one[1] != other[1]


# Rates


@properties
@given(st.integers(0, 2**16 - 1))
@example(0)
@example(2**16 - 1)
def test_a_rate_drops_exactly_its_share_of_all_draws(dropped):
    everything, rate = np.arange(-HALF, HALF), dropped / 2**16
    assert dropout.threshold(rate) == dropped - HALF
    assert int((everything < dropout.threshold(rate)).sum()) == dropped
    assert dropout.kept(rate) == 1 - rate


@properties
@given(rates)
@example(0.0)
@example(0.1)
@example(1 - 2**-17)
@example(math.nextafter(1, 0))
def test_what_is_kept_is_the_share_of_draws_at_or_above_the_threshold(rate):
    everything = np.arange(-HALF, HALF)
    assert dropout.kept(rate) == (everything >= dropout.threshold(rate)).mean()
    assert abs(dropout.kept(rate) - (1 - rate)) <= (2**-17 if rate <= 1 - 2**-16 else 2**-16)


def test_a_rate_of_zero_keeps_every_draw_and_scales_nothing():
    assert dropout.threshold(0) == -HALF
    assert dropout.kept(0) == 1
    assert dropout.keep(pairs((inverse_of_lowbias32(0x80008000), 0)), [0, 1], 0).all()
    assert (activations() >= dropout.threshold(0)).all()


def test_a_rate_just_below_one_keeps_something_and_has_a_finite_scale():
    rate = math.nextafter(1, 0)
    assert dropout.threshold(rate) == HALF - 1
    assert 1 / dropout.kept(rate) == 2**16
    assert dropout.keep(pairs((inverse_of_lowbias32(0x7FFF7FFF), 0)), [0, 1], rate).all()


@pytest.mark.parametrize("rate", [1, 1.0, 1.5, -0.1, -1e-300, math.inf, -math.inf, math.nan])
def test_rates_outside_of_zero_to_below_one_raise(rate):
    for use in (dropout.threshold, dropout.kept, lambda rate: dropout.keep(pairs((1, 2)), [0], rate)):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            use(rate)


@properties
@given(words, words, st.lists(st.integers(0, 2**20), min_size=1, max_size=20), rates)
def test_what_is_kept_has_a_draw_of_at_least_the_threshold(low, high, last, rate):
    pair = pairs((low, high))
    expected = [draw >= dropout.threshold(rate) for draw in dropout.draws(pair, last).tolist()]
    assert dropout.keep(pair, last, rate).tolist() == expected


@pytest.mark.parametrize(
    ("word", "draws", "number"),
    [
        (0, [0, 0], 2**-24),
        (WORD, [-1, -1], 1 - 2**-24),
        (0x80007FFF, [HALF - 1, -HALF], 0.5 + (0x7FFF // 2**9) * 2**-23 + 2**-24),
        (0x00018000, [-HALF, 1], ((0x18000 // 2**9) + 0.5) * 2**-23),
    ],
)
def test_the_even_draw_is_the_low_half_of_a_word_and_numbers_never_reach_zero_or_one(word, draws, number):
    pair = pairs((inverse_of_lowbias32(word), 0))
    assert int(dropout.word(pair, 0)[0]) == word
    assert dropout.draws(pair, [0, 1]).tolist() == draws
    assert dropout.uniform(pair, 0).tolist() == [number]
    assert np.float32(number) == number


# What a draw depends on


@properties
@given(keys, st.integers(1, 6), st.integers(1, 9), st.integers(0, 6), st.integers(0, 9))
def test_padding_of_positions_and_features_does_not_move_a_draw(key, positions, features, more, wider):
    of = np.array([key])
    padded = drawn(of, positions + more, features + wider)
    assert np.array_equal(drawn(of, positions, features), padded[:, :positions, :features])


@properties
@given(st.lists(keys, min_size=1, max_size=5), st.data())
def test_a_draw_is_the_same_alone_and_among_others(some, data):
    whole = drawn(np.array(some), 3, 4, 5)
    row, head, query, last = (data.draw(st.integers(0, size - 1)) for size in whole.shape)
    pair = dropout.state([some[row]], PATH)
    alone = dropout.draws(dropout.fold(dropout.fold(pair, head), query), last)
    assert alone.tolist() == [whole[row, head, query, last]]


@properties
@given(st.lists(keys, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_samples_and_of_coordinates_does_not_matter(some, shuffler):
    last = list(range(11))
    shuffler.shuffle(last)
    straight = dropout.state(np.array(some)[:, None], PATH)
    turned = dropout.state(np.array(some)[::-1, None], PATH)
    expected = dropout.draws(straight, np.arange(11))[::-1, last]
    assert np.array_equal(dropout.draws(turned, last), expected)


@pytest.mark.parametrize("bit", range(0, 64, 3))
def test_a_bit_of_a_key_moves_half_of_the_draws_bits(bit):
    key = of_samples(8)
    flipped = (key.view(np.uint64) ^ np.uint64(1 << bit)).view(np.int64)
    moved = (drawn(key, 16, 32) ^ drawn(flipped, 16, 32)).astype(np.uint16)
    assert stats.binomtest(int(np.bitwise_count(moved).sum()), moved.size * 16, 0.5).pvalue > P_VALUE


# Statistics


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_right(rate, seed):
    draws = activations(of_samples(seed=seed))
    dropped = int((draws < dropout.threshold(rate)).sum())
    assert stats.binomtest(dropped, draws.size, 1 - dropout.kept(rate)).pvalue > P_VALUE


MASKS = {"activations": activations, "attention": attention, "epochs": of_epochs, "steps": of_steps}


@pytest.mark.parametrize("made", MASKS)
def test_the_sixteen_bits_of_draws_are_flat(made):
    unsigned = MASKS[made]() + HALF
    assert flat(unsigned >> 8, 256) > P_VALUE
    assert flat(unsigned & 0xFF, 256) > P_VALUE
    assert flat(unsigned >> 4 & 0xFF, 256) > P_VALUE


def test_each_coordinate_alone_has_flat_draws():
    unsigned = (activations() + HALF) >> 12
    for axis in range(3):
        groups = np.moveaxis(unsigned, axis, 0).reshape(unsigned.shape[axis], -1)
        counts = np.stack([(groups == value).sum(1) for value in range(16)])
        expected = groups.shape[1] / 16
        statistics = ((counts - expected) ** 2 / expected).sum(0)
        assert stats.chi2(15).sf(statistics.max()) * len(groups) > P_VALUE
        assert stats.kstest(statistics, stats.chi2(15).cdf).pvalue > P_VALUE


def test_numbers_between_zero_and_one_are_uniform():
    pair = dropout.fold(dropout.state(of_samples()[:, None, None], PATH), np.arange(32)[:, None])
    numbers = dropout.uniform(pair, np.arange(128))
    assert numbers.min() > 0 and numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > P_VALUE
    assert stats.pearsonr(numbers[..., 1:].ravel(), numbers[..., :-1].ravel()).pvalue > P_VALUE


def beside(by: int, axis: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws, and those that lie further along an axis."""
    ahead, behind = [slice(None)] * draws.ndim, [slice(None)] * draws.ndim
    ahead[axis], behind[axis] = slice(by, None), slice(None, -by)
    return draws[tuple(ahead)], draws[tuple(behind)]


def square() -> np.ndarray:
    return drawn(of_samples(32), 160, 160)


def on_both_sides_of_the_diagonal(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.triu_indices(draws.shape[-1], 1)
    return draws[..., rows, columns], draws[..., columns, rows]


PAIRS = (
    {
        f"features {by} apart": lambda by=by: beside(by, 2, activations())
        for by in (1, 2, 3, 4, 7, 8, 16, 32, 64, 100, 128)
    }
    | {f"positions {by} apart": lambda by=by: beside(by, 1, activations()) for by in (1, 2, 3, 4, 8, 16, 64)}
    | {f"samples {by} apart": lambda by=by: beside(by, 0, activations()) for by in (1, 2, 5, 8)}
    | {f"epochs {by} apart": lambda by=by: beside(by, 0, of_epochs()) for by in (1, 2, 16)}
    | {f"steps {by} apart": lambda by=by: beside(by, 0, of_steps()) for by in (1, 2, 16)}
    | {f"heads {by} apart": lambda by=by: beside(by, 1, attention()) for by in (1, 2, 4)}
    | {f"queries {by} apart": lambda by=by: beside(by, 2, attention()) for by in (1, 2, 8)}
    | {f"attended {by} apart": lambda by=by: beside(by, 3, attention()) for by in (1, 2, 8)}
    | {
        "halves of a word": lambda: (activations()[..., ::2], activations()[..., 1::2]),
        "low halves of neighbouring words": lambda: beside(1, 2, activations()[..., ::2]),
        "high halves of neighbouring words": lambda: beside(1, 2, activations()[..., 1::2]),
        "down the diagonal": lambda: (activations()[:, 1:, 1:], activations()[:, :-1, :-1]),
        "up the diagonal": lambda: (activations()[:, 1:, :-1], activations()[:, :-1, 1:]),
        "a word on and a position down": lambda: (activations()[:, 1:, 2:], activations()[:, :-1, :-2]),
        "a word back and a position down": lambda: (activations()[:, 1:, :-2], activations()[:, :-1, 2:]),
        "a position and a feature exchanged": lambda: on_both_sides_of_the_diagonal(square()),
        "a query and what it attends to exchanged": lambda: on_both_sides_of_the_diagonal(attention()),
        "places": lambda: (activations(), activations(path="encoder.layer.1.dropout")),
        "places of a layer": lambda: (activations(), activations(path="encoder.layer.0.attention.self")),
        "invocations": lambda: (activations(), activations(invocation=1)),
        "later invocations": lambda: (activations(invocation=1), activations(invocation=2)),
        "draws of an invocation": lambda: (activations(), activations(draw=1)),
        "an invocation and a draw": lambda: (activations(invocation=1), activations(draw=1)),
        "seeds": lambda: (activations(), activations(of_samples(seed=8))),
        "epochs of a sample": lambda: (activations(), activations(of_samples(epoch=1))),
        "the step and a sample": lambda: (
            activations(dropout.step_key(7, 0)),
            activations(dropout.sample_keys(7, 0, [0])),
        ),
        "one dimension and two": lambda: (drawn(of_samples(2**8), 1024), drawn(of_samples(2**8), 1, 1024)[:, 0]),
    }
)


@pytest.mark.parametrize("where", PAIRS)
def test_draws_are_independent_of_each_other(where):
    one, other = PAIRS[where]()
    assert one.size >= 2**15
    for rate in (0.1, 0.5):
        first, second = one < dropout.threshold(rate), other < dropout.threshold(rate)
        table = np.bincount((first * 2 + second).ravel(), minlength=4).reshape(2, 2)
        assert stats.chi2_contingency(table, correction=False).pvalue > P_VALUE
    assert flat(((one + HALF) >> 12) * 16 + ((other + HALF) >> 12), 256) > P_VALUE
    assert flat((one & 15) * 16 + (other & 15), 256) > P_VALUE


AXES = [
    (made, axis)
    for made, names in {
        "activations": ["samples", "positions", "features"],
        "attention": ["samples", "heads", "queries", "keys"],
        "epochs": ["epochs", "positions", "features"],
        "steps": ["steps", "positions", "features"],
    }.items()
    for axis in range(len(names))
]


def lines(made: str, axis: int, rate: float) -> np.ndarray:
    """What is dropped of a mask, shape (lines, values along the axis)."""
    dropped = np.moveaxis(MASKS[made]() < dropout.threshold(rate), axis, -1)
    return dropped.reshape(-1, dropped.shape[-1])


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize(("made", "axis"), AXES)
def test_runs_of_what_is_dropped_are_as_many_as_chance_gives(made, axis, rate):
    """Wald and Wolfowitz, 1940: given how many values of a line are dropped, the mean and the variance of the number
    of runs; over all lines their sum is normal."""
    dropped = lines(made, axis, rate)
    size, ones = dropped.shape[1], dropped.sum(1)
    runs = 1 + (dropped[:, 1:] != dropped[:, :-1]).sum(1)
    products = 2 * ones * (size - ones)
    mean, variance = 1 + products / size, products * (products - size) / (size**2 * (size - 1))
    assert two_sided((runs - mean).sum() / math.sqrt(variance.sum()), stats.norm) > P_VALUE


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize(("made", "axis"), AXES)
def test_counts_of_what_is_dropped_vary_as_those_of_a_binomial_do(made, axis, rate):
    """The dispersion of the counts of a line's drops about the mean that is known, as chi-square: too regular a mask
    fails as much as one that clusters."""
    dropped = lines(made, axis, rate)
    size, share = dropped.shape[1], 1 - dropout.kept(rate)
    z = (dropped.sum(1) - size * share) / math.sqrt(size * share * (1 - share))
    # the variance of z^2 is 2 of a normal; of a binomial its kurtosis comes on top
    variance = 2 + (1 - 6 * share * (1 - share)) / (size * share * (1 - share))
    assert two_sided((np.square(z) - 1).sum() / math.sqrt(variance * len(z)), stats.norm) > P_VALUE


@pytest.mark.parametrize("over", [(1, 2), (0, 2), (0, 1)], ids=["of a sample", "of a position", "of a feature"])
@pytest.mark.parametrize("rate", RATES)
def test_no_sample_or_position_or_feature_is_dropped_more_than_others(rate, over):
    dropped, share = activations() < dropout.threshold(rate), 1 - dropout.kept(rate)
    size = math.prod(dropped.shape[axis] for axis in over)
    squares = np.square(dropped.sum(over) - size * share) / (size * share * (1 - share))
    assert two_sided(squares.sum(), stats.chi2(squares.size)) > P_VALUE


@pytest.mark.parametrize("rate", RATES)
def test_counts_of_a_row_are_binomial(rate):
    counts, share = lines("activations", 2, rate).sum(1), 1 - dropout.kept(rate)
    edges = np.unique(stats.binom.ppf(np.linspace(0.05, 0.95, 19), FEATURES, share))
    observed = np.bincount(np.searchsorted(edges, counts), minlength=len(edges) + 1)
    expected = np.diff(stats.binom.cdf(edges, FEATURES, share), prepend=0, append=1) * len(counts)
    assert stats.chisquare(observed, expected).pvalue > P_VALUE


@pytest.mark.parametrize(("made", "axis"), AXES)
def test_every_pattern_of_eight_neighbours_is_as_likely(made, axis):
    dropped = lines(made, axis, 0.5)
    used = dropped[:, : dropped.shape[1] // 8 * 8] if dropped.shape[1] >= 8 else dropped.ravel()[None]
    assert flat(np.packbits(used.reshape(-1, 8), axis=1), 256) > P_VALUE
