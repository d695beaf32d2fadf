"""Every optimiser under every strategy that takes it: the way of the single process, and a resume to the last bit."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import support
from ruamel.yaml import YAML
from support import ranks, strategy_steps

from launcher.config import kinds
from launcher.config.recipe import Recipe
from launcher.plan import layout
from launcher.plan.model_spec import Architecture

LR = 1.0e-2
OPTIMIZERS = {
    "sgd": {"kind": "sgd"},
    "momentum": {"kind": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "dampened": {"kind": "sgd", "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "layer_decay": 0.8},
    "adam": {"kind": "adam", "weight_decay": 0.1},
    "adamw": {"kind": "adamw", "layer_decay": 0.5},
    "adafactor": {"kind": "adafactor"},
    "muon": {"kind": "muon", "layer_decay": 0.8},
}
SINGLE, DDP, FSDP, ZERO = {"kind": "single"}, {"kind": "ddp"}, {"kind": "fsdp"}, {"kind": "deepspeed"}
TENSOR = {**FSDP, "tensor_parallel": 2}
STRATEGIES = {
    "ddp": DDP,
    "fsdp": FSDP,
    "tensor": TENSOR,
    **{f"zero{stage}": {**ZERO, "zero": stage} for stage in range(4)},
}
WHOLE = ("adafactor", "muon")
TRIED = {
    "sgd": ("ddp", "fsdp", "zero1"),
    "momentum": ("fsdp", "zero2"),
    "dampened": ("ddp", "tensor", "zero1", "zero3"),
    "adam": ("fsdp", "zero1"),
    "adamw": ("tensor", "zero3"),
    "adafactor": ("ddp", "zero0"),
    "muon": ("ddp", "zero0"),
}
CASES = [(optimizer, strategy) for optimizer in TRIED for strategy in TRIED[optimizer]]
MIDDLE, STEPS = 2, 3


def other(optimizer, strategy):
    """Another strategy that takes this optimiser: the one after it."""
    able = TRIED[optimizer]
    return able[(able.index(strategy) + 1) % len(able)]


def straight(process, cases):
    """The steps alone, and where they lead."""
    return [_state(process, *_steps(process, *case)) for case in cases]


def _steps(process, folder, strategy):
    run = strategy_steps.build(process, folder, strategy)
    return run, strategy_steps.take(run, STEPS)


def _state(process, run, records):
    state = strategy_steps.whole(run.engine.state_dict())
    return (state, records) if process.rank == 0 else None


def interrupted(process, cases):
    return [_interrupted(process, *case) for case in cases]


def _interrupted(process, folder, strategy, another):
    """A run that is saved in the middle; what goes on from there, and from there under another strategy. Where the
    first step is another than the next, it is saved before that too, and goes on from there."""
    from launcher.storage.run_dir import RunDir
    from launcher.train import loop

    told = {}
    run = strategy_steps.build(process, folder, strategy)
    begins = run.recipe.optimizer.kind == "sgd" and run.recipe.optimizer.dampening > 0
    if begins:
        loop.save(run)
    strategy_steps.take(run, MIDDLE)
    told["saved"] = strategy_steps.whole(run.engine.state_dict())
    loop.save(run)
    told["records"] = strategy_steps.take(run, STEPS - MIDDLE)
    told["last"] = strategy_steps.whole(run.engine.state_dict())
    goes_on = [("resumed", strategy, MIDDLE), ("moved", another, MIDDLE)]
    for name, chosen, step in [*goes_on, ("anew", strategy, 0)] if begins else goes_on:
        run = strategy_steps.build(process, folder, chosen, resume=RunDir(folder).saved(step))
        told[f"{name}.begin"] = strategy_steps.whole(run.engine.state_dict()) if name == "moved" else {}
        strategy_steps.take(run, STEPS - step)
        told[name] = strategy_steps.whole(run.engine.state_dict())
    return told if process.rank == 0 else None


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """By optimiser what the single process makes, and by case what two ranks make."""
    place, before = support.corpus(tmp_path_factory.mktemp("optimizers")), Path.cwd()
    os.chdir(place)
    sizes = {"model__num_hidden_layers": 1, "train__global_batch": 8, "train__max_tokens": None}
    recipe = support.mlm(**sizes, train__steps=STEPS, checkpoint={"keep": 9})
    folder = place / ranks.ready(support.write(recipe))

    def copy(name, optimizer):
        made, yaml = Path(shutil.copytree(folder, place / "copies" / name)), YAML(typ="safe")
        resolved = yaml.load(made / "recipe.yaml")
        resolved["optimizer"] = {**OPTIMIZERS[optimizer], "lr": LR}
        yaml.dump(resolved, made / "recipe.yaml")
        return made

    alone = [(copy(name, name), SINGLE) for name in OPTIMIZERS]
    single = dict(zip(OPTIMIZERS, ranks.on_ranks(1, straight, alone)[0], strict=True))
    spread = [(copy(f"{o}-{s}", o), STRATEGIES[s], STRATEGIES[other(o, s)]) for o, s in CASES]
    told = dict(zip(CASES, ranks.on_ranks(2, interrupted, spread)[0], strict=True))
    os.chdir(before)
    return single, told


NAMED = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case))


def same(there, here):
    assert there.keys() == here.keys()
    for name, array in there.items():
        assert array.tobytes() == here[name].tobytes(), name


def near(there, here, optimizer):
    """Sums of another order differ by some of fp32's unit roundoff (6e-8); Muon makes its updates in bf16, where some
    numbers are then rounded to the other side (2^-8)."""
    assert {n: a.shape for n, a in there.items()} == {n: a.shape for n, a in here.items()}
    rel = 1e-4 if optimizer == "muon" else 1e-5
    assert strategy_steps.apart(there, here, "model.") < rel
    if any(".momentum_buffer" in name for name in there):
        assert strategy_steps.apart(there, here, ".momentum_buffer") < 20 * rel


@NAMED
def test_it_walks_the_way_of_the_single_process(walked, case):
    single, told = walked
    there, records = single[case[0]]
    near(there, told[case]["last"], case[0])
    for alone, here in zip(records[MIDDLE:], told[case]["records"], strict=True):
        assert here["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert here["lr"] == alone["lr"] == LR


@NAMED
def test_a_resume_is_the_run_that_was_never_stopped_to_the_last_bit(walked, case):
    told = walked[1][case]
    same(told["last"], told["resumed"])
    same(told["last"], told.get("anew", told["last"]))


@NAMED
def test_a_checkpoint_goes_on_under_another_strategy(walked, case):
    told = walked[1][case]
    same(told["saved"], told["moved.begin"])
    near(told["last"], told["moved"], case[0])


def test_the_optimisers_differ_and_keep_what_they_say(walked):
    """Weights that an optimiser moved, and how many numbers it keeps for each."""
    single, _ = walked
    weights = {name: state["model.cls.predictions.bias"].tobytes() for name, (state, _) in single.items()}
    assert len(set(weights.values())) == len(OPTIMIZERS)
    for name, (state, _) in single.items():
        config = Recipe.model_validate(support.mlm(optimizer={**OPTIMIZERS[name], "lr": LR})).optimizer
        trained = [n.removeprefix("model.") for n in state if n.startswith("model.")]
        layers = sum(state[f"model.{n}"].size for n in trained if ".layer." in n)
        total = sum(state[f"model.{n}"].size for n in trained)
        kept = sum(a.size for n, a in state.items() if n.startswith("optimizer.") and not n.endswith(".step"))
        assert kept / total == pytest.approx(config.moments(layers / total), abs=0.3), name
        assert all(np.isfinite(array).all() for array in state.values())


@pytest.mark.parametrize("optimizer", WHOLE)
@pytest.mark.parametrize(
    ("strategy", "instead"),
    [
        (FSDP, "ddp"),
        (TENSOR, "ddp"),
        ({**DDP, "tensor_parallel": 2}, "tensor_parallel: 1"),
        *(({**ZERO, "zero": stage}, "ddp") for stage in (1, 2, 3)),
    ],
)
def test_what_looks_at_whole_matrices_is_refused_where_they_are_dealt(optimizer, strategy, instead):
    recipe = Recipe.model_validate(support.mlm(strategy=strategy, optimizer={"kind": optimizer, "lr": 1}))
    shape = Architecture(name="tiny", parameters=10, trained=10, buffers=0, heads=2)
    (problem,) = layout.refusals(recipe, shape)
    what = f"{optimizer} looks at whole matrices, of which a rank has a piece here (take {instead}, or adamw)"
    assert (problem.key, problem.what) == ("optimizer.kind", what)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_what_is_elementwise_is_taken_by_every_layout(kind):
    recipe = Recipe.model_validate(support.mlm(optimizer={"kind": kind, "lr": 1}))
    for name in kinds.available("strategies"):
        strategy = kinds.module("strategies", name).Strategy
        for config in strategy.layouts(2):
            assert strategy(config).refusals(recipe, 2) == []
