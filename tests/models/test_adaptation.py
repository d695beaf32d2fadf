"""What trains, on any model: freezing, adapters, and normalisation that does not mix samples."""

import copy
import pickle
import subprocess
import sys
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from launcher.config.errors import UserError
from launcher.config.model import ModelConfig
from launcher.models import _adaptation, _peft
from launcher.models._adaptation import adapted, plain

IDS = torch.tensor([[1, 5, 2, 9], [1, 6, 2, 8]])
MIXES = (
    "model.batch_norm: mixes the samples of a micro-batch, so that ranks would change what is learnt (frozen keeps the "
    "pretrained statistics, group normalises each sample by itself)"
)


def settings(**keys):
    return ModelConfig.model_validate({"kind": "any", **keys})


def adapt(model, **keys):
    return adapted(model, settings(**keys))


def mistake(model, **keys):
    with pytest.raises(UserError) as told:
        adapt(model, **keys)
    return str(told.value)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


SEGMENTS = ["bert", "cls", "embeddings", "encoder", "layer", "0", "1", "[0-1]", "*", "attention", "?", "weight", "bias"]


@given(st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map(".".join), min_size=1, max_size=3))
def test_what_is_frozen_is_what_the_patterns_match(bert, patterns):
    model = bert(labels=True)
    names = [name for name, _ in model.named_parameters()]
    begins = {name: [name[:end] for end in range(len(name) + 1) if name[end:][:1] in ("", ".")] for name in names}
    hits = {p: {name for name in names if any(fnmatchcase(begin, p) for begin in begins[name])} for p in patterns}
    if not all(hits.values()):
        assert "matches no parameter" in mistake(model, freeze=patterns)
    elif set().union(*hits.values()) == set(names):
        assert "nothing is left to train" in mistake(model, freeze=patterns)
    else:
        adapt(model, freeze=patterns)
        assert trained(model) == set(names) - set().union(*hits.values())


def test_a_pattern_that_matches_nothing_is_reported_with_what_there_is(bert):
    told = mistake(bert(labels=True), freeze=["bert.embeddings", "bert.encodr", "head"])
    glob = "a pattern is a glob such as bert.encoder.layer.[0-3], no regular expression"
    there = f"(names begin with: bert.embeddings, bert.encoder, bert.pooler, classifier; {glob})"
    assert told.splitlines() == [
        f"model.freeze: 'bert.encodr' matches no parameter {there}",
        f"model.freeze: 'head' matches no parameter {there}",
    ]


def test_to_freeze_everything_is_refused(bert):
    there = "(names begin with: bert.embeddings, bert.encoder, bert.pooler, classifier)"
    assert mistake(bert(labels=True), freeze=["bert", "classifier"]) == (
        f"model.freeze: nothing is left to train {there}"
    )


def test_the_note_says_what_is_frozen_and_what_trains(bert):
    model = bert(labels=True)
    count = sum(p.numel() for p in model.parameters())
    _, notes = adapt(model, freeze=["bert"])
    tensors = len(list(model.parameters()))
    assert notes == [
        f"frozen: {tensors - 2} of {tensors} tensors ({count - 51:,} of {count:,} parameters); "
        "trained: classifier.weight, classifier.bias"
    ]
    assert adapt(bert())[1] == []


def test_new_weights_that_are_frozen_are_reported(bert):
    _, notes = adapted(bert(labels=True), settings(freeze=["bert"]), ["bert.pooler.dense.bias", "classifier.bias"])
    assert notes[1:] == ["new, and frozen as they were drawn: bert.pooler.dense.bias"]


def test_what_a_freeze_matched_is_known_of_the_adapted_model_too(bert):
    config = settings(freeze=["bert.pooler"], adapter={"kind": "lora", "targets": ["bert.pooler.dense"]})
    model, _ = adapted(bert(labels=True), config)
    found = _adaptation.frozen(config, [name for name, p in model.named_parameters() if not p.requires_grad])
    assert found == ["bert.pooler.dense.base_layer.weight", "bert.pooler.dense.base_layer.bias"]


def test_after_the_step_that_is_named_everything_trains(bert):
    made = settings(freeze=["bert"], unfreeze_at=3, adapter={"kind": "lora"})
    assert [made.at(step).freeze for step in (0, 2, 3, 9)] == [["bert"], ["bert"], [], []]
    later = made.at(3)
    assert (later.unfreeze_at, later.adapter) == (None, made.adapter)
    assert settings(**later.model_dump()) == later
    assert settings(freeze=["bert"]).at(10**9).freeze == ["bert"]


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"unfreeze_at": 3}, "nothing is frozen"),
        ({"unfreeze_at": 0, "freeze": ["a"]}, "greater than 0"),
        ({"adapter": {"r": 2}}, "field required"),
        ({"adapter": {"kind": "lora", "r": 0}}, "greater than 0"),
        ({"adapter": {"kind": "lora", "dropout": 1.0}}, "less than 1"),
        ({"batch_norm": "off"}, "'frozen' or 'group'"),
    ],
    ids=str,
)
def test_mistakes_that_are_found_without_a_model(keys, what):
    with pytest.raises(ValidationError, match=what):
        settings(**keys)


