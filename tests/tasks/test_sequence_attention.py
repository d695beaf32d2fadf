"""Attention within the sequences of a row: as if each were alone, and the calls of kernels for any length."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from launcher.tasks import _sequence_attention as attention
from launcher.tasks import _sequences
from launcher.tasks._sequences import Sequences

LENGTHS = (9, 9, 7, 4, 4, 4, 1)


def row(lengths=LENGTHS):
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    return attention.Row(Sequences(tuple(lengths)), offsets)


def states(heads=2, width=8, lengths=LENGTHS):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(1, heads, sum(lengths), width, dtype=torch.float64, generator=draw)


def module(**named):
    one = torch.nn.Identity()
    for name, value in named.items():
        setattr(one, name, value)
    return one


def alone(query, key, value, causal, window):
    """What each sequence gives by itself, with all limits written as a mask."""
    out, start = [], 0
    for length in LENGTHS:
        q, k, v = (one[:, :, start : start + length] for one in (query, key, value))
        far = torch.arange(length) - torch.arange(length)[:, None]
        mask = torch.ones(length, length, dtype=torch.bool) if window is None else far.abs() < window
        mask = mask & (far <= 0) if causal else mask
        out.append(scaled_dot_product_attention(q, k, v, mask).transpose(1, 2))
        start += length
    return torch.cat(out, 1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, 20])
def test_each_sequence_attends_to_itself_as_if_alone(causal, window):
    query, key, value = states(), states().flip(2), states().flip(1)
    found, _ = attention.forward(
        module(is_causal=causal), query, key, value, None, sliding_window=window, sequences=row()
    )
    torch.testing.assert_close(found, alone(query, key, value, causal, window))


def test_query_heads_may_share_key_and_value_heads():
    query, few = states(heads=4), states(heads=2)
    found, _ = attention.forward(module(is_causal=False), query, few, few, None, sequences=row())
    many = few.repeat_interleave(2, 1)
    torch.testing.assert_close(found, alone(query, many, many, causal=False, window=None))


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"sequences": None}, "does not receive the lengths"),
        ({"softcap": 30.0}, "softcap is not supported"),
        ({"position_bias": torch.zeros(1)}, "position_bias is not supported"),
        ({"attention_mask": torch.ones(1, 1, 3, 3)}, "a mask is not supported"),
        ({"sequences": row((3, 2))}, "other tokens"),
    ],
)
def test_other_kinds_of_attention_are_refused(more, what):
    options = {"attention_mask": None, "sequences": row(), **more}
    with pytest.raises(ValueError, match=what):
        attention.forward(module(), states(), states(), states(), options.pop("attention_mask"), **options)


def test_runs_are_neighbours_of_one_length():
    runs = Sequences(LENGTHS).runs
    assert [tuple(run) for run in runs] == [(0, 2, 9), (2, 1, 7), (3, 3, 4), (6, 1, 1)]


def test_lengths_are_no_memory_to_pin():
    lengths = Sequences(LENGTHS)
    assert lengths.pin_memory() is lengths


def test_a_row_of_samples():
    samples = [{"input_ids": np.arange(n) + 5, "token_type_ids": np.full(n, n)} for n in (3, 2)]
    inputs = _sequences.inputs(samples)["inputs"]
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 5, 6]]
    assert inputs["token_type_ids"].tolist() == [[3, 3, 3, 2, 2]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    given = inputs["sequences"]
    assert given["lengths"] == Sequences((3, 2)) and given["offsets"].tolist() == [0, 3, 5]
    assert given["offsets"].dtype == np.int32
    assert _sequences.count({"inputs": inputs}) == 2
    values = torch.arange(5.0)[None]
    assert _sequences.padded(values, {"inputs": inputs}).tolist() == [[0, 1, 2], [3, 4, 0]]


# Kernels for sequences of any length, on CUDA


@pytest.fixture
def kernels(monkeypatch):
    """Stand-ins for both libraries' kernels. Returns the calls."""
    calls = []

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        calls.append(("torch", query.shape, cu_seq_q.tolist(), cu_seq_k.tolist(), max_q, max_k, scale, window_size))
        return query

    def flash_attn_varlen_func(q, k, v, cu_q, cu_k, max_q, max_k, softmax_scale, causal, window_size, deterministic):
        calls.append(("flash", q.shape, cu_q.tolist(), cu_k.tolist(), max_q, max_k, softmax_scale, causal, window_size))
        calls.append(deterministic)
        return q

    flash = types.ModuleType("flash_attn")
    flash.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    flash.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    chosen = attention.fused
    chosen.cache_clear()
    yield calls
    chosen.cache_clear()


OFFSETS = [0, 9, 18, 25, 29, 33, 37, 38]


@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 3), (True, 3)])
def test_torch_s_kernel_gets_the_tokens_the_offsets_and_the_window(kernels, monkeypatch, causal, window):
    chosen = attention.fused("cuda", torch.bfloat16, 8)
    monkeypatch.setattr(attention, "fused", lambda device, dtype, width: chosen)
    found, _ = attention.forward(
        module(is_causal=causal), *[states()] * 3, None, scaling=0.5, sliding_window=window, sequences=row()
    )
    left = -1 if window is None else window - 1
    limits = (left, 0 if causal else left)
    assert kernels == [("torch", (38, 2, 8), OFFSETS, OFFSETS, 9, 9, 0.5, limits)]
    assert found.shape == (1, 38, 2, 8)


def test_flash_attn_is_taken_where_torch_has_no_window(kernels, monkeypatch):
    def older(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
        raise AssertionError

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", older)
    chosen = attention.fused("cuda", torch.float16, 8)
    assert chosen is not None
    chosen(*[states()] * 3, row(), 0.0, (2, 0), 0.5)
    assert kernels == [("flash", (38, 2, 8), OFFSETS, OFFSETS, 9, 9, 0.5, True, (2, 0)), False]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)  # by train.deterministic
    chosen(*[states()] * 3, row(), 0.0, (2, 0), 0.5)
    assert kernels[-1] is True


@pytest.mark.parametrize(
    ("device", "dtype", "width"),
    [("cpu", torch.bfloat16, 64), ("cuda", torch.float32, 64), ("cuda", torch.bfloat16, 512), ("cuda", torch.half, 20)],
)
def test_elsewhere_there_is_no_kernel(kernels, device, dtype, width):
    assert attention.fused(device, dtype, width) is None


def test_dropout_of_attention_is_never_left_to_a_kernel(kernels, monkeypatch):
    monkeypatch.setattr(attention, "fused", lambda *asked: pytest.fail("a kernel draws its own dropout"))
    attention.forward(module(is_causal=False), *[states()] * 3, None, dropout=0.5, sequences=row())
    assert kernels == []
