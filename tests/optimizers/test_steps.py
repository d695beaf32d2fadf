"""Optimisers are torch's own, over groups of parameters that are treated alike."""

import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertForMaskedLM

from launcher.config import plugins
from launcher.optimizers import adafactor, adam, adamw, muon, sgd
from launcher.optimizers._parameter_groups import depths

SGD, Adam, AdamW, Adafactor, Muon = sgd.Config, adam.Config, adamw.Config, adafactor.Config, muon.Config


def build(config, model):
    return plugins.optimizer(config).for_model(model)


def bert(layers=2):
    """Of the names and the order of the real one."""
    torch.manual_seed(1)
    return BertForMaskedLM(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=12)
    )


def mlp():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 2))


def scales(model, **keys):
    """The scale of each parameter's group by name."""
    names = {p: name for name, p in model.named_parameters()}
    groups = build(AdamW(lr=0.1, **keys), model).param_groups
    return {names[p]: group["scale"] for group in groups for p in group["params"]}


# Groups


def test_biases_and_norms_do_not_decay_and_the_frozen_are_left_out():
    model = mlp()
    model[2].weight.requires_grad_(False)
    groups = build(AdamW(lr=0.1, weight_decay=0.3), model).param_groups
    assert [(len(g["params"]), g["weight_decay"], g["fused"]) for g in groups] == [(1, 0.3, True), (4, 0.0, True)]


def test_each_layer_has_a_share_of_the_rate_of_the_next():
    """Depth 0 is before the layers, n + 1 after them."""
    found = scales(bert(layers=3), layer_decay=0.5)
    assert {found[name] for name in found if ".embeddings." in name} == {0.5**4}
    for number in range(3):
        assert {found[name] for name in found if f".layer.{number}." in name} == {0.5 ** (3 - number)}
    assert {found[name] for name in found if name.startswith("cls.")} == {1.0}
    assert len(found) == len(list(bert(layers=3).parameters()))


def test_without_layers_or_without_decay_all_have_the_same_rate():
    assert set(scales(mlp(), layer_decay=0.5).values()) == {1.0}
    assert set(scales(bert()).values()) == set(scales(bert(), layer_decay=1.0).values()) == {1.0}
    assert len(build(AdamW(lr=0.1), bert()).param_groups) == 2


def test_layers_are_below_a_head_that_is_not_there_too():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ModuleList([torch.nn.Linear(2, 2)]))
    expected = {"0.weight": 0.25, "0.bias": 0.25, "1.0.weight": 0.5, "1.0.bias": 0.5}
    assert scales(model, layer_decay=0.5) == expected


def test_what_stands_between_layers_has_the_depth_of_the_next():
    listed, last = torch.nn.ModuleList([torch.nn.Linear(2, 2)]), torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), listed, torch.nn.LayerNorm(2), last, torch.nn.Linear(2, 1))
    assert list(depths(model).values()) == [0, 0, 1, 1, 2, 2, 2, 2, 3, 3]


# Steps


def walked(optimizer, model, steps=4):
    """The weights after some steps on made-up gradients."""
    draw = torch.Generator().manual_seed(2)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=draw)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def parted(model, decay):
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


BETAS = {"betas": (0.8, 0.9), "eps": 1e-6}
OWN = [
    (SGD(lr=0.1), lambda g: torch.optim.SGD(g, lr=0.1)),
    (SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.2),
     lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, nesterov=True)),
    (SGD(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.2),
     lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, dampening=0.5)),
    (Adam(lr=0.1, weight_decay=0.2, **BETAS), lambda g: torch.optim.Adam(g, lr=0.1, fused=True, **BETAS)),
    (AdamW(lr=0.1, weight_decay=0.2, **BETAS), lambda g: torch.optim.AdamW(g, lr=0.1, fused=True, **BETAS)),
    (Adafactor(lr=0.1, weight_decay=0.2, d=1.5, eps=0.01, beta2_decay=-0.6),
     lambda g: torch.optim.Adafactor(g, lr=0.1, d=1.5, eps=(None, 0.01), beta2_decay=-0.6)),
]  # fmt: skip


@pytest.mark.parametrize(("config", "own"), OWN, ids=[str(number) + c.kind for number, (c, _) in enumerate(OWN)])
def test_steps_are_torchs_own_to_the_last_bit(config, own):
    ours, theirs = mlp(), mlp()
    expected = walked(own(parted(theirs, config.weight_decay)), theirs)
    assert torch.equal(walked(build(config, ours), ours), expected)


def test_a_step_is_that_of_the_paper():
    """Loshchilov and Hutter, 2019, algorithm 2, at the first step: m = g, v = g^2 after the bias correction."""
    weight, gradient = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[0.5, 0.1]], dtype=torch.float64)
    model = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    model.weight.data.copy_(weight)
    model.weight.grad = gradient.clone()
    build(AdamW(lr=0.1, weight_decay=0.3), model).step()
    expected = weight * (1 - 0.1 * 0.3) - 0.1 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(model.weight.data, expected, rtol=1e-12)


