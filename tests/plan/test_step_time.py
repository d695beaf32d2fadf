"""The predicted time of a step: what each part depends on, and that no better device makes it slower."""

from dataclasses import replace
from itertools import pairwise

import pytest
import support
from hypothesis import given
from hypothesis import strategies as st

from launcher.config.cluster import Cluster
from launcher.config.recipe import Recipe
from launcher.plan import device_rates, step_work
from launcher.plan.collectives import Collective, LinkRates, RankStep, seconds
from launcher.plan.device_rates import KINDS, ClusterRates, kind_of, rates
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture
from launcher.plan.step_time import HOST, DeviceRates, StepWork, predict

LINKS = LinkRates(8, 300e9, 25e9, 2e-6, 5e-6)
DEVICE = DeviceRates(250e12, 1.6e12)
WORK = StepWork(operations=2.5e13, traffic=1.6e10, update=1.6e9, micro_batches=2, kernels=1000)
BERT_BASE = Architecture(
    name="BertForMaskedLM", parameters=109_514_298, trained=109_514_298, buffers=0, in_layers=85_054_464,
    largest_layer=7_087_872, largest_parameter=23_440_896, hidden=768, layers=12, heads=12,
)  # fmt: skip
STRATEGIES = [
    {"kind": "ddp"}, {"kind": "ddp", "compress": "bf16"}, {"kind": "ddp", "tensor_parallel": 2}, {"kind": "fsdp"},
    {"kind": "fsdp", "shard": "grad_op"}, {"kind": "fsdp", "shard": "hybrid", "replicas": 2},
    *({"kind": "deepspeed", "zero": stage} for stage in range(4)),
]  # fmt: skip

collectives = st.builds(
    Collective,
    operation=st.sampled_from(["all-reduce", "all-gather", "reduce-scatter"]),
    size=st.floats(1, 1e11),
    calls=st.floats(1, 1000),
    ranks=st.integers(1, 512),
    phase=st.sampled_from(["forward", "backward", "last backward", "update"]),
    stride=st.sampled_from([1, 2, 8]),
    waits=st.booleans(),
)


def facts(length=512):
    return Facts(
        digest="x", vocab_size=30522, pad_token_id=0, mask_token_id=1, special_ids=[], labels=[], longest=length,
        samples={"train": 10}, tokens={"train": 10 * length}, baseline={}, lengths={length: 10},
    )  # fmt: skip


