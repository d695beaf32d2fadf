"""What every strategy promises, over every kind found."""

import numpy as np
import pytest
import ranks
from pydantic import ValidationError

from launcher.config import kinds

KINDS = kinds.available("strategies")


def accepted(kind):
    """The rank counts, of 1 and 2, that a strategy takes."""
    found = kinds.module("strategies", kind)
    check = getattr(found, "check", lambda config, world: None)
    return [world for world in (1, 2) if check(found.Config(kind=kind), world) is None]


def session(process, kind):
    """A step on shares of one batch in two micro-batches, between two looks at the state."""
    import torch

    from launcher.config.recipe import AdamW
    from launcher.run import optim

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 1)).double()
    batch, fresh = torch.randn(8, 4, dtype=torch.float64), [p.detach().clone() for p in model.parameters()]
    found = kinds.module("strategies", kind)
    optimizer = optim.adamw(AdamW(lr=0.1), model)
    engine = found.wrap(found.Config(kind=kind), model, optimizer, process, 0.5)
    before = engine.state_dict()
    primed = all(p.detach().equal(q) for p, q in zip(model.parameters(), fresh, strict=True))
    steps = {float(v) for name, v in before.items() if name.endswith(".step")}
    share = batch.chunk(process.world)[process.rank].chunk(2)
    for number, micro in enumerate(share, start=1):
        with engine.accumulating(last=number == 2) as module:
            engine.backward(module(micro).square().sum() * process.world / 8)
    norm = engine.step(lr=0.1)
    cleared = all(p.grad is None for p in model.parameters())
    after = {name: tensor.numpy().copy() for name, tensor in engine.state_dict().items()}
    return {"primed": primed, "steps": steps, "norm": norm, "cleared": cleared, "names": sorted(before), "after": after}


def alone(process):
    return session(process, "single")


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_that_of_the_single_process(kind):
    expected = ranks.on_ranks(1, alone)[0]
    for world in accepted(kind):
        for told in ranks.on_ranks(world, session, kind):
            assert told["norm"] == pytest.approx(expected["norm"], rel=1e-12)
            assert told["names"] == expected["names"]
            for name, array in told["after"].items():
                assert np.allclose(array, expected["after"][name], rtol=1e-10), name


@pytest.mark.parametrize("kind", KINDS)
def test_looking_at_the_state_changes_no_weight_and_a_step_leaves_no_gradient(kind):
    told = ranks.on_ranks(accepted(kind)[-1], session, kind)[0]
    assert told["primed"] and told["cleared"] and told["steps"] == {0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_the_bare_model(kind):
    names = ranks.on_ranks(accepted(kind)[-1], session, kind)[0]["names"]
    assert {"model.0.weight", "optimizer.0.weight.exp_avg", "optimizer.2.bias.step"} <= set(names)
    assert all(name.startswith(("model.", "optimizer.")) and "module." not in name for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_keys_are_refused(kind):
    with pytest.raises(ValidationError, match="unknown key"):
        kinds.module("strategies", kind).Config.model_validate({"kind": kind, "shards": 2})


def test_single_is_one_process():
    assert accepted("single") == [1]
    assert accepted("ddp") == [1, 2]
