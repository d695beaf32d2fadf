"""Dropout and attention with dropout on a CPU, as autograd functions of a given mask.

Single operations of torch convert scores between precisions, multiply them by a mask of another type and keep every
intermediate result for the backward. Here the scores of some heads are computed at a time and stay in the cache, and
the backward keeps probabilities and the mask only. torch's fused attention takes no mask of dropout.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

from launcher.tasks._sequences import Run

_BLOCK = 2**18
"""Number of scores in a block, for each thread."""
_WORDS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
"""Integers of the size of each precision."""
_Tensors = tuple[torch.Tensor, ...]


class Limits(NamedTuple):
    """What the queries attend to. Both have 4 axes that broadcast with the scores.

    `bias`: is added to the scores, in the precision of the softmax; `seen`: whether a query attends to anything, bool,
    with a last axis of size 1.
    """

    bias: torch.Tensor
    seen: torch.Tensor


class _Context(FunctionCtx):  # type: ignore[misc]
    saved_tensors: _Tensors
    scale: float
    factors: tuple[float, float]
    limits: list[Limits | None]
    runs: list[Run]


def applies(*tensors: torch.Tensor) -> bool:
    """Return whether the functions of this module compute the tensors: values of one precision in a CPU's memory, and
    not while torch compiles code or traces tensors without values."""
    return not torch.compiler.is_compiling() and all(
        type(one) in (torch.Tensor, nn.Parameter)
        and one.device.type == "cpu"
        and one.dtype in _WORDS
        and one.dtype == tensors[0].dtype
        for one in tensors
    )


def zero_(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Set the values outside of a bool mask, which is broadcast, to zero in place. The bits are multiplied as integers,
    which takes a tenth of the time of an operation of floats and booleans."""
    values.view(_WORDS[values.dtype]).mul_(keep.view(torch.int8))
    return values