# Adapters


def sized(kind):
    """Keys without which peft finds a kind too large for a tiny model."""
    small = {
        "miss": {"r": 2},
        "psoft": {"r": 2},
        "fourierft": {"n_frequency": 16},
        "c3a": {"block_size": 4},
        "road": {"group_size": 4},
    }
    small |= {"waveft": {"n_frequency": 16}, "adalora": {"total_step": 9}, "ia3": {"feedforward_modules": []}}
    return small.get(kind, {})


@pytest.mark.parametrize("kind", sorted(_peft.kinds()))
def test_every_adapter_is_made_without_weights_and_merged_into_what_it_computes(bert, kind):
    keys = {"kind": kind, "targets": ["query", "value"], **sized(kind)}
    with torch.device("meta"):
        empty, _ = adapt(bert(labels=True), adapter=keys)
    torch.manual_seed(0)
    model, _ = adapt(bert(labels=True).eval(), adapter=keys)
    assert [(n, p.shape) for n, p in empty.named_parameters()] == [(n, p.shape) for n, p in model.named_parameters()]
    with torch.no_grad():
        for parameter in model.bert.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    before = model(input_ids=IDS).logits
    merged = plain(copy.deepcopy(model))
    assert [n for n, _ in merged.named_parameters()] == [n for n, _ in bert(labels=True).named_parameters()]
    torch.testing.assert_close(merged(input_ids=IDS).logits, before, rtol=1e-5, atol=1e-5)
    assert trained(merged) == {name for name, _ in merged.named_parameters()}


def test_a_new_lora_computes_what_the_model_did_and_trains_beside_the_head_alone(bert):
    base = bert(labels=True).eval()
    model, notes = adapt(copy.deepcopy(base), adapter={"kind": "lora", "r": 2, "alpha": 8, "dropout": 0.1})
    model.eval()
    assert type(model) is type(base)
    assert torch.equal(model(input_ids=IDS).logits, base(input_ids=IDS).logits)
    assert {name for name in trained(model) if "lora" not in name} == {"classifier.weight", "classifier.bias"}
    assert notes[0] == "lora on 4 layers: query, value"
    layer = model.bert.encoder.layer[0].attention.self.query
    assert (layer.r["default"], layer.lora_alpha["default"], layer.lora_dropout["default"].p) == (2, 8, 0.1)


def test_weights_that_no_checkpoint_had_train_beside_an_adapter(bert):
    model, _ = adapted(bert(labels=True), settings(adapter={"kind": "lora"}), ["bert.pooler.dense.weight"])
    assert "bert.pooler.dense.weight" in trained(model)
    assert "bert.pooler.dense.bias" not in trained(model)


def test_an_adapter_and_what_is_frozen_hold_both(bert):
    model, _ = adapt(bert(labels=True), adapter={"kind": "lora"}, freeze=["classifier.bias", "bert"])
    assert {name for name in trained(model) if "lora" not in name} == {"classifier.weight"}
    assert any("lora" in name for name in trained(model))


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (["bert.encoder.layer.0.attention.self.key"], {"encoder.layer.0.attention.self.key"}),
        (["layer.1.output.dense"], {"encoder.layer.1.output.dense"}),
        (r".*\.1\..*query", {"encoder.layer.1.attention.self.query"}),
        ("all-linear", None),
    ],
    ids=str,
)
def test_targets_are_the_ends_of_names_or_one_expression(bert, targets, layers):
    model, _ = adapt(bert(labels=True), adapter={"kind": "lora", "targets": targets})
    found = {name for name, module in model.bert.named_modules() if hasattr(module, "base_layer")}
    linear = {name for name, m in bert(labels=True).bert.named_modules() if isinstance(m, torch.nn.Linear)}
    assert found == (layers or linear)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"kind": "lara"}, "model.adapter.kind: unknown kind 'lara' (did you mean lora?)"),
        ({"kind": "lora", "alfa": 2}, "model.adapter.alfa: unknown key of LoraConfig (did you mean alpha?)"),
        ({"kind": "ia3", "r": 2}, "model.adapter.r: unknown key of IA3Config (there are: exclude_modules, "),
        (
            {"kind": "lora", "targets": ["query", "qury", "q"]},
            "model.adapter.targets: BertModel has no layer qury, q (there are: dense, key, query, value)",
        ),
        ({"kind": "lora", "targets": ["LayerNorm"]}, "model.adapter.targets: Target module LayerNorm"),
        ({"kind": "lora", "targets": "no.*"}, "model.adapter.targets: Target modules no.* not found"),
        (
            {"kind": "ia3", "targets": ["query"], "feedforward_modules": ["key"]},
            "model.adapter.targets: `feedforward_mod",
        ),
        ({"kind": "adalora"}, "model.adapter: AdaLoRA does not work when `total_step` is None"),
    ],
    ids=str,
)
def test_mistakes_in_an_adapter_are_reported(bert, keys, told):
    assert mistake(bert(labels=True), adapter=keys).startswith(told)


