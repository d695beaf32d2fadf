"""Attention with a given dropout mask: in blocks on a CPU, elsewhere in single operations of torch."""

import math

import torch

from launcher.contract.dropout import kept
from launcher.tasks import _sequence_attention
from launcher.train import cpu_attention


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    keep_mask: torch.Tensor,
) -> torch.Tensor:
    """Return scaled dot-product attention. The arguments are those of torch's function; a position whose mask excludes
    all positions gets zeros."""
    scale = _scale(query, scale)
    cast = _autocast(query, key, value)
    if _in_blocks(*cast, attn_mask):
        limits = _limits(attn_mask, is_causal, query.shape[2], key.shape[2], cast[0].dtype)
        factors = scale, 1 / kept(dropout_p)
        return cpu_attention.Attention.apply(*cast, factors, keep_mask.contiguous(), limits)
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    least = torch.finfo(scores.dtype).min
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    blind = None
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        blind = ~attn_mask.any(-1, keepdim=True)
        scores = scores.masked_fill(~attn_mask, least)
    elif attn_mask is not None:
        attn_mask = attn_mask.to(scores.dtype).clamp(min=least)
        blind = (attn_mask == least).all(-1, keepdim=True)
        scores = scores + attn_mask
    shares = torch.softmax(scores, -1)
    mixed = torch.matmul((shares * keep_mask).to(value.dtype), value) * (1 / kept(dropout_p))
    return mixed if blind is None else mixed.masked_fill(blind, 0.0)


def in_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: _sequence_attention.Row,
    dropout: float,
    window: _sequence_attention.Window,
    scale: float | None,
    masks: list[torch.Tensor],
) -> torch.Tensor:
    """Return the attention of each sequence of a row (see launcher.tasks._sequence_attention.by_length). `masks`: of
    the dropout of each run."""
    cast = _autocast(query, key, value)
    if cpu_attention.applies(*cast):
        runs, factors = row.sequences.runs, (_scale(query, scale), 1 / kept(dropout))
        limits = [_row_limits(run.length, window, cast[0]) for run in runs]
        return cpu_attention.RowAttention.apply(*cast, factors, masks, limits, runs)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, number: int) -> torch.Tensor:
        mask, causal = _sequence_attention.limits(query.shape[2], window, query.device)
        return attention(query, key, value, mask, dropout, causal, scale, masks[number])

    return _sequence_attention.over_runs(query, key, value, row.sequences, attend)


def _in_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None) -> bool:
    """Return whether `cpu_attention` computes this attention. It has no gradient for a mask."""
    return (
        query.ndim == key.ndim == value.ndim == 4
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.numel() > 0 < key.numel()
        and not (attn_mask is not None and attn_mask.requires_grad)
        and cpu_attention.applies(query, key, value)
    )


def _limits(
    attn_mask: torch.Tensor | None, is_causal: bool, queries: int, keys: int, precision: torch.dtype
) -> cpu_attention.Limits | None:
    if is_causal:
        return cpu_attention.causal_limits(queries, keys, precision)
    return None if attn_mask is None else cpu_attention.limits(attn_mask, precision)


def _row_limits(length: int, window: _sequence_attention.Window, query: torch.Tensor) -> cpu_attention.Limits | None:
    return _limits(*_sequence_attention.limits(length, window, query.device), length, length, query.dtype)


def _autocast(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the query, the key and the value in the precision in which autocast multiplies matrices on a CPU."""
    query, key, value = tensors
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return query, key, value
    precision = torch.get_autocast_dtype("cpu")
    query, key, value = (one if one.dtype == torch.float64 else one.to(precision) for one in tensors)
    return query, key, value


def _scale(query: torch.Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(query.shape[-1]) if scale is None else scale
