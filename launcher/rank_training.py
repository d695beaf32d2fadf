"""Training of one rank, from a prepared run folder to the end of the run or to a stop."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

from launcher.build import build
from launcher.config import plugins
from launcher.config.errors import UserError
from launcher.config.types import Plugin
from launcher.distributed.exit_codes import DONE
from launcher.distributed.heartbeat import Heartbeat, Stage
from launcher.distributed.process_group import ProcessGroup
from launcher.distributed.run_ledger import RankLedger
from launcher.distributed.signals import StopReason
from launcher.distributed.stop_requests import StopMonitor
from launcher.prepare import run_setup
from launcher.prepare.run_setup import PreparedRun
from launcher.sinks import RunInfo, Sink, close_all
from launcher.storage import disk_full, disk_probe, lease, roll_backs
from launcher.storage.checkpoint_format import SavedCheckpoint
from launcher.train import (
    early_stopping,
    kernel_settings,
    loop,
    memory_restore,
    rank_errors,
    resume_checkpoint,
    roll_back,
    spikes,
    worst_batch,
)
from launcher.train.memory_copy import MemoryCopies
from launcher.train.stragglers import Stragglers
from launcher.train.training_run import Run


def train(folder: Path, group: ProcessGroup, stop: StopMonitor, heartbeat: Heartbeat | None = None) -> int:
    """Train the run of a folder that `launcher.prepare.run_setup` has written. Returns the exit code, DONE or STOPPED.

    Raises UserError on all ranks, so that no rank waits for one that has left.
    """
    stop.training = True
    run = run_setup.load(folder)
    with disk_full.reported(folder), contextlib.ExitStack() as held:
        problems, names, reason = group.broadcast(_take_lease(run, held, stop) if group.rank == 0 else None)
        if problems:
            stop.agree(reason)
            raise UserError(problems)
        unusable = group.all_gather_objects(disk_probe.problem(run.folder.checkpoints))
        if found := sorted({each for each in unusable if each}):
            raise UserError(found)
        newest = SavedCheckpoint(run.folder.checkpoints / names[-1]).step if names else 0
        copies, copy = memory_restore.begin(run, group, newest)
        run = dataclasses.replace(run, resume=copy or resume_checkpoint.newest(run.folder, names, group))
        stop.run = run.folder if group.rank == 0 else None
        heartbeat, ledger = heartbeat or Heartbeat(), None
        if group.rank == 0:
            ledger = held.enter_context(RankLedger(run.folder, heartbeat, run.recipe.train.compile, stop.lease).kept())
        rank = _Rank(group, stop, heartbeat, ledger, copies)
        while True:
            with rank_errors.explained(run, group, heartbeat):
                end = _train_part(run, rank)
            if end.step is None:
                if copies is not None:
                    copies.remove()  # a checkpoint of the same step is saved
                return end.code
            run = dataclasses.replace(run, resume=run.folder.saved(end.step) if end.step else None)


class _Rank(NamedTuple):
    """The parts of a rank that outlive its model. `ledger`: of rank 0. `copies`: in memory; None: none are made."""

    group: ProcessGroup
    stop: StopMonitor
    heartbeat: Heartbeat
    ledger: RankLedger | None
    copies: MemoryCopies | None


class _PartEnd(NamedTuple):
    """How a part of a training ended. `step`: where training continues; None: it does not."""

    code: int
    step: int | None = None


def _take_lease(
    run: PreparedRun, held: contextlib.ExitStack, stop: StopMonitor
) -> tuple[list[str], list[str], StopReason]:
    """Take the right to write, as rank 0. Returns the problems, the names of the complete checkpoints, and, if there
    are problems, the reason why all ranks leave."""
    try:
        stop.lease = held.enter_context(run_setup.hold(run.folder))
        roll_backs.remove_abandoned(run.folder)  # a killed start may have left some
        run.folder.mend_metrics()  # a killed start may have left half a line, if a scheduler began this one
    except lease.LeaseLost as error:
        return [str(error)], [], StopReason.REPLACED
    except UserError as error:
        return [str(problem) for problem in error.problems], [], StopReason.NONE
    return [], [saved.path.name for saved in run.folder.whole()], StopReason.NONE


def _train_part(run: PreparedRun, rank: _Rank) -> _PartEnd:
    """Train until the run ends, until frozen parameters begin to train, or until a spike after which training goes
    back."""
    rank.heartbeat.beat(Stage.STARTING)
    built, notes = build(run, rank.group, rank.stop, run.resume)
    built = dataclasses.replace(
        built,
        heartbeat=rank.heartbeat,
        ledger=rank.ledger,
        copies=rank.copies,
        stragglers=Stragglers.of(rank.group),
    )
    if rank.ledger is not None:
        rank.ledger.resume(built.progress.step)
    if rank.copies is not None:
        rank.copies.begin(built.progress.step)
    if built.progress.step == run.recipe.model.unfreeze_at:
        notes = ["what was frozen trains from here on"]
    if rank.group.rank == 0:
        built = dataclasses.replace(built, sinks=_open_sinks(run, built, notes))
    finished = False
    try:
        with kernel_settings.explained():
            if worst_batch.fits_by_trial(rank.group.device):
                worst_batch.try_largest(built)
            code = loop.train(built)
        more = code == DONE and built.progress.step == built.until < built.steps
        finished = code == DONE and not more
        rank.heartbeat.beat(Stage.STARTING if more else Stage.LEAVING, built.progress.step)
        if rank.group.rank == 0 and finished and built.progress.step < built.steps:
            print(early_stopping.message(built.progress.history, run.recipe.evaluate), flush=True)
        return _PartEnd(code, built.progress.step if more else None)
    except spikes.RollBackNeeded as found:
        rank.heartbeat.beat(Stage.SAVING, built.progress.step)
        built.saver.finish()
        if rank.copies is not None:
            rank.copies.begin(found.spike.first - 1)  # a killed start must not resume from a later one
        return _PartEnd(
            DONE, roll_back.go_back(run.folder, rank.group, rank.stop, found.spike, run.recipe.train.abort_after)
        )
    except BaseException as error:
        error.add_note(f"at step {built.progress.step + 1}")
        raise
    finally:
        built.saver.close()
        close_all(built.sinks, finished, failing=sys.exc_info()[0] is not None)


def _open_sinks(run: PreparedRun, built: Run, notes: list[str]) -> list[Sink[Plugin]]:
    recipe, progress = run.recipe, built.progress
    info = RunInfo(
        name=recipe.name, folder=run.folder.path, recipe=recipe.model_dump(mode="json"), steps=built.steps,
        start=progress.step, seconds=progress.seconds, tokens=progress.tokens, equation=run.plan.equation, notes=notes,
        skipped=progress.skipped, overflows=progress.overflows,
    )  # fmt: skip
    return [plugins.sink(sink, info) for sink in recipe.sinks]
