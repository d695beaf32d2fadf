"""The random words of `launcher.contract.dropout` in torch: 32 bits for each state and index, the same on every device.

torch shifts int32 arithmetically and cannot shift uint32, so the upper bits are masked after a shift.
"""

from functools import cache

import torch

from launcher.contract import dropout as definition

State = tuple[torch.Tensor, torch.Tensor]


def begin(keys: torch.Tensor, place: torch.Tensor, call: int) -> State:
    """Return the states of keys at a place (both int64), with the coordinate of the call."""
    mixed = keys ^ place
    call_number = torch.full((1,) * keys.ndim, call, dtype=torch.int32, device=keys.device)
    return fold((_low(mixed), _low(mixed >> 32)), call_number)


def fold(state: State, coordinate: torch.Tensor) -> State:
    """Return the states with one more coordinate (int32) mixed in, as launcher.contract.dropout defines it; both are
    broadcast."""
    low, high = state
    high = _mix(high ^ (coordinate * signed(definition.GOLDEN)))
    return _mix(low + high), high


def word(state: State, index: torch.Tensor) -> torch.Tensor:
    """Return 32 random bits for each state and index (int32, broadcast together). See
    launcher.contract.dropout.word."""
    low, high = state
    value = low + index * signed(definition.GOLDEN)
    return _finish(_scramble(value, definition.SHIFTS[0], definition.FIRST) ^ high)


def _mix(value: torch.Tensor) -> torch.Tensor:
    return _finish(_scramble(value, definition.SHIFTS[0], definition.FIRST))


def _finish(value: torch.Tensor) -> torch.Tensor:
    value = _scramble(value, definition.SHIFTS[1], definition.SECOND)
    return value ^ shifted(value, definition.SHIFTS[2])


def _scramble(value: torch.Tensor, shift: int, factor: int) -> torch.Tensor:
    return (value ^ shifted(value, shift)) * signed(factor)


def shifted(value: torch.Tensor, by: int) -> torch.Tensor:
    """Return the values shifted to the right logically."""
    return (value >> by) & (2 ** (32 - by) - 1)


def signed(unsigned: int) -> int:
    """Return the signed number that has the bits of a 32-bit word."""
    return unsigned - 2**32 if unsigned >= 2**31 else unsigned


def _low(wide: torch.Tensor) -> torch.Tensor:
    """Return the low 32 bits of int64 numbers, as int32."""
    return (((wide & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).to(torch.int32)


@cache
def scalar(value: int) -> torch.Tensor:
    """Return a scalar on the host, int32. torch would convert a number of Python anew in each operation."""
    return torch.tensor(value, dtype=torch.int32, device="cpu")