def test_an_unknown_adapter_is_reported_with_all_there_are(bert):
    told = mistake(bert(), adapter={"kind": "zzzzz"})
    assert all(kind in told for kind in ("lora", "ia3", "adalora", "loha", "lokr", "oft"))


def test_a_rank_that_is_not_allocated_anew_is_reported(bert):
    _, notes = adapt(bert(), adapter={"kind": "adalora", "total_step": 9, "r": 3})
    assert notes[0] == "adalora on 4 layers: query, value (each keeps the rank that it begins with)"


# BatchNorm


class Sub(torch.nn.Module):
    """Both kinds of BatchNorm."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Sequential(torch.nn.Conv2d(3, 48, 3), torch.nn.BatchNorm2d(48))
        self.last = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48 * 36, 8), torch.nn.BatchNorm1d(8))

    def forward(self, x):
        return self.last(self.first(x))


def test_a_batch_norm_that_trains_is_refused(resnet):
    assert mistake(copy.deepcopy(resnet)) == MIXES
    assert mistake(Sub(), freeze=["first"]) == MIXES
    assert mistake(Sub(), freeze=["first.1.weight", "last"]) == MIXES
    assert mistake(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2, affine=False))) == MIXES


def test_a_batch_norm_without_statistics_cannot_be_frozen():
    told = mistake(torch.nn.Sequential(torch.nn.BatchNorm1d(2, track_running_stats=False)), batch_norm="frozen")
    assert told == "model.batch_norm: keeps no statistics that could stay as they are (group)"


@pytest.mark.parametrize(
    "keys",
    [{"freeze": ["resnet"]}, {"batch_norm": "frozen"}, {"adapter": {"kind": "lora", "targets": ["convolution"]}}],
    ids=str,
)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_frozen_batch_norm_keeps_its_statistics_and_knows_no_training(resnet, keys, again):
    model, _ = adapt(copy.deepcopy(resnet), **keys)
    model = again(model).train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    assert model.training
    x = torch.randn(3, 3, 32, 32)
    whole, alone = model(pixel_values=x).logits, model(pixel_values=x[:1]).logits
    torch.testing.assert_close(whole[:1], alone)
    before = dict(resnet.named_buffers())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not any(norm is other for norm, other in zip(norms, resnet.modules(), strict=False))


def test_statistics_of_which_nothing_was_learnt_are_reported(resnet):
    told = "batch norms normalise nothing, with frozen means of 0 and variances of 1 (batch_norm: group does): "
    assert adapt(Sub(), batch_norm="frozen")[1] == [f"{told}first.1, last.2"]
    assert adapt(Sub(), freeze=["first", "last.2"])[1][0] == f"{told}first.1, last.2"
    learnt = copy.deepcopy(resnet)
    for norm in learnt.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.fill_(0.1)
    assert adapt(learnt, batch_norm="frozen")[1] == []


def test_frozen_statistics_leave_the_scale_to_train(resnet):
    model, _ = adapt(copy.deepcopy(resnet), batch_norm="frozen")
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_a_grouped_norm_sees_one_sample_at_a_time():
    torch.manual_seed(0)
    base = Sub()
    weights = {name: torch.randn_like(p) for name, p in base.named_parameters()}
    base.load_state_dict(weights, strict=False)
    model, _ = adapt(base, batch_norm="group")
    model.train()
    assert (model.first[1].num_groups, model.last[2].num_groups) == (24, 1)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(model(x)[:1], model(x[:1]))
    assert model(x).std() > 0


def test_groups_remember_themselves_in_the_configuration(resnet):
    model, _ = adapt(copy.deepcopy(resnet), batch_norm="group")
    assert model.config.batch_norm == "group"
    assert not any(_adaptation._is_batch_norm(module) for module in model.modules())


def test_a_plain_model_is_as_it_was(resnet):
    model, _ = adapt(copy.deepcopy(resnet), freeze=["resnet"], adapter={"kind": "lora", "targets": ["convolution"]})
    model = plain(model)
    assert trained(model) == {name for name, _ in resnet.named_parameters()}
    assert all(torch.equal(tensor, resnet.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert all(norm.training for norm in model.train().modules())


def test_a_torch_free_process_reads_every_key():
    code = (
        "import sys; from launcher.config import kinds\n"
        "for kind in kinds.available('models'): kinds.module('models', kind)\n"
        "from launcher.models.small import Config\n"
        "Config(type='mlp', freeze=['a'], adapter={'kind': 'lora', 'r': 2}, batch_norm='group')\n"
        "sys.exit(bool({'torch', 'peft', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
