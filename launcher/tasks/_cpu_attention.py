"""Attention on a CPU, as autograd functions. The masks of its dropout are given.

Single operations of torch convert scores between precisions, multiply them by a mask of another type and keep every
intermediate result for the backward. Here the scores of some heads are computed at a time and stay in the cache. With
dropout, the backward keeps probabilities and the mask. Without, it computes the probabilities again: it keeps no more
than torch's fused attention, which takes no mask of dropout and twice the time in bf16.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from launcher.tasks import _attention_limits
from launcher.tasks._attention_limits import Limits
from launcher.tasks._cpu_dropout import applies, zero_
from launcher.tasks._sequences import Run

_BLOCK = 2**18
"""Number of scores in a block, for each thread."""
LONGEST = 2048
"""Tokens of the longest sequences whose attention without dropout is computed here. The scores of a head are in memory
at once; those of torch's fused attention are not."""
_Tensors = tuple[torch.Tensor, ...]


class _Context(FunctionCtx):  # type: ignore[misc]
    saved_tensors: _Tensors
    scale: float
    factors: tuple[float, float]
    limits: list[Limits | None]
    runs: list[Run]


def computes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Return whether `attention` computes this attention. It has no gradient for a mask."""
    return (
        query.ndim == key.ndim == value.ndim == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.numel() > 0 < key.numel()
        and not (mask is not None and mask.requires_grad)
        and applies(query, key, value)
    )


def faster(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Return whether attention without dropout takes less time here than in torch's fused kernel, for sequences of at
    most LONGEST tokens.

    It does in bf16, on a CPU that multiplies such numbers. In fp32 and fp64 both take about as long.
    """
    return query.dtype == torch.bfloat16 and applies(query, key, value) and _multiplies_bf16()


@cache
def _multiplies_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def in_autocast_precision(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the query, the key and the value in the precision in which autocast multiplies matrices on a CPU."""
    query, key, value = tensors
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return query, key, value
    precision = torch.get_autocast_dtype("cpu")
    query, key, value = (one if one.dtype == torch.float64 else one.to(precision) for one in tensors)
    return query, key, value


def scale_of(query: torch.Tensor, scale: float | None) -> float:
    """Return the factor of the scores: the given one, or torch's default for the width of a head."""
    return 1 / math.sqrt(query.shape[-1]) if scale is None else scale


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    factors: tuple[float, float],
    keep: torch.Tensor | None,
    limits: Limits | None,
) -> torch.Tensor:
    """Return scaled dot-product attention, shape (samples, heads, tokens, width). `factors`: of the scores and of what
    is kept; `keep`: the mask of the dropout, contiguous; None: there is none."""
    return Attention.apply(query, key, value, factors, keep, limits)


def row_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    factors: tuple[float, float],
    keep: Sequence[torch.Tensor] | None,
    window: tuple[int, int],
    runs: list[Run],
) -> torch.Tensor:
    """Return the attention of each sequence of a row, shape (1, tokens, heads, width). `keep`: the mask of each run,
    (sequences, heads, length, length); `window`: see launcher.tasks._sequence_attention."""
    masks = [None] * len(runs) if keep is None else list(keep)
    limits = [_attention_limits.of_window(run.length, run.length, window, query.dtype) for run in runs]
    return RowAttention.apply(query, key, value, factors, masks, limits, runs)


class Attention(torch.autograd.Function):  # type: ignore[misc]
    """Scaled dot-product attention (see `attention`), shapes (samples, heads, tokens, width)."""

    @staticmethod
    def forward(
        ctx: _Context,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        factors: tuple[float, float],
        keep: torch.Tensor | None,
        limits: Limits | None,
    ) -> torch.Tensor:
        query, key, value = (query * factors[0]).contiguous(), key.contiguous(), value.contiguous()
        mixed, shares = _attend(query, key, value, keep, limits)
        ctx.save_for_backward(query, key, value, keep, shares)
        ctx.factors, ctx.limits = factors, [_of_backward(limits, keep)]
        return mixed.mul_(factors[1])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: _Context, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores, values = ctx.factors
        given = (gradient * values).contiguous()
        of_query, of_key, of_value = _gradients(ctx.limits[0], given, *ctx.saved_tensors)
        return of_query.mul_(scores), of_key, of_value, None, None, None


