"""Attention within each sequence of a row without padding, as an attention function of transformers.

A model calls it under the name NAME (transformers' AttentionInterface). On CUDA in half precision it is a kernel for
sequences of any length, of torch or of flash-attn. Elsewhere, and wherever attention has dropout, sequences of
equal length are computed together: by torch's scaled dot-product attention, on a CPU in bf16 in blocks.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import handle_torch_function, has_torch_function

from launcher.tasks import _cpu_attention
from launcher.tasks._sequences import Sequences

NAME = "launcher_sequences"
Window = tuple[int, int]
"""Positions to the left and to the right that a token attends to; -1: all."""
Kernel = Callable[..., torch.Tensor]
_HALF = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 256
"""Width of the largest head of the kernels."""


@dataclass(frozen=True)
class Row:
    """The sequences of a row. `offsets`: as in launcher.tasks._sequences.inputs, on the row's device."""

    sequences: Sequences
    offsets: torch.Tensor


def forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    sequences: Row | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Return the attention of each sequence, shape (1, tokens, heads, width).

    The arguments are those of transformers' attention functions, with shapes (1, heads, tokens, width). Raises
    ValueError for a kind of attention that is not supported.
    """
    if sequences is None:
        raise ValueError(f"{type(module).__name__} does not receive the lengths of the sequences")
    unsupported = [name for name in ("softcap", "position_bias", "s_aux") if more.get(name) is not None]
    if unsupported or attention_mask is not None:
        raise ValueError(f"attention with {' and '.join(unsupported) or 'a mask'} is not supported")
    if not query.shape[2] == key.shape[2] == sequences.sequences.tokens:
        raise ValueError("attention to other tokens than those of the row is not supported")
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    reach = -1 if sliding_window is None else sliding_window - 1
    groups = query.shape[1] // key.shape[1]
    key, value = (one if groups == 1 else one.repeat_interleave(groups, 1) for one in (key, value))
    window = (reach, 0 if causal else reach)
    kernel = None if dropout else fused(query.device.type, query.dtype, max(query.shape[-1], value.shape[-1]))
    compute = by_length if kernel is None else kernel
    return compute(query, key, value, sequences, dropout, window, scaling), None


def by_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: Row,
    dropout: float,
    window: Window,
    scale: float | None,
) -> torch.Tensor:
    """Compute sequences of equal length together. The result has shape (1, tokens, heads, width).

    A mode of torch functions may replace the call: `launcher.train.random_interception` draws the dropout by sample.
    """
    if dropout and has_torch_function((query,)):
        replaced: torch.Tensor = handle_torch_function(
            by_length, (query,), query, key, value, row, dropout, window, scale
        )
        return replaced
    cast = _cpu_attention.in_autocast_precision(query, key, value)
    if not dropout and row.sequences.longest <= _cpu_attention.LONGEST and _cpu_attention.faster(*cast):
        factors = _cpu_attention.scale_of(query, scale), 1.0
        return _cpu_attention.row_attention(*cast, factors, None, window, row.sequences.runs)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, number: int) -> torch.Tensor:
        mask, causal = limits(query.shape[2], window, query.device)
        mixed: torch.Tensor = scaled_dot_product_attention(query, key, value, mask, dropout, causal, scale=scale)
        return mixed

    return over_runs(query, key, value, row.sequences, attend)


def over_runs(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sequences: Sequences, attend: Kernel
) -> torch.Tensor:
    """Apply `attend` to the query, key and value of each run, shape (sequences, heads, length, width), and its number.
    Returns shape (1, tokens, heads, width)."""
    sizes = [run.sequences * run.length for run in sequences.runs]
    parts = zip(*(one[0].transpose(0, 1).split(sizes) for one in (query, key, value)), strict=True)
    mixed = []
    for number, (run, part) in enumerate(zip(sequences.runs, parts, strict=True)):
        of_run = (one.unflatten(0, (run.sequences, run.length)).transpose(1, 2) for one in part)
        mixed.append(attend(*of_run, number).transpose(1, 2).flatten(0, 1))
    return torch.cat(mixed).unsqueeze(0)


def limits(length: int, window: Window, device: torch.device) -> tuple[torch.Tensor | None, bool]:
    """Return the mask of a sequence, bool, shape (length, length), and whether attention is causal without a mask."""
    left, right = window
    if left < 0 or left >= length - 1:
        return None, right == 0
    places = torch.arange(length, device=device)
    distance = places - places[:, None]
    return (distance >= -left) & (distance <= right), False


@cache
def fused(device: str, dtype: torch.dtype, width: int) -> Kernel | None:
    """Return the kernel for sequences of any length; None: there is none for this device and precision."""
    if device != "cuda" or dtype not in _HALF or width > _LARGEST_HEAD or width % 8:
        return None
    if find_spec("torch.nn.attention.varlen") is not None:
        from torch.nn.attention.varlen import varlen_attn

        if {"window_size", "scale"} <= inspect.signature(varlen_attn).parameters.keys():  # torch 2.11
            return _torch_kernel
    return _flash_kernel if find_spec("flash_attn") is not None else None


def _torch_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Row, dropout: float, window: Window,
    scale: float | None,
) -> torch.Tensor:  # fmt: skip
    from torch.nn.attention.varlen import varlen_attn

    longest, tokens = row.sequences.longest, (one[0].transpose(0, 1) for one in (query, key, value))
    mixed: Any = varlen_attn(*tokens, row.offsets, row.offsets, longest, longest, scale=scale, window_size=window)
    return mixed.unsqueeze(0)


def _flash_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Row, dropout: float, window: Window,
    scale: float | None,
) -> torch.Tensor:  # fmt: skip
    from flash_attn import flash_attn_varlen_func

    longest, tokens = row.sequences.longest, (one[0].transpose(0, 1) for one in (query, key, value))
    mixed: Any = flash_attn_varlen_func(
        *tokens, row.offsets, row.offsets, longest, longest, softmax_scale=scale, causal=window[1] == 0,
        window_size=window, deterministic=torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip
    return mixed.unsqueeze(0)


def register() -> None:
    """Make transformers know the attention function."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*arguments: object, **options: object) -> None:
    """Return no mask: the lengths of the sequences take its place."""
