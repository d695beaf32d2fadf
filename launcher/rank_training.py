"""Training of one rank, from a prepared run folder to the end of the run or to a stop."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

from launcher import sinks
from launcher.build import build
from launcher.config import plugins
from launcher.config.errors import UserError
from launcher.config.types import Plugin
from launcher.distributed.exit_codes import DONE
from launcher.distributed.heartbeat import Heartbeat
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.signals import StopReason
from launcher.distributed.stop_requests import StopMonitor
from launcher.prepare import run_setup
from launcher.prepare.run_setup import PreparedRun
from launcher.sinks import RunInfo, Sink, close_all
from launcher.storage import disk_full, lease, roll_backs
from launcher.storage.run_files import RollBack
from launcher.train import checkpoint, early_stopping, kernel_settings, loop, rank_errors, spikes, worst_batch
from launcher.train.training_run import Run


def train(folder: Path, group: ProcessGroup, stop: StopMonitor, heartbeat: Heartbeat | None = None) -> int:
    """Train the run of a folder that `launcher.prepare.run_setup` has written. Returns the exit code, DONE or STOPPED.

    Raises UserError on all ranks, so that no rank waits for one that has left.
    """
    stop.training = True
    run = run_setup.load(folder)
    with disk_full.reported(folder), contextlib.ExitStack() as held:
        problems, steps, reason = group.broadcast(_take_lease(run, held, stop) if group.rank == 0 else None)
        if problems:
            stop.agree(reason)
            raise UserError(problems)
        run = dataclasses.replace(run, resume=run.folder.saved(steps[-1]) if steps else None)
        heartbeat = heartbeat or Heartbeat()
        while True:
            with rank_errors.explained(run, group, heartbeat):
                end = _train_part(run, group, stop, heartbeat)
            if end.spike is not None:
                step = _roll_back(run, group, stop, end.spike)
            elif end.step is not None:
                step = end.step  # frozen parameters train from here on
            else:
                return end.code
            run = dataclasses.replace(run, resume=run.folder.saved(step) if step else None)


class _PartEnd(NamedTuple):
    """How a part of a training ended. `step`: where training continues; None: it does not. `spike`: training goes back
    because of it."""

    code: int
    step: int | None = None
    spike: RollBack | None = None


def _take_lease(
    run: PreparedRun, held: contextlib.ExitStack, stop: StopMonitor
) -> tuple[list[str], list[int], StopReason]:
    """Take the right to write, as rank 0. Returns the problems, the steps of the complete checkpoints, and, if there
    are problems, the reason why all ranks leave."""
    try:
        stop.lease = held.enter_context(run_setup.hold(run.folder))
        roll_backs.remove_abandoned(run.folder)  # a killed start may have left some
        run.folder.mend_metrics()  # a killed start may have left half a line, if a scheduler began this one
    except lease.LeaseLost as error:
        return [str(error)], [], StopReason.REPLACED
    except UserError as error:
        return [str(problem) for problem in error.problems], [], StopReason.NONE
    return [], [saved.step for saved in run.folder.whole()], StopReason.NONE


def _roll_back(run: PreparedRun, group: ProcessGroup, stop: StopMonitor, spike: RollBack) -> int:
    """Record that steps are left out, remove the checkpoints that have trained them, and return the step at which
    training continues. All ranks call it.

    It is the newest checkpoint before these steps; 0, the beginning: there is none. Raises SpikesStay, and RunReplaced
    if another start has taken over.
    """
    abort_after = run.recipe.train.abort_after
    count, step = group.broadcast(_go_back(run, stop, spike) if group.rank == 0 else None)
    if count < 0:
        raise checkpoint.RunReplaced(run.folder)
    if count >= abort_after:
        raise spikes.SpikesStay(spikes.stay_message(count, spike.step, abort_after))
    return step


def _go_back(run: PreparedRun, stop: StopMonitor, spike: RollBack) -> tuple[int, int]:
    """Write and remove files, as rank 0. Returns the number of spikes in a row (-1: another start has taken over), and
    the step at which training continues."""
    try:
        if stop.lease is not None:
            stop.lease.check()
    except lease.LeaseLost:
        return -1, 0
    whole = [saved.step for saved in run.folder.whole()]
    step = max((step for step in whole if step < spike.first), default=0)
    known = [*roll_backs.read(run.folder), spike]
    if (count := roll_backs.in_a_row(known)) < run.recipe.train.abort_after:
        roll_backs.add(run.folder, spike)
        roll_backs.remove_abandoned(run.folder)
        sinks.warn(f"steps {spike.first} to {spike.step} are left out; training goes on from step {step}")
    return count, step


def _train_part(run: PreparedRun, group: ProcessGroup, stop: StopMonitor, heartbeat: Heartbeat) -> _PartEnd:
    """Train until the run ends, until frozen parameters begin to train, or until a spike after which training goes
    back."""
    built, notes = build(run, group, stop, run.resume)
    built = dataclasses.replace(built, heartbeat=heartbeat)
    if built.progress.step == run.recipe.model.unfreeze_at:
        notes = ["what was frozen trains from here on"]
    if group.rank == 0:
        built = dataclasses.replace(built, sinks=_open_sinks(run, built, notes))
    finished = False
    try:
        with kernel_settings.explained():
            if worst_batch.fits_by_trial(group.device):
                worst_batch.try_largest(built)
            code = loop.train(built)
        more = code == DONE and built.progress.step == built.until < built.steps
        finished = code == DONE and not more
        if group.rank == 0 and finished and built.progress.step < built.steps:
            print(early_stopping.message(built.progress.history, run.recipe.evaluate), flush=True)
        return _PartEnd(code, built.progress.step if more else None)
    except spikes.RollBackNeeded as found:
        return _PartEnd(DONE, spike=found.spike)
    except BaseException as error:
        error.add_note(f"at step {built.progress.step + 1}")
        raise
    finally:
        close_all(built.sinks, finished, failing=sys.exc_info()[0] is not None)


def _open_sinks(run: PreparedRun, built: Run, notes: list[str]) -> list[Sink[Plugin]]:
    recipe, progress = run.recipe, built.progress
    info = RunInfo(
        name=recipe.name, folder=run.folder.path, recipe=recipe.model_dump(mode="json"), steps=built.steps,
        start=progress.step, seconds=progress.seconds, tokens=progress.tokens, equation=run.plan.equation, notes=notes,
        skipped=progress.skipped, overflows=progress.overflows,
    )  # fmt: skip
    return [plugins.sink(sink, info) for sink in recipe.sinks]
