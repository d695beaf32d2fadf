"""The attention "sdpa" of transformers, on a CPU in blocks where torch's fused kernel takes longer."""

import torch

from launcher.tasks import _attention_limits, _cpu_attention

_NAME = "sdpa"


def register() -> None:
    """Make the models of transformers in this process use it. Their configurations do not change."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, forward)


def forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Return the attention, shape (samples, tokens, heads, width). The arguments are those of transformers' attention
    functions."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = attention_mask is None and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    cast = _cpu_attention.in_autocast_precision(query, key, value)
    special = dropout or any(more.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    if special or not _in_blocks(*cast, attention_mask, causal):
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
        return result
    factors = _cpu_attention.scale_of(query, scaling), 1.0
    limits = _attention_limits.of_call(*cast[:2], attention_mask, causal)
    return _cpu_attention.attention(*cast, factors, None, limits).transpose(1, 2).contiguous(), None


def _in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, causal: bool
) -> bool:
    return (
        _cpu_attention.faster(query, key, value)
        and _cpu_attention.computes(query, key, value, mask)
        and max(query.shape[2], key.shape[2]) <= _cpu_attention.LONGEST
        and (not causal or query.shape[2] == key.shape[2])
    )
