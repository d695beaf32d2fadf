"""torch draws the bits of the definition, whatever the keys, shapes, coordinates and blocks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from launcher.contract import dropout as definition
from launcher.train import counter_dropout
from launcher.train.sample_rows import SampleRows

properties = settings(deadline=None, max_examples=60)
keys = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, -1, 2**31, 2**32, -(2**31), 2**63 - 1, -(2**63)])
paths = st.text("layer.0123", max_size=12)
places = st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**63 - 1, 2**63, 2**64 - 1])
calls = st.tuples(st.integers(0, 2**15 - 1), st.integers(0, 2**16 - 1))
coordinates = st.integers(0, 2**31 - 1) | st.integers(0, 1000)
rates = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 0.1, 0.5, 2**-17, 1 - 2**-17, math.nextafter(1, 0)])
firsts = st.integers(0, 20) | st.integers(0, 2**31 - 100)
counts = st.integers(0, 41)
signed_words = st.integers(-(2**31), 2**31 - 1)


def place_of(key: int) -> torch.Tensor:
    return torch.tensor(key - 2**64 if key >= 2**63 else key)


def bits(words: torch.Tensor) -> np.ndarray:
    assert words.dtype == torch.int32
    return words.numpy().view(np.uint32)


def same(state: counter_dropout.State, expected: definition.State) -> bool:
    return all(np.array_equal(bits(one), other) for one, other in zip(state, expected, strict=True))


@st.composite
def states(draw) -> tuple[counter_dropout.State, definition.State]:
    """The same states with torch and by the definition, shape (rows, ..., 1): of keys for each row, or for each token
    of a row as where samples share rows."""
    rows, axes = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    invocation, number = draw(calls)
    path = draw(paths)
    tokens = draw(st.integers(1, 3)) if axes and draw(st.booleans()) else None
    count = rows * (tokens or 1)
    flat = np.array(draw(st.lists(keys, min_size=count, max_size=count)))
    shape = (rows, *[1] * (axes + 1)) if tokens is None else (rows, tokens, *[1] * axes)
    call = definition.call(invocation, number)
    state = counter_dropout.begin(torch.from_numpy(flat).view(shape), place_of(definition.place_key(path)), call)
    expected = definition.state(flat.reshape(shape), path, invocation, number)
    for axis in range(axes):
        size = tokens if tokens is not None and axis == 0 else draw(st.integers(1, 3))
        each = rows if tokens is not None and axis == 0 else 1
        coordinate = np.array(draw(st.lists(coordinates, min_size=each * size, max_size=each * size)))
        coordinate = coordinate.reshape(each, *[1] * axis, size, *[1] * (axes - axis))
        state = counter_dropout.fold(state, torch.from_numpy(coordinate.astype(np.int32)))
        expected = definition.fold(expected, coordinate)
    return state, expected


# The bits of the definition


@properties
@given(st.lists(keys, min_size=1, max_size=6), paths, calls)
@example([0, -1, 2**63 - 1, -(2**63), 2**32, 2**31], "", (0, 0))
@example([5], "layer", (2**15 - 1, 2**16 - 1))
def test_the_states_of_a_place_are_those_of_the_definition(some, path, call):
    place = place_of(definition.place_key(path))
    state = counter_dropout.begin(torch.tensor(some), place, definition.call(*call))
    assert same(state, definition.state(some, path, *call))


@properties
@given(keys, places)
def test_the_states_of_any_place_are_those_of_the_definition(key, place):
    mixed = (key ^ place) % 2**64
    expected = (np.array([word], dtype=np.uint32) for word in (mixed % 2**32, mixed >> 32))
    assert same(counter_dropout.begin(torch.tensor([key]), place_of(place), 7), definition.fold(tuple(expected), 7))


@properties
@given(states())
def test_folded_states_are_those_of_the_definition(both):
    state, expected = both
    assert same(state, expected)
    assert np.broadcast_shapes(*(one.shape for one in state)) == np.broadcast_shapes(*(one.shape for one in expected))


@properties
@given(signed_words, signed_words, signed_words)
@example(-1, -1, -1)
@example(-(2**31), -(2**31), -(2**31))
def test_coordinates_of_all_32_bits_fold_as_in_the_definition(low, high, coordinate):
    state = torch.tensor([low], dtype=torch.int32), torch.tensor([high], dtype=torch.int32)
    words = np.array([low, high, coordinate], dtype=np.int32).view(np.uint32)
    number, expected = torch.tensor([coordinate], dtype=torch.int32), (words[:1], words[1:2])
    assert same(counter_dropout.fold(state, number), definition.fold(expected, words[2:]))
    assert np.array_equal(bits(counter_dropout.word(state, number)), definition.word(expected, words[2:]))


@properties
@given(states(), st.lists(coordinates, min_size=1, max_size=9))
def test_words_are_those_of_the_definition(both, index):
    state, expected = both
    made = counter_dropout.word(state, torch.tensor(index, dtype=torch.int32))
    assert np.array_equal(bits(made), definition.word(expected, index))


@properties
@given(states(), st.lists(coordinates, min_size=1, max_size=9))
def test_numbers_are_those_of_the_definition_to_the_last_bit(both, last):
    state, expected = both
    made = counter_dropout.uniform(state, torch.tensor(last, dtype=torch.int32))
    assert made.dtype == torch.float32
    assert np.array_equal(made.double().numpy(), definition.uniform(expected, last))
    assert bool((made > 0).all()) and bool((made < 1).all())


@pytest.mark.parametrize(("word", "number"), [(0, 2**-24), (-1, 1 - 2**-24)])
def test_numbers_reach_neither_zero_nor_one(monkeypatch, word, number):
    monkeypatch.setattr(counter_dropout, "word", lambda state, index: torch.tensor([word], dtype=torch.int32))
    assert counter_dropout.uniform((torch.zeros(1), torch.zeros(1)), torch.zeros(1)).tolist() == [number]


@properties
@given(states(), st.lists(coordinates, min_size=1, max_size=9), rates)
def test_what_is_kept_is_what_the_definition_keeps(both, last, rate):
    state, expected = both
    made = counter_dropout.keep(state, torch.tensor(last, dtype=torch.int32), definition.threshold(rate))
    assert made.dtype == torch.bool
    assert np.array_equal(made.numpy(), definition.keep(expected, last, rate))


@properties
@given(states(), st.data(), rates)
def test_last_coordinates_may_be_those_of_each_token(both, data, rate):
    state, expected = both
    shape = (*np.broadcast_shapes(*(one.shape for one in expected))[:-1], 3)
    last = np.array(data.draw(st.lists(coordinates, min_size=math.prod(shape), max_size=math.prod(shape))))
    made = counter_dropout.keep(state, torch.from_numpy(last.astype(np.int32)).view(shape), definition.threshold(rate))
    assert np.array_equal(made.numpy(), definition.keep(expected, last.reshape(shape), rate))


@properties
@given(states(), counts, rates, firsts)
def test_a_run_keeps_what_the_definition_keeps(both, count, rate, first):
    state, expected = both
    made = counter_dropout.keep_run(state, count, definition.threshold(rate), first)
    assert made.dtype == torch.bool
    assert np.array_equal(made.numpy(), definition.keep(expected, np.arange(first, first + count), rate))


@pytest.mark.parametrize("first", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 9])
def test_a_run_keeps_what_keep_keeps_for_odd_and_even_ends(count, first):
    state = counter_dropout.begin(torch.tensor([[3], [-5]]), torch.tensor(11), 0)
    made = counter_dropout.keep_run(state, count, definition.threshold(0.4), first)
    assert made.shape == (2, count)
    assert torch.equal(
        made,
        counter_dropout.keep(state, torch.arange(first, first + count, dtype=torch.int32), definition.threshold(0.4)),
    )


@properties
@given(states(), st.integers(1, 41), rates, firsts, st.data())
def test_a_part_of_a_run_is_the_part_of_the_run(both, count, rate, first, data):
    state, _ = both
    start = data.draw(st.integers(0, count - 1))
    size = data.draw(st.integers(1, count - start))
    whole, part = (
        counter_dropout.keep_run(state, count, definition.threshold(rate), first),
        counter_dropout.keep_run(state, size, definition.threshold(rate), first + start),
    )
    assert torch.equal(part, whole[..., start : start + size])


def test_rates_outside_of_zero_to_below_one_raise():
    state = counter_dropout.begin(torch.tensor([[3]]), torch.tensor(11), 0)
    for use in (
        lambda: counter_dropout.keep_run(state, 4, definition.threshold(1.0)),
        lambda: counter_dropout.keep(state, torch.tensor([0]), definition.threshold(1.0)),
    ):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            use()


def test_nothing_is_drawn_from_or_done_to_what_is_handed_in():
    keys, place = torch.tensor([[3], [-5]]), torch.tensor(11)
    before = torch.get_rng_state()
    state = counter_dropout.begin(keys, place, 0)
    was = [one.clone() for one in state]
    (
        counter_dropout.keep_run(state, 9, definition.threshold(0.3)),
        counter_dropout.uniform(state, torch.arange(4, dtype=torch.int32)),
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert keys.tolist() == [[3], [-5]] and place.item() == 11
    assert all(torch.equal(one, other) for one, other in zip(state, was, strict=True))


# Blocks


@properties
@given(states(), counts, firsts, st.integers(-(2**15), 2**15 - 1), st.integers(1, 64))
def test_blocks_of_any_size_make_what_is_made_at_once(both, count, first, least, block):
    state, _ = both
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counter_dropout, "_BLOCK", block)
        made = counter_dropout._in_blocks(*state, first, count, least)
    assert torch.equal(made, counter_dropout._at_once(*state, first, count, least))


@pytest.mark.parametrize(("rows", "positions", "features"), [(3, 700, 770), (2, 3, 2**19 + 6), (1, 1, 2)])
def test_more_than_a_block_is_what_the_definition_keeps(rows, positions, features):
    sizes = torch.arange(positions, dtype=torch.int32)[:, None]
    keys = definition.sample_keys(3, 0, np.arange(rows))
    state = counter_dropout.begin(torch.from_numpy(keys).view(-1, 1, 1), place_of(definition.place_key("drop")), 0)
    made = counter_dropout.keep_run(counter_dropout.fold(state, sizes), features, definition.threshold(0.1))
    expected = definition.fold(definition.state(keys[:, None, None], "drop"), np.arange(positions)[:, None])
    assert made.shape == (rows, positions, features)
    assert np.array_equal(made.numpy(), definition.keep(expected, np.arange(features), 0.1))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(threads):
    state = counter_dropout.fold(
        counter_dropout.begin(torch.arange(4).view(-1, 1, 1), torch.tensor(11), 0),
        torch.arange(300, dtype=torch.int32)[:, None],
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        made = counter_dropout.keep_run(state, 512, definition.threshold(0.3))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made, counter_dropout._at_once(*state, 0, 512, definition.threshold(0.3)))


def test_a_run_of_what_has_only_a_shape_has_the_shape_of_a_run():
    # as where a compiler traces a model
    with FakeTensorMode():
        state = counter_dropout.begin(torch.zeros(3, 1, 1, dtype=torch.int64), torch.tensor(11), 0)
        made = counter_dropout.keep_run(
            counter_dropout.fold(state, torch.zeros(4, 1, dtype=torch.int32)), 7, definition.threshold(0.3), 1
        )
    assert (made.shape, made.dtype, made.device.type) == ((3, 4, 7), torch.bool, "cpu")


def test_no_rows_and_no_values_are_kept_as_nothing():
    state = counter_dropout.begin(torch.empty(0, 1, dtype=torch.int64), torch.tensor(11), 0)
    assert counter_dropout.keep_run(state, 5, definition.threshold(0.3)).shape == (0, 5)
    assert counter_dropout.keep_run(
        counter_dropout.begin(torch.tensor([[3]]), torch.tensor(11), 0), 0, definition.threshold(0.3)
    ).shape == (1, 0)


# Masks of tensors


def a_place():
    return place_of(definition.place_key("drop"))


def test_documents_that_share_a_row_draw_as_each_does_alone():
    """Hidden states, and attention, which looks at pairs of tokens."""
    lengths, keys = [3, 5, 4], torch.tensor([7, -8, 9])
    of_tokens = torch.repeat_interleave(keys, torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths])[None]
    token, other = counter_dropout.Axis(True, 12), counter_dropout.Axis(False, 2)
    hidden = counter_dropout.keep_mask(
        of_tokens, a_place(), 3, (token, counter_dropout.Axis(False, 6)), positions, 0.4
    )[0]
    attention = counter_dropout.keep_mask(of_tokens, a_place(), 3, (other, token, token), positions, 0.4)[0]
    numbers = counter_dropout.uniform_numbers(
        of_tokens, a_place(), 3, (token, counter_dropout.Axis(False, 6)), positions
    )[0]
    start = 0
    for key, length in zip(keys, lengths, strict=True):
        mine, alone = slice(start, start + length), counter_dropout.Axis(False, length)
        made = counter_dropout.keep_mask(key[None], a_place(), 3, (alone, counter_dropout.Axis(False, 6)), None, 0.4)[0]
        assert torch.equal(hidden[mine], made)
        made = counter_dropout.keep_mask(key[None], a_place(), 3, (other, alone, alone), None, 0.4)[0]
        assert torch.equal(attention[:, mine, mine], made)
        made = counter_dropout.uniform_numbers(key[None], a_place(), 3, (alone, counter_dropout.Axis(False, 6)), None)[
            0
        ]
        assert torch.equal(numbers[mine], made)
        start += length


@properties
@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 9), rates)
def test_shards_of_heads_and_of_features_are_parts_of_the_whole(ranks, heads, features, rate):
    keys = torch.tensor([7, -8])
    whole = (
        counter_dropout.Axis(False, ranks * heads),
        counter_dropout.Axis(False, 3),
        counter_dropout.Axis(False, ranks * features),
    )
    made = counter_dropout.keep_mask(keys, a_place(), 1, whole, None, rate)
    for rank in range(ranks):
        of_heads = (counter_dropout.Axis(False, heads, rank * heads), *whole[1:])
        part = counter_dropout.keep_mask(keys, a_place(), 1, of_heads, None, rate)
        assert torch.equal(part, made[:, rank * heads : (rank + 1) * heads])
        of_features = (*whole[:2], counter_dropout.Axis(False, features, rank * features))
        part = counter_dropout.keep_mask(keys, a_place(), 1, of_features, None, rate)
        assert torch.equal(part, made[..., rank * features : (rank + 1) * features])


def test_a_mask_is_compiled_in_one_graph_and_keeps_its_bits(monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: plain(function, dynamic=dynamic, backend=backend))
    monkeypatch.setattr(
        counter_dropout, "keep_run", lambda state, *how: counter_dropout._at_once(*state, how[2], how[0], how[1])
    )
    made = counter_dropout._compiled(counter_dropout._keep_mask, "cpu")
    assert made is not counter_dropout._keep_mask and len(graphs) == 1
    for keys, call, size in ((torch.tensor([7, -8]), 5, 16), (torch.tensor([1, 2, 3, 4]), 70_000, 9)):
        given_ = (
            keys,
            a_place(),
            call,
            (counter_dropout.Axis(False, 3), counter_dropout.Axis(False, size)),
            None,
            -9000,
        )
        assert torch.equal(made(*given_), counter_dropout._keep_mask(*given_))


def test_a_compiler_that_fails_or_changes_bits_is_done_without(monkeypatch, caplog):
    def broken(function, dynamic):
        def call(*given):
            raise RuntimeError("no C compiler\nwas found")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    assert counter_dropout._compiled(counter_dropout._uniform_numbers, "cpu") is counter_dropout._uniform_numbers
    assert [record.getMessage() for record in caplog.records] == ["masks of dropout are not compiled: no C compiler"]
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda *given: ~function(*given))
    assert counter_dropout._compiled(counter_dropout._keep_mask, "cpu") is counter_dropout._keep_mask


# Rows


def test_rows_move_but_for_the_key_of_the_step():
    rows = SampleRows(torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([[0, 1], [0, 0]], dtype=torch.int32))
    moved = rows.to(torch.device("meta"))
    assert {one.device.type for one in (moved.keys, moved.positions)} == {"meta"} and moved.step is rows.step
    assert (moved.keys.dtype, moved.step.dtype, moved.positions.dtype) == (torch.int64, torch.int64, torch.int32)
    assert (moved.keys.shape, moved.step.shape, moved.positions.shape) == ((2,), (1,), (2, 2))
    assert rows.keys.tolist() == [1, 2]


def test_rows_of_one_sample_each_have_no_positions_wherever_they_are():
    rows = SampleRows(torch.tensor([1, 2]), torch.tensor([3]))
    moved = rows.to(torch.device("cpu"))
    assert moved.positions is None
    assert torch.equal(moved.keys, rows.keys) and torch.equal(moved.step, rows.step)
