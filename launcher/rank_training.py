"""Training of one rank, from a prepared run folder to the end of the run or to a stop."""

import contextlib
import dataclasses
import sys
from pathlib import Path

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
from launcher.storage import disk_full, disk_probe, lease
from launcher.train import early_stopping, kernel_settings, loop, rank_errors
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
        unusable = group.all_gather_objects(disk_probe.problem(run.folder.checkpoints))
        if found := sorted({each for each in unusable if each}):
            raise UserError(found)
        run = dataclasses.replace(run, resume=run.folder.saved(steps[-1]) if steps else None)
        heartbeat = heartbeat or Heartbeat()
        while True:
            with rank_errors.explained(run, group, heartbeat):
                step, code = _train_part(run, group, stop, heartbeat)
            if step is None:
                return code
            run = dataclasses.replace(run, resume=run.folder.saved(step))  # frozen parameters train from here on


def _take_lease(
    run: PreparedRun, held: contextlib.ExitStack, stop: StopMonitor
) -> tuple[list[str], list[int], StopReason]:
    """Take the right to write, as rank 0. Returns the problems, the steps of the complete checkpoints, and, if there
    are problems, the reason why all ranks leave."""
    try:
        stop.lease = held.enter_context(run_setup.hold(run.folder))
        run.folder.mend_metrics()  # a killed start may have left half a line, if a scheduler began this one
    except lease.LeaseLost as error:
        return [str(error)], [], StopReason.REPLACED
    except UserError as error:
        return [str(problem) for problem in error.problems], [], StopReason.NONE
    return [], [saved.step for saved in run.folder.whole()], StopReason.NONE


def _train_part(
    run: PreparedRun, group: ProcessGroup, stop: StopMonitor, heartbeat: Heartbeat
) -> tuple[int | None, int]:
    """Train until the run ends, or until frozen parameters begin to train. Returns the step at which training continues
    (None: it does not), and the exit code."""
    built, notes = build(run, group, stop, run.resume)
    built = dataclasses.replace(built, heartbeat=heartbeat)
    if built.progress.step == run.recipe.model.unfreeze_at:
        notes = ["what was frozen trains from here on"]
    if group.rank == 0:
        built = dataclasses.replace(built, sinks=_open_sinks(run, built, notes))
    finished = False
    try:
        with kernel_settings.explained():
            code = loop.train(built)
        more = code == DONE and built.progress.step == built.until < built.steps
        finished = code == DONE and not more
        if group.rank == 0 and finished and built.progress.step < built.steps:
            print(early_stopping.message(built.progress.history, run.recipe.evaluate), flush=True)
        return (built.progress.step if more else None), code
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
