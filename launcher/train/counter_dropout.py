"""The random draws of `launcher.contract.dropout` in torch: the same bits on every device, without a generator.

torch shifts int32 arithmetically and cannot shift uint32, so the upper bits are masked after a shift. On a CPU, words
are computed in blocks that fit into the cache. On an accelerator, the operations of a mask are compiled into one kernel
where torch supports it.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch

from launcher.config.errors import first_line
from launcher.contract import dropout as definition

State = tuple[torch.Tensor, torch.Tensor]

_BLOCK = 2**16
"""Words of a block for each thread: 256 KiB, and the same for a temporary."""


@dataclass(frozen=True)
class SampleRows:
    """The samples of the rows of a micro-batch. `keys`: the key of each row's sample, int64, shape (rows,). Where
    samples share rows: the key of each token's sample, shape (rows, tokens), with the `positions` of the tokens in
    their samples, int32. `step`: the key of the step, shape (1,), on the CPU: few models use it, and some on the
    CPU."""

    keys: torch.Tensor
    step: torch.Tensor
    positions: torch.Tensor | None = None

    def to(self, device: torch.device) -> "SampleRows":
        positions = None if self.positions is None else self.positions.to(device, non_blocking=True)
        return SampleRows(self.keys.to(device, non_blocking=True), self.step, positions)


class Axis(NamedTuple):
    """An axis within a sample. `by_token`: its coordinates are the positions of the row's tokens. Otherwise they count
    from `first`, which is above 0 where another rank has the part before."""

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
    """The mask of kept values, bool, shape (keys, *sizes of the axes). `keys`: as in SampleRows; `place`: the key of
    the module, an int64 scalar; `call`: as in launcher.contract.dropout; `axes`: at least one; `rate`: of dropout."""
    make = _keep_mask if _as_it_is(keys) else _fused(_keep_mask, keys.device.type)
    return make(keys, place, call, axes, positions, definition.threshold(rate))


def uniform_numbers(
    keys: torch.Tensor, place: torch.Tensor, call: int, axes: tuple[Axis, ...], positions: torch.Tensor | None
) -> torch.Tensor:
    """Uniform numbers in (0, 1), fp32, with the arguments and the shape of `keep_mask`."""
    make = _uniform_numbers if _as_it_is(keys) else _fused(_uniform_numbers, keys.device.type)
    return make(keys, place, call, axes, positions)


def _as_it_is(keys: torch.Tensor) -> bool:
    """Whether a mask is computed without torch.compile: on a CPU, and in code that is compiled already."""
    return bool(keys.device.type == "cpu" or torch.compiler.is_compiling())


def _keep_mask(
    keys: torch.Tensor,
    place: torch.Tensor,
    call: int,
    axes: tuple[Axis, ...],
    positions: torch.Tensor | None,
    least: int,
) -> torch.Tensor:
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
    """The states of all coordinates but the last one, with an axis for each coordinate (of size 1 where it has no
    effect)."""
    if keys.ndim == 2:  # keys of tokens: they belong to the first axis of tokens
        tokens = next(number for number, axis in enumerate(axes) if axis.by_token)
        keys = keys.view(len(keys), *[1] * tokens, keys.shape[1], *[1] * (len(axes) - 1 - tokens))
    else:
        keys = keys.view(len(keys), *[1] * len(axes))
    state = begin(keys, place, call)
    for number in range(len(axes) - 1):
        state = fold(state, _coordinates(axes, number, positions, keys.device))
    return state


def _coordinates(
    axes: tuple[Axis, ...], number: int, positions: torch.Tensor | None, device: torch.device
) -> torch.Tensor:
    """The coordinates of an axis, int32, in a shape that broadcasts with the states."""
    axis, after = axes[number], [1] * (len(axes) - 1 - number)
    if axis.by_token:
        assert positions is not None
        return positions.view(len(positions), *[1] * number, axis.size, *after)
    return torch.arange(axis.first, axis.first + axis.size, dtype=torch.int32, device=device).view(-1, *after)


def begin(keys: torch.Tensor, place: torch.Tensor, call: int) -> State:
    """The states of keys at a place (both int64), with the coordinate of the call."""
    mixed = keys ^ place
    call_number = torch.full((1,) * keys.ndim, call, dtype=torch.int32, device=keys.device)
    return fold((_low(mixed), _low(mixed >> 32)), call_number)


def fold(state: State, coordinate: torch.Tensor) -> State:
    """Mix one more coordinate (int32) into the states; both are broadcast. Defined in launcher.contract.dropout."""
    low, high = state
    high = _mix(high ^ (coordinate * _signed(definition.GOLDEN)))
    return _mix(low + high), high


def keep(state: State, last: torch.Tensor, least: int) -> torch.Tensor:
    """Whether the draw of each state and last coordinate (int32), broadcast together, is at least the threshold."""
    words = word(state, last >> 1)
    return torch.where((last & 1).bool(), words, words << 16) >> 16 >= least


def keep_run(state: State, count: int, least: int, first: int = 0) -> torch.Tensor:
    """As `keep` for the last coordinates first, ..., first + count - 1, at half the cost: each word gives two draws.
    States of shape (..., 1) give (..., count)."""
    make = _in_blocks if state[0].device.type == "cpu" else _at_once
    kept: torch.Tensor = make(*state, first, count, least)
    return kept


def uniform(state: State, last: torch.Tensor) -> torch.Tensor:
    """Numbers in (0, 1), fp32, for each state and last coordinate (int32), broadcast together."""
    return (_shifted(word(state, last), 9).float() + 0.5) * 2.0**-23


def word(state: State, index: torch.Tensor) -> torch.Tensor:
    """Hash each state and index (int32, broadcast together) to 32 random bits, as launcher.contract.dropout.word
    does."""
    low, high = state
    value = low + index * _signed(definition.GOLDEN)
    return _finish(_scramble(value, definition.SHIFTS[0], definition.FIRST) ^ high)


def _mix(value: torch.Tensor) -> torch.Tensor:
    return _finish(_scramble(value, definition.SHIFTS[0], definition.FIRST))


def _finish(value: torch.Tensor) -> torch.Tensor:
    value = _scramble(value, definition.SHIFTS[1], definition.SECOND)
    return value ^ _shifted(value, definition.SHIFTS[2])


def _scramble(value: torch.Tensor, shift: int, factor: int) -> torch.Tensor:
    return (value ^ _shifted(value, shift)) * _signed(factor)


def _shifted(value: torch.Tensor, by: int) -> torch.Tensor:
    """A logical shift to the right."""
    return (value >> by) & (2 ** (32 - by) - 1)


def _signed(unsigned: int) -> int:
    """A 32-bit word as the signed number of the same bits."""
    return unsigned - 2**32 if unsigned >= 2**31 else unsigned


def _low(wide: torch.Tensor) -> torch.Tensor:
    """The low words of int64, int32."""
    return (((wide & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).to(torch.int32)


@torch.library.custom_op("launcher::keep_in_blocks", mutates_args=())  # type: ignore[untyped-decorator]
def _in_blocks(low: torch.Tensor, high: torch.Tensor, first: int, count: int, least: int) -> torch.Tensor:
    """Whether draws first, ..., first + count - 1 are kept: states of shape (..., 1) give (..., count). An operation of
    its own, since it takes a compiler minutes to do worse."""
    shape = torch.broadcast_shapes(low.shape, high.shape)[:-1]
    lows, highs = (one.expand(*shape, 1).reshape(-1, 1) for one in (low, high))
    out = torch.empty((len(lows), count), dtype=torch.bool)
    for rows, words in _word_blocks(lows, highs, _indices(first, count, low.device)):
        halves = words.view(torch.int16)[:, first % 2 : first % 2 + count]
        torch.ge(halves, least, out=out[rows])
    return out.view(*shape, count)


@torch.library.custom_op("launcher::keep_by_rows_in_blocks", mutates_args=())  # type: ignore[untyped-decorator]
def _by_rows_in_blocks(low: torch.Tensor, high: torch.Tensor, last: torch.Tensor, least: int) -> torch.Tensor:
    """As `keep`: states of shape (rows, ..., 1) and last coordinates (rows, 1, ..., count) give (rows, ..., count)."""
    shape, count = torch.broadcast_shapes(low.shape, high.shape)[:-1], last.shape[-1]
    lows, highs = (one.expand(*shape, 1).reshape(shape[0], -1, 1) for one in (low, high))
    out = torch.empty((*lows.shape[:2], count), dtype=torch.bool)
    for row in range(shape[0]):
        index = last[row].reshape(count)
        to_the_top = (1 - (index & 1)) * 16  # the low half of a word is that of even coordinates
        for rows, words in _word_blocks(lows[row], highs[row], index >> 1):
            torch.ge(words.bitwise_left_shift_(to_the_top), least << 16, out=out[row, rows])
    return out.view(*shape, count)


def _word_blocks(
    lows: torch.Tensor, highs: torch.Tensor, indices: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The words of states (n, 1) for indices (m,), some rows at a time: the operations of `word`, in place."""
    offsets = indices * _signed(definition.GOLDEN)
    step = max(1, _BLOCK * torch.get_num_threads() // max(1, len(offsets)))
    for start in range(0, len(lows), step):
        rows = slice(start, start + step)
        words = lows[rows] + offsets
        shifted = torch.empty_like(words)
        for shift, factor in zip(definition.SHIFTS, (definition.FIRST, definition.SECOND, None), strict=True):
            torch.bitwise_right_shift(words, shift, out=shifted)
            words ^= shifted.bitwise_and_(2 ** (32 - shift) - 1)
            if factor is not None:
                words *= _signed(factor)
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
    """As `_in_blocks`, without a loop."""
    value = word((low, high), _indices(first, count, low.device))
    both = torch.stack((value << 16 >> 16, value >> 16), -1).flatten(-2)
    return both[..., first % 2 : first % 2 + count] >= least


def _indices(first: int, count: int, device: torch.device) -> torch.Tensor:
    """The indices of the words that hold draws first, ..., first + count - 1."""
    return torch.arange(first // 2, (first + count + 1) // 2, dtype=torch.int32, device=device)


@cache
def _fused(function: Callable[..., torch.Tensor], device: str) -> Callable[..., torch.Tensor]:
    """The function for an accelerator: compiled where Triton is installed."""
    return function if find_spec("triton") is None else _compiled(function, device)


def _compiled(function: Callable[..., torch.Tensor], device: str) -> Callable[..., torch.Tensor]:
    """The function in few kernels, or as it is where compiling it fails or changes a bit."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # axes are of many kinds
    compiled = torch.compile(function, dynamic=True)
    try:
        keys, place = torch.arange(3, device=device), torch.tensor(5, device=device)
        sample = (keys, place, 7, (Axis(False, 2), Axis(False, 4)), None, *([0] if function is _keep_mask else []))
        same = torch.equal(compiled(*sample), function(*sample))
    except Exception as error:  # whatever a compiler raises that is not set up
        reason = first_line(error)
        logging.getLogger(__name__).warning("masks of dropout are not compiled: %s", reason)
        return function
    return compiled if same else function