class Dropout(torch.autograd.Function):  # type: ignore[misc]
    """Values times `scale` where a mask, which is broadcast, keeps them; else 0."""

    @staticmethod
    def forward(ctx: _Context, values: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return zero_(values * scale, keep)

    @staticmethod
    def backward(ctx: _Context, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return Dropout.apply(gradient, *ctx.saved_tensors, ctx.scale), None, None


class Attention(torch.autograd.Function):  # type: ignore[misc]
    """Scaled dot-product attention, shapes (samples, heads, tokens, width), with the mask of its dropout.

    `factors`: of the scores and of what is kept.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        factors: tuple[float, float],
        keep: torch.Tensor,
        limits: Limits | None,
    ) -> torch.Tensor:
        query, key, value = (query * factors[0]).contiguous(), key.contiguous(), value.contiguous()
        mixed, shares = _attend(query, key, value, keep, limits)
        ctx.save_for_backward(query, key, value, keep, shares)
        ctx.factors, ctx.limits = factors, [limits]
        return mixed.mul_(factors[1])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: _Context, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores, values = ctx.factors
        given = (gradient * values).contiguous()
        of_query, of_key, of_value = _gradients(ctx.limits[0], given, *ctx.saved_tensors)
        return of_query.mul_(scores), of_key, of_value, None, None, None


class RowAttention(torch.autograd.Function):  # type: ignore[misc]
    """The attention of each sequence of a row, shapes (1, heads, tokens, width). Returns (1, tokens, heads, width).

    `keep`: the mask of each run, (sequences, heads, length, length); `limits`: of each run.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        factors: tuple[float, float],
        keep: list[torch.Tensor],
        limits: list[Limits | None],
        runs: list[Run],
    ) -> torch.Tensor:
        parts = zip(*(_of_runs(one, runs) for one in (query * factors[0], key, value)), strict=True)
        mixed, saved = list[torch.Tensor](), list[torch.Tensor]()
        for (ours, theirs, values), mask, limit in zip(parts, keep, limits, strict=True):
            of_run, shares = _attend(ours, theirs, values, mask, limit)
            mixed.append(of_run)
            saved += ours, theirs, values, mask, shares
        ctx.save_for_backward(*saved)
        ctx.factors, ctx.limits, ctx.runs = factors, limits, runs
        return _as_row(mixed).mul_(factors[1])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: _Context, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores, values = ctx.factors
        saved, found = ctx.saved_tensors, list[_Tensors]()
        for number, given in enumerate(_of_runs((gradient * values).transpose(1, 2), ctx.runs)):
            found.append(_gradients(ctx.limits[number], given, *saved[5 * number : 5 * number + 5]))
        of_query, of_key, of_value = (_as_row(each).transpose(1, 2) for each in zip(*found, strict=True))
        return of_query.mul_(scores), of_key, of_value, None, None, None, None


def _of_runs(row: torch.Tensor, runs: list[Run]) -> Iterator[torch.Tensor]:
    """Yield the part of each run of a row, contiguous, shape (sequences, heads, length, width)."""
    tokens = row[0].transpose(0, 1).split([run.sequences * run.length for run in runs])
    for part, run in zip(tokens, runs, strict=True):
        yield part.unflatten(0, (run.sequences, run.length)).transpose(1, 2).contiguous()


def _as_row(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the parts of runs side by side, shape (1, tokens, heads, width)."""
    return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])[None]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep: torch.Tensor, limits: Limits | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of kept values by their probabilities, and the probabilities. The tensors are contiguous."""
    shares = query.new_empty((*query.shape[:3], key.shape[2]))
    mixed = query.new_empty((*query.shape[:3], value.shape[3]))
    for block in _blocks(shares.shape):
        ours, theirs, values, kept, share, made = (
            one[block].flatten(0, 1) for one in (query, key, value, keep, shares, mixed)
        )
        scores = torch.bmm(ours, theirs.transpose(1, 2))
        wide = scores.to(_softmax_precision(scores.dtype))
        if limits is not None:
            wide.view(shares[block].shape).add_(_part(limits.bias, block))
        share.copy_(torch.softmax(wide, -1))
        torch.bmm(zero_(scores.copy_(share), kept), values, out=made)
    return mixed if limits is None else zero_(mixed, limits.seen), shares


def _gradients(
    limits: Limits | None,
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keep: torch.Tensor,
    shares: torch.Tensor,
) -> _Tensors:
    """Return the gradients of the query, the key and the value of `_attend`. `gradient` is overwritten."""
    if limits is not None:
        zero_(gradient, limits.seen)
    found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for block in _blocks(shares.shape):
        given, ours, theirs, values, kept, share, of_query, of_key, of_value = (
            one[block].flatten(0, 1) for one in (gradient, query, key, value, keep, shares, *found)
        )
        torch.bmm(zero_(share.clone(), kept).transpose(1, 2), given, out=of_value)
        of_shares = zero_(torch.bmm(given, values.transpose(1, 2)), kept)
        of_scores = torch._softmax_backward_data(of_shares, share, -1, share.dtype)
        torch.bmm(of_scores, theirs, out=of_query)
        torch.bmm(of_scores.transpose(1, 2), ours, out=of_key)
    return found


def _blocks(shape: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of whole samples, or of heads of one sample if a sample has more scores than a block."""
    samples, heads, queries, keys = shape
    most = max(1, _BLOCK * torch.get_num_threads() // max(1, queries * keys))
    for sample in range(0, samples, max(1, most // heads)):
        for head in range(0, heads, min(heads, most)):
            yield slice(sample, sample + max(1, most // heads)), slice(head, head + min(heads, most))


def _part(bias: torch.Tensor, block: tuple[slice, slice]) -> torch.Tensor:
    """Return the part of a bias for a block. An axis of size 1 is broadcast."""
    samples, heads = (part if size > 1 else slice(None) for part, size in zip(block, bias.shape, strict=False))
    return bias[samples, heads]


def limits(mask: torch.Tensor, precision: torch.dtype) -> Limits:
    """Return the limits that an attention mask sets to scores of a precision. `mask`: bool, or numbers that are added;
    it broadcasts with the scores."""
    mask = _narrow(mask.view(*[1] * (4 - mask.ndim), *mask.shape) if mask.ndim < 4 else mask)
    wide = _softmax_precision(precision)
    if mask.dtype == torch.bool:
        there = mask.view(torch.int8)
        bias = (there - 1).to(wide).mul_(torch.finfo(wide).max)
        return Limits(bias, there.amax(-1, keepdim=True).bool())
    seen = mask.amax(-1, keepdim=True) > torch.finfo(precision).min
    return Limits(mask.to(wide).clamp(min=torch.finfo(wide).min), seen)


def causal_limits(queries: int, keys: int, precision: torch.dtype) -> Limits:
    """Return the limits of attention to positions up to the query's own."""
    wide = _softmax_precision(precision)
    bias = torch.full((1, 1, queries, keys), torch.finfo(wide).min, dtype=wide).triu_(1)
    return Limits(bias, torch.ones((1, 1, 1, 1), dtype=torch.bool))


def _narrow(mask: torch.Tensor) -> torch.Tensor:
    """Return a mask with a size of 1 for each axis along which it was expanded."""
    for axis in range(mask.ndim):
        mask = mask.narrow(axis, 0, 1) if mask.stride(axis) == 0 and mask.shape[axis] > 1 else mask
    return mask


def _softmax_precision(precision: torch.dtype) -> torch.dtype:
    return torch.float64 if precision == torch.float64 else torch.float32
