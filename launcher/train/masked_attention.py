"""Attention with a given dropout mask: in blocks on a CPU, elsewhere in single operations of torch."""

import torch

from launcher.contract.dropout import kept
from launcher.tasks import _attention_limits, _cpu_attention, _cpu_dropout, _sequence_attention


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
    scale = _cpu_attention.scale_of(query, scale)
    cast = _cpu_attention.in_autocast_precision(query, key, value)
    if _cpu_attention.computes(*cast, attn_mask):
        limits = _attention_limits.of_call(*cast[:2], attn_mask, is_causal)
        return _cpu_attention.attention(*cast, (scale, 1 / kept(dropout_p)), keep_mask.contiguous(), limits)
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
    cast = _cpu_attention.in_autocast_precision(query, key, value)
    if _cpu_dropout.applies(*cast):
        factors = _cpu_attention.scale_of(query, scale), 1 / kept(dropout)
        return _cpu_attention.row_attention(*cast, factors, masks, window, row.sequences.runs)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, number: int) -> torch.Tensor:
        mask, causal = _sequence_attention.limits(query.shape[2], window, query.device)
        return attention(query, key, value, mask, dropout, causal, scale, masks[number])

    return _sequence_attention.over_runs(query, key, value, row.sequences, attend)
