"""Limits of attention on a CPU: what the queries attend to, as numbers that are added to the scores."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch


class Limits(NamedTuple):
    """What the queries attend to. Both have 4 axes that broadcast with the scores.

    `bias`: is added to the scores, in its precision; `seen`: whether a query attends to anything, bool, with a last
    axis of size 1; None: all do.
    """

    bias: torch.Tensor
    seen: torch.Tensor | None


def of_call(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, causal: bool) -> Limits | None:
    """Return the limits of scaled dot-product attention with a mask, causal attention, or neither; None: no limit."""
    if causal:
        return of_window(query.shape[2], key.shape[2], (-1, 0), query.dtype)
    return None if mask is None else of_mask(mask, query.dtype)


def of_mask(mask: torch.Tensor, precision: torch.dtype) -> Limits:
    """Return the limits that an attention mask sets to scores of a precision. `mask`: bool, or numbers that are added;
    it broadcasts with the scores."""
    mask = _narrow(mask.view(*[1] * (4 - mask.ndim), *mask.shape) if mask.ndim < 4 else mask)
    if mask.dtype == torch.bool:
        there = mask.view(torch.int8)
        return Limits(_excluded(there == 0, precision), there.amax(-1, keepdim=True).bool())
    wide = torch.float64 if precision == torch.float64 else torch.float32
    seen = mask.amax(-1, keepdim=True) > torch.finfo(precision).min
    return Limits(mask.to(wide).clamp(min=torch.finfo(wide).min), seen)


def of_window(queries: int, keys: int, window: tuple[int, int], precision: torch.dtype) -> Limits | None:
    """Return the limits of attention to positions from the query's own: so many to the left and to the right, or all
    (-1). None: there is no limit."""
    left, right = (-1 if reach >= most else reach for reach, most in zip(window, (queries - 1, keys - 1), strict=True))
    if left < 0 and right < 0:
        return None
    return Limits(_window_bias(_power(max(queries, keys)), left, right, precision)[..., :queries, :keys], None)


@lru_cache(maxsize=8)
def _window_bias(length: int, left: int, right: int, precision: torch.dtype) -> torch.Tensor:
    """Return the bias of a window, which is the same for all sequences: shorter ones have its beginning."""
    places = torch.arange(length)
    distance = places - places[:, None]
    outside = (distance < -left) if left >= 0 else torch.zeros_like(distance, dtype=torch.bool)
    return _excluded((outside | (distance > right) if right >= 0 else outside)[None, None], precision)


def _excluded(outside: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """Return the lowest number where a mask is set, else 0: in bf16 too, whose range is that of fp32."""
    exact = torch.float32 if precision == torch.float16 else precision
    return outside.to(exact).mul_(torch.finfo(exact).min)


def _power(size: int) -> int:
    """Return the next power of two."""
    return 1 << math.ceil(math.log2(size))


def _narrow(mask: torch.Tensor) -> torch.Tensor:
    """Return a mask with a size of 1 for each axis along which it was expanded."""
    for axis in range(mask.ndim):
        mask = mask.narrow(axis, 0, 1) if mask.stride(axis) == 0 and mask.shape[axis] > 1 else mask
    return mask
