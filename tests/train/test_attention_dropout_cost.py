"""What attention dropout costs is measured where it can matter, and told where it does."""

import pytest
import torch
from transformers import BertConfig, DistilBertConfig, GPT2Config, T5Config

from launcher.plan.model_spec import attention_dropout
from launcher.train import attention_dropout_cost

CPU = torch.device("cpu")


class Model(torch.nn.Module):
    def __init__(self, config, attention="sdpa"):
        super().__init__()
        self.config = config
        config._attn_implementation = attention


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (BertConfig(), {"attention_probs_dropout_prob": 0.1}),
        (BertConfig(attention_probs_dropout_prob=0.0), {}),
        (DistilBertConfig(attention_dropout=0.3), {"attention_dropout": 0.3}),
        (GPT2Config(), {"attn_pdrop": 0.1}),
        (T5Config(), {}),
        (None, {}),
    ],
)
def test_the_rates_of_attention_are_found_by_their_names(config, found):
    assert attention_dropout(config) == found


def note(monkeypatch, share, config=None, attention="sdpa", length=128):
    seen = []
    monkeypatch.setattr(attention_dropout_cost, "cost", lambda *given: seen.append(given) or share)
    told = attention_dropout_cost.note(Model(config or BertConfig(), attention), 32, length, "bf16", CPU)
    return told, seen


def test_a_cost_that_matters_is_told_with_its_key(monkeypatch):
    told, ((_, rate, samples, length, *_),) = note(monkeypatch, 0.18)
    assert told == [
        "attention_probs_dropout_prob 0.1 takes about 18% of a layer's time here (model.attention_dropout=0 does "
        "without it)"
    ]
    assert rate == 0.1 and samples * length <= 512
    assert note(monkeypatch, 0.04)[0] == []


def test_what_cannot_matter_is_not_measured(monkeypatch):
    for given in (
        {"length": 32},
        {"attention": "eager"},
        {"config": BertConfig(attention_probs_dropout_prob=0.0)},
    ):
        assert note(monkeypatch, 0.9, **given) == ([], [])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_it_is_a_share(precision):
    config = BertConfig(hidden_size=32, num_attention_heads=2, intermediate_size=64)
    assert 0 <= attention_dropout_cost.cost(config, 0.1, 2, 64, precision, CPU) < 1
    assert attention_dropout_cost.cost(T5Config(), 0.1, 2, 64, precision, CPU) == pytest.approx(0, abs=1)
