"""The "sdpa" attention of transformers in blocks: the same values, and torch's own function where blocks do not fit."""

import pytest
import torch

from launcher.tasks import _cpu_attention, _padded_attention


@pytest.fixture(autouse=True)
def multiplies_bf16(monkeypatch):
    monkeypatch.setattr(_cpu_attention, "_multiplies_bf16", lambda: True)


def states(samples=2, tokens=5, heads=4, dtype=torch.bfloat16):
    draw = torch.Generator().manual_seed(tokens)
    made = torch.randn(samples, heads, tokens, 8, generator=draw)
    return made.to(dtype).requires_grad_()


def call(query, key=None, mask=None, **options):
    key = query if key is None else key
    module = torch.nn.Identity()
    module.num_key_value_groups = query.shape[1] // key.shape[1]
    return _padded_attention.forward(module, query, key, key, mask, **{"is_causal": False, **options})[0]


def in_blocks(made):
    """Whether the attention was computed in blocks, below the copy that puts heads beside tokens."""
    steps = {made.grad_fn}
    while steps and not any(type(step).__name__ == "AttentionBackward" for step in steps):
        steps = {before for step in steps for before, _ in step.next_functions if before is not None}
    return bool(steps)


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()[:, None, None]


@pytest.mark.parametrize(("mask", "causal"), [(None, False), (None, True), (MASK, False)])
def test_in_bf16_the_values_are_those_of_fp32(mask, causal):
    query = states()
    made = call(query, mask=mask, is_causal=causal, scaling=0.4)
    assert in_blocks(made) and made.shape == (2, 5, 4, 8) and made.is_contiguous()
    wanted = call(query.float(), mask=mask, is_causal=causal, scaling=0.4)
    assert not in_blocks(wanted)
    torch.testing.assert_close(made.float(), wanted, rtol=0.02, atol=0.02)


def test_autocast_decides_on_the_precision():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = call(states(dtype=torch.float32))
    assert in_blocks(made) and made.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "other",
    [
        lambda: call(states(), dropout=0.5),
        lambda: call(states(), states(heads=2)),
        lambda: call(states(), states(tokens=6), is_causal=True),
        lambda: call(states(), position_bias=torch.zeros(1, 4, 5, 5, dtype=torch.bfloat16)),
        lambda: call(states(dtype=torch.float16)),
        lambda: call(states(1, _cpu_attention.LONGEST + 1, 1)),
    ],
)
def test_other_attention_is_torch_s(other):
    assert not in_blocks(other())


def test_models_use_it_and_keep_their_configuration():
    from transformers import BertConfig, BertModel

    _padded_attention.register()
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    model = BertModel(config, add_pooling_layer=False).bfloat16().eval()
    assert model.config._attn_implementation == "sdpa"
    made = model(input_ids=torch.arange(8).view(2, 4), attention_mask=MASK[:, 0, 0, :4].long())
    assert in_blocks(made.last_hidden_state)
