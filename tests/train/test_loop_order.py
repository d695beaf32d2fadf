"""The results of a step are read while the next one computes, and what is written does not show it."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import support
from support import ranks, strategy_steps

from launcher.storage.run_dir import RunDir


class Told:
    """A sink that keeps the records, and what it was told in order with other events. `measured`: of rank 0."""

    takes_reports = False

    def __init__(self, events, measured):
        self.events, self.measured, self.records = events, measured, []

    def write(self, record):
        self.events.append(f"record {record['step']}" + (" eval" if "eval/loss" in record else ""))
        assert "loss" not in record or record.get("tokens_per_second", 0) > 0 or not self.measured
        self.records.append({k: v for k, v in record.items() if k not in ("seconds", "waited", "tokens_per_second")})


def train(process, folder, unread, bad=(), stop=None):
    """Train to the end, with so many steps unread while the next begins, as on an accelerator. Returns the order of
    what happens, the records and the exit code. `bad`: steps without a finite gradient; `stop`: the last rank is asked
    to stop before this step."""
    from launcher.distributed.signals import StopReason
    from launcher.train import loop
    from launcher.train.gradient import Gradient

    run, events = strategy_steps.build(process, folder, {"kind": "ddp"}), []
    run = replace(run, sinks=[told := Told(events, process.rank == 0)])
    poison(run, bad)

    def noted(owner, name, event):
        call = getattr(owner, name)
        return patch.object(owner, name, lambda *given: (events.append(event()), call(*given))[1])

    def requested():
        asked = stop is not None and process.rank == process.world - 1 and run.progress.step >= stop
        return StopReason.STOP if asked else StopReason.NONE

    with (
        patch.object(loop, "_unread", lambda run: unread),
        patch.object(run.stop, "requested", requested),
        noted(loop, "begin_step", lambda: f"begin {run.progress.step + 1}"),
        noted(loop, "begin_save", lambda: f"save {run.progress.step}"),
        noted(loop, "save", lambda: f"save {run.progress.step}"),
        noted(loop, "evaluate", lambda: f"evaluate {run.progress.step}"),
        noted(Gradient, "results", lambda: "read"),
    ):
        code = loop.train(run)
    return events, told.records, code


def poison(run, bad):
    import torch

    parameter = next(p for p in run.engine.module.parameters() if p.requires_grad)
    parameter.register_hook(lambda g: torch.full_like(g, torch.nan) if run.progress.step in bad else g)


def recipe(name, **changes):
    return ranks.ready(support.write(support.mlm(name, **changes), f"{name}.yaml"))


def test_a_step_is_read_after_the_next_is_begun_and_before_anything_that_needs_it(workspace):
    folder = recipe("order", train__steps=5, checkpoint__every=3, evaluate__every=2)
    events, records, _ = ranks.on_ranks(1, train, folder, 1)[0]
    assert events == [
        "begin 1", "begin 2", "read", "record 1", "read", "record 2", "evaluate 2", "record 2 eval",
        "begin 3", "read", "record 3", "save 3", "begin 4", "read", "record 4", "evaluate 4", "record 4 eval",
        "begin 5", "read", "record 5", "evaluate 5", "record 5 eval", "save 5",
    ]  # fmt: skip
    again = recipe("again", train__steps=5, checkpoint__every=3, evaluate__every=2)
    assert ranks.on_ranks(1, train, again, 0)[0][1] == records


def test_a_checkpoint_counts_the_steps_skipped_until_then(workspace):
    folder = recipe("counted", train__steps=4, checkpoint__every=2, checkpoint__keep=3)
    _, records, _ = ranks.on_ranks(1, train, folder, 1, (1, 3))[0]
    assert [record["skipped"] for record in records if "loss" in record] == [0, 1, 1, 2]
    states = [saved.state for saved in RunDir(Path(folder)).whole()]
    assert [(s["step"], s["skipped"], s["skipped_in_a_row"]) for s in states] == [(2, 1, 1), (4, 2, 1)]


def test_all_ranks_stop_at_the_same_step_with_everything_written(workspace):
    from launcher.distributed.exit_codes import STOPPED

    folder = recipe("stopped", train__steps=6)
    for events, records, code in ranks.on_ranks(2, train, folder, 1, (), 3):
        assert code == STOPPED
        assert events[-3:] == ["read", "record 3", "save 3"]
        assert [record["step"] for record in records] == [1, 2, 3]
    assert [saved.step for saved in RunDir(Path(folder)).whole()] == [3]
