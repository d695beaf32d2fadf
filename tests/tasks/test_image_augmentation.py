"""Augmented images: a pure function of the sample, and what is said of each change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.contract.random import Draw, Stream
from launcher.tasks._image_augmentation import Augment, augment

DRAW = Draw(5, Stream.MASK)
ALL = Augment(crop=2, flip=True, rotate=30, erase=0.5)


def images(count=40, shape=(9, 7, 3), low=1):
    return np.random.default_rng(0).integers(low, 256, (count, *shape), dtype=np.uint8)


def changed(given, epochs=0, draw=DRAW, config=ALL, first=0):
    ids = range(first, first + len(given))
    return augment(given, config, [epochs] * len(given), list(ids), draw)


@settings(deadline=None, max_examples=25)
@given(
    st.permutations(range(12)),
    st.integers(0, 12),
    st.integers(0, 2**40),
    st.integers(0, 2**63 - 1),
    st.sampled_from([1, 3]),
)
def test_changes_do_not_depend_on_order_or_batch(order, cut, epoch, seed, channels):
    given, draw = images(12, (6, 8, channels)), Draw(seed, Stream.MASK)
    whole = augment(given, ALL, [epoch] * 12, list(range(12)), draw)
    for some in (order[:cut], order[cut:]):
        part = augment(given[some], ALL, [epoch] * len(some), list(some), draw)
        assert np.array_equal(part, whole[some])


def test_the_input_stays_unchanged_and_so_does_the_output_without_changes():
    given = images()
    before = given.copy()
    assert np.array_equal(changed(given, config=Augment()), before)
    made = changed(given)
    assert np.array_equal(given, before)
    assert (made.shape, made.dtype) == (given.shape, given.dtype)


def test_epoch_seed_stream_and_sample_each_affect_the_changes():
    given = np.repeat(images(1), 40, axis=0)
    first = changed(given)
    others = [changed(given, 1), changed(given, draw=Draw(6, Stream.MASK)), changed(given, draw=Draw(5, Stream.ORDER))]
    assert all((first != other).any((1, 2, 3)).mean() > 0.9 for other in others)
    assert len({one.tobytes() for one in first}) > 38


def test_a_crop_is_a_random_window_of_the_padded_image():
    given, seen = images(400, (5, 6, 1)), set()
    for image, made in zip(given, changed(given, config=Augment(crop=2)), strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        places = [(r, c) for r in range(5) for c in range(5) if np.array_equal(padded[r : r + 5, c : c + 6], made)]
        seen.update(places)
        assert len(places) == 1
    assert len(seen) == 25


def test_half_of_the_images_are_flipped_left_to_right():
    given = images(400)
    made = changed(given, config=Augment(flip=True))
    flipped = (made == given[:, :, ::-1]).all((1, 2, 3))
    assert (flipped | (made == given).all((1, 2, 3))).all()
    assert 0.42 < flipped.mean() < 0.58


def test_a_rotation_is_limited_and_fills_corners_with_zeros():
    given = np.full((60, 21, 21, 1), 200, dtype=np.uint8)
    little, much = (changed(given, config=Augment(rotate=degrees)) for degrees in (2, 45))
    assert (much[:, 10, 10] == 200).all()
    assert (little == 0).mean() < (much == 0).mean() / 2
    assert (much[:, 0, 0] == 0).mean() > 0.5
    assert np.array_equal(changed(given, config=Augment(rotate=180)).shape, given.shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_rectangle_is_erased_with_the_configured_probability(channels):
    given = np.zeros((600, 20, 30, channels), dtype=np.uint8)
    other = changed(given, config=Augment(erase=0.3)).any(3)
    hit = other.any((1, 2))
    assert 0.25 < hit.mean() < 0.35
    for image in other[hit]:
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 0.015 < box.size / image.size < 0.42
        assert box.mean() > 0.9  # noise is 0 in one pixel of 256
    assert {bool(image[:, :3].any()) for image in other[hit]} == {True, False}


def test_enabling_one_change_does_not_affect_the_others():
    given = images(40, (8, 8, 3))
    flipped = changed(given, config=Augment(flip=True))
    both = changed(given, config=Augment(flip=True, erase=0.5))
    alike = (flipped == both).all((1, 2, 3))
    assert 0.3 < alike.mean() < 0.7


def test_impossible_values_are_refused():
    for wrong in ({"crop": -1}, {"rotate": 181}, {"erase": 1.5}, {"mirror": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Augment(**wrong)
