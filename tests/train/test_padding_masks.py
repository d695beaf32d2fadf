"""The masks that transformers builds without a look are those that it builds with one."""

import pytest
import torch
from transformers import BertConfig, GPT2Config, masking_utils

from launcher.train.padding_masks import padding_is_known

CONFIGS = {
    "create_bidirectional_mask": BertConfig(hidden_size=8, num_attention_heads=2),
    "create_causal_mask": GPT2Config(n_embd=8, n_head=2),
}


def mask(function, padding, implementation="sdpa"):
    config = CONFIGS[function]
    config._attn_implementation = implementation
    more = {"past_key_values": None, "position_ids": torch.arange(4)[None]} if "causal" in function else {}
    embeds = torch.zeros(2, 4, 8)
    return getattr(masking_utils, function)(config=config, inputs_embeds=embeds, attention_mask=padding, **more)


@pytest.mark.parametrize("function", CONFIGS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_mask_is_the_one_of_transformers(function, implementation, padded):
    padding = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]) if padded else None
    expected = mask(function, padding, implementation)
    before = vars(masking_utils).copy()
    with padding_is_known({}):
        found = mask(function, padding, implementation)
    assert (expected is None) == (found is None)
    assert expected is None or torch.equal(found, expected)
    assert vars(masking_utils) == before


def test_positions_that_a_batch_brings_are_looked_at():
    inputs = {"position_ids": torch.tensor([[0, 1, 0, 1]] * 2)}
    with padding_is_known({"inputs": inputs}):
        assert masking_utils.find_packed_sequence_indices(inputs["position_ids"]).tolist() == [[0, 0, 1, 1]] * 2
