"""The results of a step are read while the next one computes, and what is written does not show it."""

from pathlib import Path

import support
from support import ranks, strategy_steps

from launcher.storage.run_dir import RunDir


def trained(process, folder, bad=()):
    """Train to the end; the order in which steps were begun and finished, evaluations and saves."""
    from launcher.train import loop
    from launcher.train.gradient import Gradient

    run = strategy_steps.build(process, folder, {"kind": "single"})
    events, begin, results, save, evaluate = [], loop.begin_step, Gradient.results, loop.save, loop.evaluate
    if bad:
        poison(run, bad)

    def noted(name, call):
        def calls(*arguments):
            events.append(name if name in ("read", "evaluate") else f"{name} {run.progress.step}")
            return call(*arguments)

        return calls

    loop.begin_step, Gradient.results = noted("begin", begin), noted("read", results)
    loop.save, loop.evaluate = noted("save", save), noted("evaluate", evaluate)
    try:
        loop.train(replace_sinks(run, events))
    finally:
        loop.begin_step, Gradient.results, loop.save, loop.evaluate = begin, results, save, evaluate
    return events


def replace_sinks(run, events):
    from dataclasses import replace

    class Sink:
        def write(self, record):
            events.append(f"record {record['step']}" + (" eval" if "eval/loss" in record else ""))

    return replace(run, sinks=[Sink()])


def poison(run, bad):
    import torch

    parameter = next(p for p in run.engine.module.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.nan if run.progress.step in bad else 0.0))


def recipe(name, **changes):
    return ranks.ready(support.write(support.mlm(name, **changes), f"{name}.yaml"))


def test_a_step_is_read_after_the_next_is_begun_and_before_anything_that_needs_it(workspace):
    folder = recipe("order", train__steps=5, checkpoint__every=3, evaluate__every=2)
    events = ranks.on_ranks(1, trained, folder)[0]
    assert events == [
        "begin 0", "begin 1", "read", "record 1", "read", "record 2", "evaluate", "record 2 eval",
        "begin 2", "read", "record 3", "save 3", "begin 3", "read", "record 4", "evaluate", "record 4 eval",
        "begin 4", "read", "record 5", "evaluate", "record 5 eval", "save 5",
    ]  # fmt: skip


def test_a_checkpoint_counts_the_steps_skipped_until_then(workspace):
    folder = recipe("counted", train__steps=4, checkpoint__every=2, checkpoint__keep=3)
    ranks.on_ranks(1, trained, folder, (1, 3))
    states = {saved.step: saved.state for saved in RunDir(Path(folder)).whole()}
    assert {step: (state["skipped"], state["skipped_in_a_row"]) for step, state in states.items()} == {
        2: (1, 1),
        4: (2, 1),
    }
