"""The contract of every optimiser kind: a new one is covered by being there."""

import copy
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertForMaskedLM

from launcher.config import kinds, plugins
from launcher.config.types import OptimizerConfig
from launcher.optimizers import Optimizer

KINDS = kinds.available("optimizers")
BERT = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}


@pytest.fixture(params=KINDS)
def config(request):
    return kinds.module("optimizers", request.param).Config(lr=0.1, weight_decay=0.2)


def bert():
    torch.manual_seed(1)
    return BertForMaskedLM(BertConfig(**BERT))


def take_steps(optimizer, model, steps):
    draw = torch.Generator().manual_seed(2)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=draw) if p.requires_grad else None
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * group["scale"]
        optimizer.step()


def test_the_kind_is_the_module_name_and_only_lr_is_required(config):
    assert isinstance(config, OptimizerConfig)
    assert isinstance(plugins.optimizer(config), Optimizer)
    with pytest.raises(ValidationError) as error:
        type(config)()
    assert [(e["loc"], e["type"]) for e in error.value.errors()] == [(("lr",), "missing")]


def test_an_unknown_key_is_refused(config):
    with pytest.raises(ValidationError, match=r"unknown key \("):
        type(config)(lr=1, no_such_key=1)


def test_biases_and_norms_do_not_decay_and_frozen_parameters_are_left_out(config):
    model = bert()
    frozen = model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    groups = plugins.optimizer(config).for_model(model).param_groups
    trained = [p for group in groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == sum(p.requires_grad for p in model.parameters())
    assert all(p is not frozen for p in trained)
    for group in groups:
        expected = 0.2 if group["params"][0].ndim >= 2 else 0.0
        assert {p.ndim >= 2 for p in group["params"]} == {expected > 0}
        assert group["weight_decay"] == expected


def test_layer_decay_scales_the_rate_of_each_layer(config):
    model = bert()
    config = config.model_copy(update={"layer_decay": 0.5})
    names = {p: name for name, p in model.named_parameters()}
    groups = plugins.optimizer(config).for_model(model).param_groups
    scales = {names[p]: group["scale"] for group in groups for p in group["params"]}
    for name, scale in scales.items():
        depth = 0 if ".embeddings." in name else int(name.split(".layer.")[1][0]) + 1 if ".layer." in name else 3
        assert scale == 0.5 ** (3 - depth)


def test_a_saved_state_is_loaded_by_name_and_continues_to_the_last_bit(config):
    """As engines do: the state of another optimiser is written into this one's tensors."""
    straight, first = bert(), bert()
    take_steps(plugins.optimizer(config).for_model(straight), straight, 2)
    optimizer = plugins.optimizer(config).for_model(first)
    take_steps(optimizer, first, 1)
    resumed = copy.deepcopy(first)
    other = plugins.optimizer(config).for_model(resumed)
    for p, q in zip(first.parameters(), resumed.parameters(), strict=True):
        other.state[q] = {name: value.clone() for name, value in optimizer.state[p].items()}
    draw = torch.Generator().manual_seed(2)
    [torch.randn(p.shape, generator=draw) for p in first.parameters()]
    for p in resumed.parameters():
        p.grad = torch.randn(p.shape, generator=draw)
    other.step()
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_the_state_is_tensors_of_known_names(config):
    """Checkpoints and DeepSpeed's flat partitions need tensors of a parameter's shape or scalars, unless the optimiser
    is not elementwise (then no strategy shards it)."""
    model = bert()
    optimizer = plugins.optimizer(config).for_model(model)
    take_steps(optimizer, model, 1)
    assert all(isinstance(value, torch.Tensor) for state in optimizer.state.values() for value in state.values())
    if config.elementwise:
        names = set(plugins.optimizer(config).state_names())
        for p, state in optimizer.state.items():
            assert set(state) == names
            assert {name for name in names - {"step"} if state[name].shape != p.shape} == set()


def test_the_estimated_state_is_what_is_kept(config):
    model = bert()
    optimizer = plugins.optimizer(config).for_model(model)
    take_steps(optimizer, model, 1)
    total = sum(p.numel() for p in model.parameters())
    in_layers = sum(p.numel() for name, p in model.named_parameters() if ".layer." in name)
    kept = sum(v.numel() for state in optimizer.state.values() for name, v in state.items() if name != "step")
    assert kept / total == pytest.approx(config.moments(in_layers / total), abs=0.5)


def test_an_elementwise_optimiser_updates_a_shard_as_in_the_whole(config):
    whole, halves = torch.nn.Linear(4, 6, bias=False), torch.nn.ModuleList()
    halves.extend(torch.nn.Linear(4, 3, bias=False) for _ in range(2))
    for number, half in enumerate(halves):
        half.weight.data.copy_(whole.weight.data[3 * number : 3 * number + 3])
    gradient = torch.randn(6, 4)
    whole.weight.grad = gradient.clone()
    plugins.optimizer(config).for_model(whole).step()
    for number, half in enumerate(halves):
        half.weight.grad = gradient[3 * number : 3 * number + 3].clone()
        plugins.optimizer(config).for_model(half).step()
    same = torch.allclose(torch.cat([half.weight for half in halves]), whole.weight, atol=1e-6)
    assert same or not config.elementwise


def test_configs_are_read_without_torch():
    names = "; ".join(f"kinds.module('optimizers', '{kind}').Config(lr=1)" for kind in KINDS)
    names += "".join(f"; kinds.module('lr_schedules', '{kind}')" for kind in kinds.available("lr_schedules"))
    code = f"import sys; from launcher.config import kinds; {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
