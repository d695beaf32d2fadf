"""The random draws of `launcher.contract.dropout` in torch: the same bits on every device, without a generator.

On a CPU, words are computed in blocks that fit into the cache. On an accelerator, a mask is one compiled kernel.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, reduce
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

from launcher.config.errors import first_line
from launcher.contract import dropout as definition
from launcher.tasks._sequences import Run
from launcher.train.random_words import State, begin, fold, scalar, shifted, signed, word

_BLOCK = 2**16
"""Number of words in a block, for each thread: 256 KiB, and the same for a temporary tensor."""


class Axis(NamedTuple):
    """An axis within a sample. `by_token`: its coordinates are the positions of the row's tokens. Otherwise they are
    `first`, `first` + 1, ...; `first` is above 0 if another rank has the part before."""

    by_token: bool
    size: int
    first: int = 0


def keep_mask(
    keys: torch.Tensor,
    place: torch.Tensor,
    call: int,
    axes: tuple[Axis, ...],
    positions: torch.Tensor | None,
    rate: float,
) -> torch.Tensor:
    """Return a dropout mask, bool, shape (keys, *sizes of the axes): True for kept values.

    `keys`: as in SampleRows of launcher.train.sample_rows; `place`: the key of the module, an int64 scalar; `call`: as
    in launcher.contract.dropout; `axes`: at least one; `rate`: the dropout rate.
    """
    make = _keep_mask if _as_it_is(keys) else _fused(_keep_mask, keys.device.type)
    return make(keys, place, call, axes, positions, definition.threshold(rate))


def keep_by_run(
    keys: torch.Tensor, place: torch.Tensor, call: int, heads: Axis, runs: Sequence[Run], rate: float
) -> list[torch.Tensor]:
    """Return the dropout masks of the attention in a row of sequences, for each run of shape (sequences, heads, length,
    length). `keys`: of the sequences. The other arguments are those of `keep_mask`."""
    if not _by_numpy(keys):
        return [
            keep_mask(keys[run.samples], place, call, (heads, *[Axis(False, run.length)] * 2), None, rate)
            for run in runs
        ]
    longest, least = Axis(False, max(run.length for run in runs)), definition.threshold(rate)
    low, high = _states(keys, place, call, (heads, longest, longest), None)
    parts = [(run.samples, slice(None), slice(run.length)) for run in runs]
    return [keep_run((low[part], high[part]), part[2].stop, least) for part in parts]


def uniform_numbers(
    keys: torch.Tensor, place: torch.Tensor, call: int, axes: tuple[Axis, ...], positions: torch.Tensor | None
) -> torch.Tensor:
    """Return uniform numbers in (0, 1), fp32. The arguments and the shape are those of `keep_mask`."""
    make = _uniform_numbers if _as_it_is(keys) else _fused(_uniform_numbers, keys.device.type)
    return make(keys, place, call, axes, positions)


def _as_it_is(keys: torch.Tensor) -> bool:
    """Return whether to compute a mask without torch.compile: on a CPU, and inside code that is being compiled."""
    return bool(keys.device.type == "cpu" or torch.compiler.is_compiling())


def _keep_mask(
    keys: torch.Tensor, place: torch.Tensor, call: int, axes: tuple[Axis, ...], positions: torch.Tensor | None,
    least: int,
) -> torch.Tensor:  # fmt: skip
    state = _states(keys, place, call, axes, positions)
    last = axes[-1]
    if last.by_token:
        tokens = _coordinates(axes, len(axes) - 1, positions, keys.device)
        blocks = keys.device.type == "cpu" and state[0].shape[-1] == 1
        return _by_rows_in_blocks(*state, tokens, least) if blocks else keep(state, tokens, least)
    return keep_run(state, last.size, least, last.first)


def _uniform_numbers(
    keys: torch.Tensor, place: torch.Tensor, call: int, axes: tuple[Axis, ...], positions: torch.Tensor | None
) -> torch.Tensor:
    state = _states(keys, place, call, axes, positions)
    return uniform(state, _coordinates(axes, len(axes) - 1, positions, keys.device))


def _states(
    keys: torch.Tensor, place: torch.Tensor, call: int, axes: tuple[Axis, ...], positions: torch.Tensor | None
) -> State:
    """Return the states after all coordinates but the last. They have an axis for each coordinate, of size 1 if it has
    no effect."""
    if keys.ndim == 2:  # one key for each token, on the first axis of tokens
        tokens = next(number for number, axis in enumerate(axes) if axis.by_token)
        keys = keys.view(len(keys), *[1] * tokens, keys.shape[1], *[1] * (len(axes) - 1 - tokens))
    else:
        keys = keys.view(len(keys), *[1] * len(axes))
    coordinates = (_coordinates(axes, number, positions, keys.device) for number in range(len(axes) - 1))
    if _by_numpy(keys):
        return _states_by_numpy(keys, place, call, coordinates)
    return reduce(fold, coordinates, begin(keys, place, call))


def _by_numpy(keys: torch.Tensor) -> bool:
    """Return whether numpy can read the keys: on a CPU, and not while torch compiles or traces code."""
    return bool(type(keys) is torch.Tensor and keys.device.type == "cpu" and not torch.compiler.is_compiling())


def _states_by_numpy(keys: torch.Tensor, place: torch.Tensor, call: int, coordinates: Iterable[torch.Tensor]) -> State:
    """Compute states by the definition itself. An operation of numpy takes less time to begin than one of torch."""
    state = definition.begin(keys.numpy(), int(place) % 2**64, call)
    low, high = reduce(definition.fold, (one.numpy() for one in coordinates), state)
    return torch.from_numpy(low.view(np.int32)), torch.from_numpy(high.view(np.int32))


def _coordinates(
    axes: tuple[Axis, ...], number: int, positions: torch.Tensor | None, device: torch.device
) -> torch.Tensor:
    """Return the coordinates of an axis, int32, in a shape that broadcasts with the states."""
    axis, after = axes[number], [1] * (len(axes) - 1 - number)
    if axis.by_token:
        assert positions is not None
        return positions.view(len(positions), *[1] * number, axis.size, *after)
    return torch.arange(axis.first, axis.first + axis.size, dtype=torch.int32, device=device).view(-1, *after)


def keep(state: State, last: torch.Tensor, least: int) -> torch.Tensor:
    """Return whether the draw of each state and last coordinate (int32), broadcast together, is at least `least`."""
    words = word(state, last >> 1)
    return torch.where((last & 1).bool(), words, words << 16) >> 16 >= least


def keep_run(state: State, count: int, least: int, first: int = 0) -> torch.Tensor:
    """Return the result of `keep` for the last coordinates first, ..., first + count - 1, at half the cost. Each word
    gives two draws. States of shape (..., 1) give (..., count)."""
    make = _in_blocks if state[0].device.type == "cpu" else _at_once
    kept: torch.Tensor = make(*state, first, count, least)
    return kept


def uniform(state: State, last: torch.Tensor) -> torch.Tensor:
    """Return numbers in (0, 1), fp32, for each state and last coordinate (int32), broadcast together."""
    return (shifted(word(state, last), 9).float() + 0.5) * 2.0**-23


@torch.library.custom_op("launcher::keep_in_blocks", mutates_args=())  # type: ignore[untyped-decorator]
def _in_blocks(low: torch.Tensor, high: torch.Tensor, first: int, count: int, least: int) -> torch.Tensor:
    """Return whether draws first, ..., first + count - 1 are kept: states of shape (..., 1) give (..., count). It is a
    custom operation, because torch.compile would take minutes and produce slower code."""
    shape = torch.broadcast_shapes(low.shape, high.shape)[:-1]
    lows, highs = (one.expand(*shape, 1).reshape(-1, 1) for one in (low, high))
    out = torch.empty((len(lows), count), dtype=torch.bool)
    for rows, words in _word_blocks(lows, highs, _indices(first, count, low.device)):
        halves = words.view(torch.int16).ge_(least)[:, first % 2 : first % 2 + count]
        out[rows].view(torch.int8).copy_(halves)  # both are several times as fast as a comparison with a bool result
    return out.view(*shape, count)


@torch.library.custom_op("launcher::keep_by_rows_in_blocks", mutates_args=())  # type: ignore[untyped-decorator]
def _by_rows_in_blocks(low: torch.Tensor, high: torch.Tensor, last: torch.Tensor, least: int) -> torch.Tensor:
    """Return the result of `keep`, with separate last coordinates for each row. States of shape (rows, ..., 1) and last
    coordinates of shape (rows, 1, ..., count) give (rows, ..., count)."""
    shape, count = torch.broadcast_shapes(low.shape, high.shape)[:-1], last.shape[-1]
    lows, highs = (one.expand(*shape, 1).reshape(shape[0], -1, 1) for one in (low, high))
    out = torch.empty((*lows.shape[:2], count), dtype=torch.bool)
    for row in range(shape[0]):
        index = last[row].reshape(count)
        to_the_top = (1 - (index & 1)) * 16  # even coordinates use the low half of a word
        for rows, words in _word_blocks(lows[row], highs[row], index >> 1):
            out[row, rows].view(torch.int8).copy_(words.bitwise_left_shift_(to_the_top).ge_(least << 16))
    return out.view(*shape, count)


def _word_blocks(
    lows: torch.Tensor, highs: torch.Tensor, indices: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the words of states (n, 1) and indices (m,) in blocks of rows, each with its slice of rows. The operations
    are those of `word`, in place."""
    offsets = indices * signed(definition.GOLDEN)
    step = max(1, _BLOCK * torch.get_num_threads() // max(1, len(offsets)))
    for start in range(0, len(lows), step):
        rows = slice(start, start + step)
        words = lows[rows] + offsets
        moved = torch.empty_like(words)
        for shift, factor in zip(definition.SHIFTS, (definition.FIRST, definition.SECOND, None), strict=True):
            torch.bitwise_right_shift(words, scalar(shift), out=moved)
            words ^= moved.bitwise_and_(scalar(2 ** (32 - shift) - 1))
            if factor is not None:
                words *= scalar(signed(factor))
            if factor == definition.FIRST:
                words ^= highs[rows]
        yield rows, words


@_by_rows_in_blocks.register_fake  # type: ignore[untyped-decorator]
def _(low: torch.Tensor, high: torch.Tensor, last: torch.Tensor, least: int) -> torch.Tensor:
    shape = torch.broadcast_shapes(low.shape, high.shape)[:-1]
    return low.new_empty((*shape, last.shape[-1]), dtype=torch.bool)


@_in_blocks.register_fake  # type: ignore[untyped-decorator]
def _(low: torch.Tensor, high: torch.Tensor, first: int, count: int, least: int) -> torch.Tensor:
    return low.new_empty((*torch.broadcast_shapes(low.shape, high.shape)[:-1], count), dtype=torch.bool)


def _at_once(low: torch.Tensor, high: torch.Tensor, first: int, count: int, least: int) -> torch.Tensor:
    """Return the result of `_in_blocks`, without a loop."""
    value = word((low, high), _indices(first, count, low.device))
    both = torch.stack((value << 16 >> 16, value >> 16), -1).flatten(-2)
    return both[..., first % 2 : first % 2 + count] >= least


def _indices(first: int, count: int, device: torch.device) -> torch.Tensor:
    """Return the indices of the words that contain draws first, ..., first + count - 1."""
    return torch.arange(first // 2, (first + count + 1) // 2, dtype=torch.int32, device=device)


@cache
def _fused(function: Callable[..., torch.Tensor], device: str) -> Callable[..., torch.Tensor]:
    """Return the function for an accelerator, compiled if Triton is installed."""
    return function if find_spec("triton") is None else _compiled(function, device)


def _compiled(function: Callable[..., torch.Tensor], device: str) -> Callable[..., torch.Tensor]:
    """Return the function compiled into few kernels, or unchanged if compiling fails or changes a bit."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # axes are of many kinds
    compiled = torch.compile(function, dynamic=True)
    try:
        keys, place = torch.arange(3, device=device), torch.tensor(5, device=device)
        sample = (keys, place, 7, (Axis(False, 2), Axis(False, 4)), None, *([0] if function is _keep_mask else []))
        same = torch.equal(compiled(*sample), function(*sample))
    except Exception as error:  # a compiler that is not set up may raise anything
        reason = first_line(error)
        logging.getLogger(__name__).warning("masks of dropout are not compiled: %s", reason)
        return function
    return compiled if same else function