def step(devices=8, **changes):
    """The predicted step of a BERT-base at 512 tokens, and its recipe."""
    changed = {"train__global_batch": 512, "train__max_tokens": 16384, "train__precision": "bf16", **changes}
    recipe = Recipe.model_validate(support.mlm(data__max_length=512, **changed))
    profile = Cluster.model_validate({"device": "cuda"})
    reached = rates(profile, KINDS["A100"], "bf16", min(8, devices), -(-devices // 8))
    assert isinstance(reached, ClusterRates)
    return step_work.step_time(recipe, BERT_BASE, facts(), devices, reached)


@given(st.lists(collectives, max_size=4), st.integers(0, 5), st.floats(1, 100))
def test_nothing_that_is_faster_makes_a_step_slower(exchanged, part, factor):
    links, device = LINKS, DEVICE
    before = predict(WORK, device, links, exchanged).total
    if part < 2:
        name = ("within", "between")[part]
        links = replace(links, **{name: getattr(links, name) * factor})
    elif part < 4:
        name = ("latency_within", "latency_between")[part - 2]
        links = replace(links, **{name: getattr(links, name) / factor})
    else:
        name = ("flops", "memory")[part - 4]
        device = replace(device, **{name: getattr(device, name) * factor})
    assert predict(WORK, device, links, exchanged).total <= before * (1 + 1e-9)


@given(collectives, st.floats(1, 100))
def test_more_bytes_or_calls_never_take_less_time(one, factor):
    more = [replace(one, size=one.size * factor), replace(one, calls=one.calls * factor)]
    assert all(seconds(one, LINKS) <= seconds(other, LINKS) * (1 + 1e-12) for other in more)
    parts = [predict(WORK, DEVICE, LINKS, [x]).total for x in (one, more[0])]
    assert parts[0] <= parts[1] * (1 + 1e-9)


@given(st.lists(collectives, max_size=4))
def test_what_is_hidden_and_what_is_not_are_all_that_is_sent(exchanged):
    found = predict(WORK, DEVICE, LINKS, exchanged)
    assert found.communication >= -1e-12
    assert found.hidden + found.communication == pytest.approx(sum(seconds(one, LINKS) for one in exchanged))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", {"kind": "deepspeed", "zero": 3}, "single"], ids=str)
def test_one_rank_has_nobody_to_exchange_with(strategy):
    found = step(1, strategy=strategy)
    assert (found.communication, found.hidden) == (0, 0)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_twice_the_devices_are_at_most_twice_as_fast(strategy):
    times = [step(devices, strategy=strategy).total for devices in (8, 16, 32, 64, 128, 256)]
    assert all(later >= earlier / 2 for earlier, later in pairwise(times))


def test_a_ring_is_as_slow_as_its_slowest_link():
    """Of 16 ranks on two nodes, each node sends by eight ports; of two ranks on two nodes, by one."""
    links = LinkRates(8, 300e9, 25e9, 0, 0)
    within = Collective("all-gather", 8e9, 1, 8, "update")
    assert seconds(within, links) == pytest.approx(7e9 / 300e9)
    assert seconds(replace(within, ranks=16), links) == pytest.approx(7.5e9 / 200e9)
    assert seconds(replace(within, ranks=2, stride=8), links) == pytest.approx(4e9 / 25e9)
    assert seconds(replace(within, operation="all-reduce"), links) == pytest.approx(14e9 / 300e9)
    assert seconds(replace(within, ranks=1), links) == 0


def test_latencies_are_those_of_rings_and_trees():
    links = LinkRates(8, 1e30, 1e30, 1, 100)
    of_64 = Collective("all-reduce", 1, 3, 64, "update")
    assert seconds(of_64, links) == pytest.approx(3 * (2 * 7 + 2 * 3 * 100))
    assert seconds(replace(of_64, operation="all-gather"), links) == pytest.approx(3 * (8 * 7 + 7 * 100))


def test_the_parts_of_a_step():
    """Golden: BERT-base at 512 tokens, 64 samples on each of 8 A100, ddp."""
    found = step()
    of_sample = 6 * 85_054_464 * 512 + 12 * 768 * 12 * 512**2 + 6 * 768 * 30522 * 77
    assert found.arithmetic == pytest.approx(64 * of_sample / (0.8 * 312e12), rel=2e-3)
    assert found.communication < 1e-3 < found.hidden
    assert found.host == HOST
    assert found.bound == "arithmetic"
    assert found.total == pytest.approx(0.12053, abs=1e-5)


def test_small_batches_on_many_devices_are_bound_by_the_host():
    assert step(512, train__global_batch=512).bound == "host"


def test_recomputation_takes_another_forward():
    found = step(train__activation_checkpointing="layers")
    assert found.arithmetic == pytest.approx(4 / 3 * step().arithmetic, rel=0.03)
    assert found.memory > step().memory


def test_tensor_parallel_ranks_wait_for_each_other():
    found = step(strategy={"kind": "fsdp", "tensor_parallel": 8})
    assert found.bound == "communication"
    head = 6 * 768 * 30522 * 77 * 64 / (0.8 * 312e12)  # of eight times the samples, and not divided
    assert found.arithmetic == pytest.approx(step().arithmetic + 7 * head, rel=1e-3)


def test_the_profile_has_precedence_over_the_kind_of_gpu():
    slow = {"peak_tflops": 1, "memory_bandwidth": 1, "links": {"within_node": 0.001}, "efficiency": {"arithmetic": 0.5}}
    found = rates(Cluster.model_validate({"device": "cuda", **slow}), KINDS["H100"], "bf16", 8, 2)
    assert (found.peak, found.device.flops, found.device.memory) == (1e12, 0.5e12, 0.8e9)
    assert (found.links.within, found.links.between) == (0.8e6, 40e9)


def test_a_profile_without_figures_names_the_keys():
    assert rates(Cluster(), None, "bf16", 1, 1) == ["peak_tflops", "memory_bandwidth"]
    assert rates(Cluster(), None, "bf16", 8, 2)[2:] == ["links.within_node", "links.between_nodes"]
    assert rates(Cluster(), KINDS["V100"], "bf16", 8, 1) == ["peak_tflops"]


@pytest.mark.parametrize(("name", "kind"), [
    ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA A100-SXM4-40GB", "A100-40GB"), ("NVIDIA H100 80GB HBM3", "H100"),
    ("Tesla V100-SXM2-16GB", "V100"), ("NVIDIA L40S", "L40S"), ("AMD Instinct MI300X", "MI300X"),
    ("NVIDIA H100 PCIe", None), ("NVIDIA A100 80GB PCIe", None), ("", None),
])  # fmt: skip
def test_kinds_are_known_by_the_names_of_drivers(name, kind):
    assert kind_of(name) is (None if kind is None else device_rates.KINDS[kind])


def test_a_model_of_which_a_part_trains_has_no_prediction():
    part = BERT_BASE.model_copy(update={"trained": 10})
    assert step_work.work(Recipe.model_validate(support.mlm()), part, facts(), RankStep(1, 1, 1.0), "cuda") is None
