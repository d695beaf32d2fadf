"""Micro-batches that do not fit into memory are computed in smaller ones, on the same trajectory."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import support
from support import ranks, strategy_steps

from launcher.train import out_of_memory

LIMITED = """
import os, traceback
import torch
from launcher.tasks import tabular_regression

class Config(tabular_regression.Config):
    kind: str

class Fails(torch.autograd.Function):
    @staticmethod
    def forward(context, loss):
        return loss.clone()

    @staticmethod
    def backward(context, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

class Task(tabular_regression.Task):
    most, rank, where = 1000, -1, "forward"

    def loss(self, model, batch):
        loss, weight = super().loss(model, batch)
        trains = any(frame.name in ("_add_up", "_compute") for frame in traceback.extract_stack())
        if len(batch["labels"]) > self.most and trains and self.rank in (-1, int(os.environ.get("RANK", -1))):
            if self.where == "forward":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            loss = Fails.apply(loss)
        return loss, weight
"""
DDP, FSDP = {"kind": "ddp"}, {"kind": "fsdp"}


def limited(most, rank=-1, where="forward"):
    support.plugin("limited", LIMITED.replace('1000, -1, "forward"', f"{most}, {rank}, {where!r}"))


def recipe(name, max_tokens=None, **changes):
    train = {"global_batch": 24, "steps": 6, "precision": "fp64"} | ({"max_tokens": max_tokens} if max_tokens else {})
    return support.write(support.small(name, task__kind="own.limited", train=train, **changes), f"{name}.yaml")


@pytest.fixture
def plain(workspace):
    """A run that fits."""
    limited(1000)
    support.launcher("run", recipe("plain"), "--ranks", 1)


@pytest.mark.parametrize(("world", "max_tokens", "where"), [(1, None, "backward"), (2, 4, "forward")])
def test_a_rank_that_can_do_so_alone_cuts_its_micro_batches_on_the_same_trajectory(plain, world, max_tokens, where):
    limited(3, rank=world - 1 if world > 1 else -1, where=where)
    out = support.launcher("run", recipe("cut", max_tokens), "--ranks", world).stdout
    limit = 3 if world == 1 else 2
    log = Path(f"runs/cut/logs/rank{world - 1}.log").read_text()
    assert f"step 1: a micro-batch of rank {world - 1} did not fit: from now on at most {limit} tokens" in log
    assert out.count(f"did not fit into memory: from now on they have at most {limit} tokens") == 1
    support.same_run("runs/plain", "runs/cut", 1e-9)
    last = support.steps("runs/cut")[6]
    assert (last["oom"], last["max_tokens"]) == (3 if world == 1 else 1, limit)
    assert json.loads(Path("runs/cut/max_tokens.json").read_text())["max_tokens"] == limit
    assert "oom" not in support.steps("runs/plain")[6]


@pytest.mark.parametrize(("strategy", "where"), [(FSDP, "forward"), (DDP, "backward"), (DDP, "forward")])
def test_ranks_that_compute_together_start_again_with_smaller_micro_batches(plain, strategy, where):
    """No restart of the profile is needed for it."""
    limited(6, rank=1, where=where)
    done = support.launcher("run", recipe("again", strategy=strategy), "--ranks", 2)
    assert "rank 1 failed at step 1: OutOfMemory: cpu on " in done.stderr
    assert "the next start computes at most 6 tokens at a time; " in done.stderr
    assert "starting the ranks again (1 of 1)" in done.stderr
    support.same_run("runs/plain", "runs/again", 1e-9)


def test_a_micro_batch_of_one_sample_that_does_not_fit_ends_the_run_with_what_to_do(plain):
    limited(0)
    failed = support.launcher("run", recipe("hopeless"), "--ranks", 1, code=1)
    assert "out of memory, in the forward pass (it wanted 2.00 GiB more)" in failed.stderr
    assert "is one sample: try train.activation_checkpointing=layers" in failed.stderr


def trials(process, folder, strategies):
    """The state and the losses of three steps, with the trial of the largest micro-batch before them and without."""
    return [[_with_trial(process, folder, strategy, tried) for tried in (False, True)] for strategy in strategies]


def _with_trial(process, folder, strategy, tried):
    from launcher.train import worst_batch

    run = strategy_steps.build(process, folder, strategy)
    if tried:
        worst_batch.try_largest(run)
    losses = [record["loss"] for record in strategy_steps.take(run, 3)]
    return losses, strategy_steps.held(run.engine.state_dict())


@pytest.mark.parametrize("optimizer", [{"kind": "adamw", "lr": 0.01}, {"kind": "sgd", "lr": 0.01, "momentum": 0.9}])
def test_the_trial_before_the_first_step_leaves_no_trace(workspace, optimizer):
    """With dropout, to the last bit."""
    model = {"kind": "config", "type": "bert", **support.TINY, "dropout": 0.1}
    folder = ranks.ready(support.write(support.mlm("wet", model=model, optimizer=optimizer)))
    sharded = [FSDP, {"kind": "deepspeed", "zero": 3}] if optimizer["kind"] == "adamw" else []
    for world, strategies in ((1, [{"kind": "single"}]), (2, [DDP, *sharded])):
        for told in ranks.on_ranks(world, trials, folder, strategies):
            for strategy, (without, tried) in zip(strategies, told, strict=True):
                assert tried == without, strategy


def largest(process, folder):
    from launcher.train import worst_batch

    os.environ["RANK"] = str(process.rank)
    run = strategy_steps.build(process, folder, {"kind": "ddp"})
    worst_batch.try_largest(run)
    return run.batches.dataset.max_tokens, [r["loss"] for r in strategy_steps.take(run, 3)]


def test_a_trial_that_does_not_fit_on_a_rank_lowers_the_limit_of_all(plain):
    limited(3, rank=1)
    folder = ranks.ready(recipe("tried"))
    plain_losses = [record["loss"] for record in support.steps("runs/plain").values()][:3]
    for limit, losses in ranks.on_ranks(2, largest, folder):
        assert limit == 3 and losses == pytest.approx(plain_losses, rel=1e-9)
    assert json.loads(Path("runs/tried/max_tokens.json").read_text())["max_tokens"] == 3


def test_the_largest_micro_batch_is_that_of_any_rank_and_step(workspace):
    folder = ranks.ready(support.write(support.mlm("words")))
    batches = ranks.on_ranks(1, sizes, folder)[0]
    assert batches[0] == batches[1] > 0


def sizes(process, folder):
    dataset = replace(strategy_steps.build(process, folder, {"kind": "single"}).batches.dataset, world=3)
    every = [max(replace(dataset, rank=rank)[step].positions) for rank in range(3) for step in range(4)]
    return max(every), dataset.largest(range(4)).padded


@pytest.mark.parametrize(("device", "tried"), [("cuda", True), ("cpu", False)])
def test_accelerators_try_the_largest_micro_batch_before_the_first_step(device, tried):
    import torch

    from launcher.train import worst_batch

    assert worst_batch.fits_by_trial(torch.device(device)) == tried


def test_a_limit_that_is_known_is_not_looked_up_on_the_disk_at_each_step(monkeypatch):
    """The disk may fail meanwhile."""
    lowered, recorded = iter([True, False, False]), list[int]()
    monkeypatch.setattr(out_of_memory, "record", lambda run, limit: recorded.append(limit))
    run = SimpleNamespace(batches=SimpleNamespace(lower=lambda limit: next(lowered)), process=SimpleNamespace(rank=0))
    for _ in range(3):
        out_of_memory.agree(run, SimpleNamespace(max_tokens=7, out_of_memory=1))
    assert recorded == [7]
