"""What a cluster's figures let one expect."""

import pytest
import support
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.plan import run_estimates
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture


def cluster(**keys):
    return Cluster.model_validate(
        {"kind": "slurm", "nodes": 4, "devices_per_node": 8, "device": "cuda", "memory_per_device": 80, **keys}
    )


BERT_BASE = Architecture(
    name="BertForMaskedLM", parameters=109_514_298, trained=109_514_298, buffers=0, in_layers=85_054_464, hidden=768,
    layers=12, heads=12,
)  # fmt: skip


def operations(length=512, shape=BERT_BASE, **changes):
    facts = Facts(
        digest="x", vocab_size=30522, pad_token_id=0, mask_token_id=1, special_ids=[], labels=[], longest=length,
        samples={"train": 10}, tokens={"train": 10 * length}, baseline={},
    )  # fmt: skip
    return run_estimates.sample_operations(Recipe.model_validate(support.mlm(**changes)), shape, facts)


def test_nothing_is_promised_without_figures():
    assert run_estimates.run_seconds(cluster(), 1e15, 32) is None
    assert run_estimates.hours_between_failures(cluster()) is None


def test_arithmetic_at_the_peak():
    assert run_estimates.run_seconds(cluster(peak_tflops=300), 6e14, 32) == pytest.approx(6e14 / (32 * 3e14))
    assert run_estimates.run_seconds(cluster(peak_tflops=300), 6e14, 32, 1e12) == pytest.approx(6e14 / (32 * 3e14))
    assert run_estimates.run_seconds(cluster(), 6e14, 32, 1e14) == pytest.approx(6e14 / (32 * 1e14))


@pytest.mark.parametrize("length", [128, 512])
def test_operations_are_those_that_torch_counts(length):
    """Of a BERT layer's matrices, attention's products and the head on the masked positions, counted by torch."""
    config = BertConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, vocab_size=900
    )
    config._attn_implementation = "eager"
    model = BertForMaskedLM(config)
    ids = torch.zeros((1, length), dtype=torch.long)
    with FlopCounterMode(display=False) as encoder:
        model.bert(ids).last_hidden_state.sum().backward()
    masked = round(0.15 * length)
    with FlopCounterMode(display=False) as head:
        model.cls(torch.zeros((1, masked, 64), requires_grad=True)).sum().backward()
    in_layers = sum(p.numel() for p in model.bert.encoder.parameters())
    every = sum(p.numel() for p in model.parameters())
    shape = BERT_BASE.model_copy(
        update={"in_layers": in_layers, "hidden": 64, "layers": 3, "parameters": every, "trained": every}
    )
    facts = Facts(
        digest="x", vocab_size=900, pad_token_id=0, mask_token_id=1, special_ids=[], labels=[], longest=length,
        samples={"train": 1}, tokens={"train": length}, baseline={},
    )  # fmt: skip
    found = run_estimates.sample_operations(Recipe.model_validate(support.mlm()), shape, facts)
    assert found == pytest.approx(encoder.get_total_flops() + head.get_total_flops(), rel=0.1)


def test_checkpointed_layers_are_computed_forward_once_more():
    plain, every = operations(), operations(train__activation_checkpointing="layers")
    assert 1.2 < every / plain < 4 / 3


def test_what_does_not_train_as_a_whole_has_no_estimate():
    assert operations(shape=BERT_BASE.model_copy(update={"trained": 1000})) is None
    assert operations(shape=BERT_BASE.model_copy(update={"layers": 0})) is None


def test_more_nodes_are_lost_more_often():
    assert run_estimates.hours_between_failures(cluster(hours_between_failures=1000)) == 250


def test_failures_of_a_job_and_the_checkpoints_that_they_call_for():
    lost, best = run_estimates.failures(2.5, 25 * 3600, 18_000_000_000).split("; ")
    assert lost == "a node is lost every 2.5 h, at least 10.0 times in this run"
    assert best == "best is a checkpoint every 7.0 min, if one takes 10 s"
    assert run_estimates.failures(2.5, None, 0).startswith("a node is lost every 2.5 h; best is a checkpoint every 2")


@pytest.mark.parametrize(
    "seconds, text",
    [(0.25, "0.2 s"), (40, "40 s"), (150, "2.5 min"), (7100, "118 min"), (9000, "2.5 h"), (2e5, "2.3 days")],
)
def test_durations(seconds, text):
    assert run_estimates.duration(seconds) == text
