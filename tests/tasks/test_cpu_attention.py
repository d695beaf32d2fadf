"""Attention in blocks on a CPU: values and gradients are those of torch's own operations."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from launcher.contract.dropout import kept
from launcher.tasks import _attention_limits, _cpu_attention, _cpu_dropout, _sequence_attention
from launcher.tasks._sequences import Sequences
from launcher.train import masked_attention

RATE = 0.25
SAMPLES, HEADS, QUERIES, KEYS, WIDTH = 3, 2, 5, 4, 8
SCORES = (SAMPLES, HEADS, QUERIES, KEYS)


def some(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def a_mask(*shape, seed=7):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.3


def states(queries=QUERIES, keys=KEYS, samples=SAMPLES, **more):
    """The query, the key and the value as models have them: heads beside tokens in memory."""
    made = [some(samples, size, HEADS, WIDTH, seed=n, **more) for n, size in enumerate((queries, keys, keys))]
    return [one.transpose(1, 2).requires_grad_() for one in made]


def of_torch(query, key, value, mask, causal, keep):
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    dropout = torch.ops.aten._scaled_dot_product_attention_math
    return dropout(query, key, value, mask, 1 - kept(RATE), causal, keep)[0]


def blind():
    mask = a_mask(SAMPLES, 1, QUERIES, KEYS)
    mask[0, 0, 2] = False
    return mask


MASKS = {
    "none": lambda: None,
    "of keys": lambda: torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()[:, None, None],
    "of keys, expanded": lambda: (
        torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
        .bool()[:, None, None]
        .expand(SAMPLES, HEADS, QUERIES, KEYS)
    ),
    "of pairs": lambda: torch.ones(QUERIES, KEYS, dtype=torch.bool).tril(),
    "of heads": lambda: some(HEADS, QUERIES, KEYS, seed=5),
    "numbers": lambda: some(*SCORES, seed=5),
    "minus infinity": lambda: torch.zeros(KEYS).index_fill(0, torch.tensor([1]), -torch.inf),
}


@pytest.fixture(params=[1, 40, 2**18], ids=lambda size: f"blocks of {size}")
def blocks(request, monkeypatch):
    """Blocks of a head, of a sample or two, and of everything."""
    monkeypatch.setattr(_cpu_attention, "_BLOCK", request.param)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.mark.parametrize("name", [*MASKS, "causal"])
def test_values_and_gradients_are_those_of_torch(blocks, name):
    mask, causal = MASKS.get(name, MASKS["none"]), name == "causal"
    keep, weights = a_mask(*SCORES), some(SAMPLES, HEADS, QUERIES, WIDTH, seed=9)
    found, expected = states(), states()
    (masked_attention.attention(*found, mask(), RATE, causal, None, keep) * weights).sum().backward()
    (of_torch(*expected, mask(), causal, keep) * weights).sum().backward()
    made, wanted = (
        masked_attention.attention(*found, mask(), RATE, causal, None, keep),
        of_torch(*expected, mask(), causal, keep),
    )
    assert type(made.grad_fn).__name__ == "AttentionBackward"
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-13)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", [*MASKS, "causal"])
def test_without_dropout_values_and_gradients_are_those_of_torch(blocks, name):
    mask, causal = MASKS.get(name, MASKS["none"])(), name == "causal"
    weights, found, expected = some(SAMPLES, HEADS, QUERIES, WIDTH, seed=9), states(), states()
    limits = _attention_limits.of_call(*found[:2], mask, causal)
    made = _cpu_attention.attention(*found, (0.3, 1.0), None, limits)
    like = mask if mask is None or mask.dtype == torch.bool else mask.double().view(*[1] * (2 - mask.ndim), *mask.shape)
    wanted = F.scaled_dot_product_attention(*expected, like, 0.0, causal, scale=0.3)
    for one in (made, wanted):
        (one * weights).sum().backward()
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-13)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (1, 1), (2, 0)])
def test_without_dropout_sequences_of_a_row_are_those_of_torch(blocks, window, monkeypatch):
    lengths = (3, 3, 1, 5)
    row = _sequence_attention.Row(Sequences(lengths), torch.tensor([0, 3, 6, 7, 12]))
    weights, found, expected = some(1, 12, HEADS, WIDTH), states(12, 12, 1), states(12, 12, 1)
    wanted = _sequence_attention.by_length(*expected, row, 0.0, window, None)
    monkeypatch.setattr(_cpu_attention, "faster", lambda *tensors: True)
    made = _sequence_attention.by_length(*found, row, 0.0, window, None)
    assert type(made.grad_fn).__name__ == "RowAttentionBackward"
    for one in (made, wanted):
        (one * weights).sum().backward()
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-13)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-13)
    with torch.no_grad():
        assert torch.equal(_sequence_attention.by_length(*found, row, 0.0, window, None), made)


@pytest.mark.parametrize("reach", [(-1, 0), (3, 3), (1, 0)])
def test_a_window_has_the_limits_of_its_mask(reach):
    for length in (2, 5, 9):
        mask, causal = _sequence_attention.limits(length, reach, torch.device("cpu"))
        mask = torch.ones(length, length, dtype=torch.bool).tril() if causal else mask
        found = _attention_limits.of_window(length, length, reach, torch.bfloat16)
        assert (found is None) == (mask is None)
        assert found is None or torch.equal(found.bias[0, 0] == 0, mask)


def test_gradients_are_those_of_finite_differences():
    keep = a_mask(*SCORES)
    assert gradcheck(lambda *qkv: masked_attention.attention(*qkv, blind(), RATE, False, 0.3, keep), states())


def test_a_query_that_attends_to_nothing_gets_zeros_and_no_gradient():
    query, key, value = states()
    for mask in (blind(), torch.zeros(blind().shape).double().masked_fill(~blind(), torch.finfo(torch.float64).min)):
        query.grad = None
        made = masked_attention.attention(query, key, value, mask, RATE, False, None, a_mask(*SCORES))
        made.sum().backward()
        assert not made[0, :, 2].any() and made[1].abs().sum() > 0
        assert not query.grad[0, :, 2].any() and query.grad[1].abs().sum() > 0


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (1, 1)])
def test_sequences_of_a_row_are_those_of_padded_rows(blocks, window):
    lengths = (3, 3, 1, 4)
    row = _sequence_attention.Row(Sequences(lengths), torch.tensor([0, 3, 6, 7, 11]))
    masks = [a_mask(run.sequences, HEADS, run.length, run.length, seed=run.length) for run in row.sequences.runs]
    weights, found, expected = some(1, 11, HEADS, WIDTH), states(11, 11, 1), states(11, 11, 1)
    made = masked_attention.in_row(*found, row, RATE, window, None, masks)
    (made * weights).sum().backward()

    def attend(query, key, value, number):
        mask, causal = _sequence_attention.limits(query.shape[2], window, query.device)
        return of_torch(query, key, value, mask, causal, masks[number])

    wanted = _sequence_attention.over_runs(*expected, row.sequences, attend)
    (wanted * weights).sum().backward()
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-13)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_in_less_precision_are_near(dtype):
    keep, found, expected = a_mask(*SCORES), states(), states()
    masked_attention.attention(*[one.to(dtype) for one in found], None, RATE, False, None, keep).sum().backward()
    of_torch(*expected, None, False, keep).sum().backward()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.06)


@pytest.mark.parametrize("name", ["none", "of keys", "of heads", "causal"])
def test_in_bf16_without_dropout_rounding_is_that_of_torch(name):
    mask, causal = MASKS.get(name, MASKS["none"])(), name == "causal"
    exact, ours, theirs = ([one.detach().bfloat16().requires_grad_() for one in states()] for _ in range(3))
    off, wide = [], [one.detach().double().requires_grad_() for one in exact]
    limits = _attention_limits.of_call(*ours[:2], mask, causal)
    _cpu_attention.attention(*ours, (WIDTH**-0.5, 1.0), None, limits).sum().backward()
    F.scaled_dot_product_attention(*wide, mask, 0.0, causal).sum().backward()
    like = mask.bfloat16() if mask is not None and mask.dtype != torch.bool else mask
    F.scaled_dot_product_attention(*theirs, like, 0.0, causal).sum().backward()
    for found in (ours, theirs):
        off.append(sum(float((a.grad - b.grad).norm()) for a, b in zip(found, wide, strict=True)))
    assert off[0] < 3 * off[1] + 1e-3


@pytest.mark.parametrize("rate", [0.0, RATE])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_of_many_vectors_are_computed_in_bf16_too(masked, rate):
    """A softmax in place writes whole vectors of 32 numbers there, and less at the end of a row."""
    given = states(queries=40, keys=77)
    ours, wide = ([one.detach().to(kind).requires_grad_() for one in given] for kind in (torch.bfloat16, torch.float64))
    mask = a_mask(SAMPLES, 1, 40, 77) if masked else None
    keep = a_mask(SAMPLES, HEADS, 40, 77) if rate else None
    limits = _attention_limits.of_call(*ours[:2], mask, causal=False)
    made = _cpu_attention.attention(*ours, (WIDTH**-0.5, 1 / kept(rate) if rate else 1.0), keep, limits)
    everything = torch.ones(SAMPLES, HEADS, 40, 77, dtype=torch.bool)
    expected = of_torch(*wide, mask, False, everything if keep is None else keep)
    expected = expected if rate else expected * kept(RATE)  # which scales what it keeps
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=0.03)
    made.sum().backward()
    expected.sum().backward()
    for one, other in zip(ours, wide, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0.05, atol=0.06)


def test_other_attention_takes_single_operations():
    keep = a_mask(*SCORES)
    bias = some(QUERIES, KEYS).requires_grad_()
    made = masked_attention.attention(*states(), bias, RATE, False, None, keep)
    made.sum().backward()
    assert bias.grad is not None and type(made.grad_fn).__name__ != "AttentionBackward"
    query, key, value = states()
    made = masked_attention.attention(query, key[:1], value[:1], None, RATE, False, None, keep)
    assert made.shape == query.shape and type(made.grad_fn).__name__ != "AttentionBackward"
    there = [one.detach().to("meta") for one in states()]
    assert masked_attention.attention(*there, None, RATE, False, None, keep.to("meta")).device.type == "meta"
    assert not _cpu_dropout.applies(torch.ones(3, device="meta"))
    assert not _cpu_dropout.applies(torch.ones(3), torch.ones(3).bfloat16())


# Dropout


@pytest.mark.parametrize("keep", [a_mask(3, 4), a_mask(3, 1), a_mask(4, 3).T, torch.zeros(3, 4, dtype=torch.bool)])
def test_dropout_scales_what_is_kept_and_has_its_gradients(keep):
    values = some(3, 4).requires_grad_()
    made = _cpu_dropout.Dropout.apply(values, keep, 1.5)
    assert torch.equal(made, torch.where(keep, values * 1.5, 0.0))
    assert gradcheck(lambda x: _cpu_dropout.Dropout.apply(x, keep, 1.5), values)
    assert gradgradcheck(lambda x: _cpu_dropout.Dropout.apply(x * x, keep, 1.5), values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dropout_rounds_once(dtype):
    values, keep = some(200, 3, dtype=dtype).T, a_mask(3, 200)
    made = _cpu_dropout.Dropout.apply(values, keep, 1 / kept(0.1))
    assert made.dtype == dtype
    exact = (values.double() * (1 / kept(0.1)) * keep).to(dtype)
    torch.testing.assert_close(made, exact, rtol=torch.finfo(dtype).eps, atol=0)
    assert F.mse_loss(made.double(), exact.double()) < 1e-12


def test_transforms_of_functions_take_the_operations_of_torch():
    """An autograd function without a rule for vmap cannot be vectorised."""
    seen = []

    def looked_at(one):
        seen.append(_cpu_dropout.applies(one))
        return one * 2

    torch.func.vmap(looked_at)(torch.ones(3, 2))
    assert seen == [False]
    assert _cpu_dropout.applies(torch.ones(3, 2))