def test_muon_is_for_the_matrices_of_the_layers_and_adamw_for_all_else():
    ours, theirs = bert(), bert()
    made = build(Muon(lr=0.1, adam_lr=0.02, weight_decay=0.2, adjust="original"), ours)
    for group in made.param_groups:
        group["lr"] = 0.1 * group["scale"]
    matrices = [p for name, p in theirs.named_parameters() if ".layer." in name and p.ndim == 2]
    rest = [p for p in theirs.parameters() if all(p is not m for m in matrices)]
    muon = torch.optim.Muon(matrices, lr=0.1, weight_decay=0.2, adjust_lr_fn="original")
    others = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.2},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(others, lr=0.1 * (0.02 / 0.1), fused=True)
    assert len(matrices) == 12 and len(rest) == len(list(ours.parameters())) - 12

    class Both:
        def step(self):
            muon.step()
            adam.step()

    assert torch.equal(walked(made, ours), walked(Both(), theirs))
    names = {name: sorted(made.state[p]) for name, p in ours.named_parameters()}
    assert names["bert.encoder.layer.0.output.dense.weight"] == ["momentum_buffer"]
    assert names["bert.embeddings.word_embeddings.weight"] == ["exp_avg", "exp_avg_sq", "step"]
    made.zero_grad()
    assert all(p.grad is None for p in ours.parameters())


def test_muon_without_layers_is_adamw():
    ours, theirs = mlp(), mlp()
    expected = walked(build(AdamW(lr=0.1, weight_decay=0.1), theirs), theirs)
    assert torch.equal(walked(build(Muon(lr=0.1), ours), ours), expected)


def test_a_momentum_that_was_there_before_the_first_step_changes_nothing():
    """Zeros and no steps, as a state is made where it is asked for early."""
    config, plain = SGD(lr=0.1, momentum=0.9, dampening=0.5), mlp()
    expected = walked(build(config, plain), plain)
    early = mlp()
    made = build(config, early)
    for p in early.parameters():
        made.state[p] = {"momentum_buffer": torch.zeros_like(p), "step": torch.zeros(())}
    assert torch.equal(walked(made, early), expected)
    assert {float(state["step"]) for state in made.state.values()} == {4.0}


@pytest.mark.parametrize("early", [False, True])
def test_the_first_gradient_of_what_trains_later_is_not_dampened_either(early):
    config, model = SGD(lr=0.1, momentum=0.9, dampening=0.5), torch.nn.Linear(1, 2, bias=False)
    model.later = torch.nn.Linear(1, 2, bias=False)
    made, later = build(config, model), model.later.weight
    if early:
        made.state[later] = {"momentum_buffer": torch.zeros_like(later), "step": torch.zeros(())}
    model.weight.grad = torch.ones_like(model.weight)
    made.step()
    for grad, momentum in ((2.0, 2.0), (4.0, 0.9 * 2 + 0.5 * 4)):
        later.grad = torch.full_like(later, grad)
        made.step()
        assert made.state[later]["momentum_buffer"].tolist() == [[pytest.approx(momentum)]] * 2
    assert made.state[model.weight]["momentum_buffer"].tolist() == [[pytest.approx(0.9**2 + 0.5 * 0.9 + 0.5)]] * 2


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (SGD(lr=1), []),
        (SGD(lr=1, momentum=0.9), ["momentum_buffer"]),
        (SGD(lr=1, momentum=0.9, dampening=0.1), ["momentum_buffer", "step"]),
        (Adam(lr=1), ["exp_avg", "exp_avg_sq", "step"]),
    ],
)
def test_what_is_kept_is_found_by_a_step(config, names):
    assert sorted(plugins.optimizer(config).state_names()) == names


# What is refused

NESTEROV = "nesterov needs momentum above 0 (such as 0.9), and no dampening"


@pytest.mark.parametrize(
    ("kind", "keys", "told"),
    [
        (SGD, {"nesterov": True}, NESTEROV),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, NESTEROV),
        (SGD, {"momentum": 1}, "should be less than 1"),
        (Adam, {"betas": [0.9, 1.0]}, "should be less than 1"),
        (AdamW, {"betas": [-0.1, 0.9]}, "should be greater than or equal to 0"),
        (AdamW, {"eps": 0}, "should be greater than 0"),
        (AdamW, {"layer_decay": 0}, "should be greater than 0"),
        (AdamW, {"layer_decay": 1.1}, "should be less than or equal to 1"),
        (Adafactor, {"d": 0.5}, "should be greater than or equal to 1"),
        (Adafactor, {"beta2_decay": 0.5}, "should be less than or equal to 0"),
        (Muon, {"adjust": "none"}, "should be 'original' or 'match_rms_adamw'"),
        (Muon, {"lr": 0}, "should be greater than 0"),
    ],
)
def test_what_is_no_optimiser_is_told(kind, keys, told):
    with pytest.raises(ValidationError) as error:
        kind(**{"lr": 0.1, **keys})
    assert [e["msg"] for e in error.value.errors()] == [told]