class RowAttention(torch.autograd.Function):  # type: ignore[misc]
    """The attention of each sequence of a row (see `row_attention`), with the mask and the limits of each run."""

    @staticmethod
    def forward(
        ctx: _Context,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        factors: tuple[float, float],
        keep: list[torch.Tensor | None],
        limits: list[Limits | None],
        runs: list[Run],
    ) -> torch.Tensor:
        parts = zip(*(_of_runs(one, runs) for one in (query * factors[0], key, value)), strict=True)
        mixed, saved = list[torch.Tensor](), list[torch.Tensor | None]()
        for (ours, theirs, values), mask, limit in zip(parts, keep, limits, strict=True):
            of_run, shares = _attend(ours, theirs, values, mask, limit)
            mixed.append(of_run)
            saved += ours, theirs, values, mask, shares
        ctx.save_for_backward(*saved)
        ctx.factors, ctx.runs = factors, runs
        ctx.limits = [_of_backward(*of_run) for of_run in zip(limits, keep, strict=True)]
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
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep: torch.Tensor | None, limits: Limits | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the sums of kept values by their probabilities, and with a mask the probabilities. The tensors are
    contiguous."""
    shape = (*query.shape[:3], key.shape[2])
    shares = None if keep is None else query.new_empty(shape)
    mixed = query.new_empty((*query.shape[:3], value.shape[3]))
    for block in _blocks(shape):
        ours, theirs, values, made = (one[block].flatten(0, 1) for one in (query, key, value, mixed))
        scores = torch.bmm(ours, theirs.transpose(1, 2))
        if keep is None or shares is None:
            _softmax(scores, limits, block, scores)
        else:
            share = _softmax(scores, limits, block, shares[block].flatten(0, 1))
            zero_(scores.copy_(share), keep[block].flatten(0, 1))
        torch.bmm(scores, values, out=made)
    return mixed if limits is None or limits.seen is None else zero_(mixed, limits.seen), shares


def _gradients(
    limits: Limits | None,
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keep: torch.Tensor | None,
    shares: torch.Tensor | None,
) -> _Tensors:
    """Return the gradients of the query, the key and the value of `_attend`. `gradient` is overwritten."""
    if limits is not None and limits.seen is not None:
        zero_(gradient, limits.seen)
    found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for block in _blocks((*query.shape[:3], key.shape[2])):
        given, ours, theirs, values, of_query, of_key, of_value = (
            one[block].flatten(0, 1) for one in (gradient, query, key, value, *found)
        )
        of_shares = torch.bmm(given, values.transpose(1, 2))
        if keep is None or shares is None:
            scores = torch.bmm(ours, theirs.transpose(1, 2))
            used = share = _softmax(scores, limits, block, scores)
        else:
            kept, share = keep[block].flatten(0, 1), shares[block].flatten(0, 1)
            used, of_shares = zero_(share.clone(), kept), zero_(of_shares, kept)
        torch.bmm(used.transpose(1, 2), given, out=of_value)
        of_scores = torch._softmax_backward_data(of_shares, share, -1, share.dtype)
        torch.bmm(of_scores, theirs, out=of_query)
        torch.bmm(of_scores.transpose(1, 2), ours, out=of_key)
    return found


def _of_backward(limits: Limits | None, keep: torch.Tensor | None) -> Limits | None:
    """Return the part of the limits that a backward reads: with a mask of dropout it computes no scores."""
    return limits if limits is None or keep is None else limits._replace(bias=torch.empty(0))


def _softmax(
    scores: torch.Tensor, limits: Limits | None, block: tuple[slice, slice], out: torch.Tensor
) -> torch.Tensor:
    """Write the probabilities of a block of scores to `out`, which may be the scores, and return it. The scores are
    overwritten. torch computes the softmax of half precision in fp32."""
    if limits is None:
        return torch.softmax(scores, -1, out=out)
    bias = _part(limits.bias, block)
    wide = scores.to(bias.dtype)
    heads = len(wide) // bias.shape[0] if bias.shape[1] == 1 else bias.shape[1]
    wide.unflatten(0, (-1, heads)).add_(bias)
    if wide is scores:
        return torch.softmax(scores, -1, out=out)
    return out.copy_(torch.softmax(wide, -1))


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
