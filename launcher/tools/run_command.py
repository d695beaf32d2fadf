"""`launcher run`: plan, prepare and train on this machine. A run with a checkpoint resumes."""

import atexit
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from launcher.config import paths, plugins
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.distributed import private_tmp, run_ledger, signals
from launcher.distributed.exit_codes import DONE, STOPPED
from launcher.launch import launch_spec
from launcher.launch.execute import Outcome
from launcher.plan import writable_folders
from launcher.prepare import run_setup
from launcher.schedulers import JobRequest
from launcher.storage.run_dir import RunDir, over
from launcher.tools import local_start, tables
from launcher.tools.status import run_summary


def train(recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, resume: bool, via: launch_spec.Via) -> Outcome:
    """Train to the last step, or print that the run is finished. Returns the outcome. `resume`: refuse to start without
    a checkpoint. Raises UserError."""
    run = prepare(recipe, profile, ranks, resume, via)
    if why := over(run.resume, run.plan.steps):
        print(f"{run.folder.path}: {why}")
        return Outcome(0, {}, [])
    tables.print_plan(run.plan, Console(stderr=True))
    outcome = start(run, via)
    if not profile.scheduler.on_this_machine:
        return outcome
    if outcome.code == DONE:
        run_summary.summarize(run, Console())
    elif outcome.code == STOPPED and run.folder.whole():
        signals.say(f"to go on: {run.plan.command}")
    return outcome


def prepare(
    recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, resume: bool = False, via: launch_spec.Via = "elastic"
) -> run_setup.PreparedRun:
    """Plan and prepare a run, and write its folder unless nothing is left to train. A signal ends the work. Raises
    UserError."""
    problems = writable_folders.temporary()
    private_tmp.enter()  # the preparation uses this folder too
    with signals.interrupting(private_tmp.leave):
        return _prepare(recipe, profile, ranks, resume, via, problems)


def start(run: run_setup.PreparedRun, via: launch_spec.Via = "elastic") -> Outcome:
    """Start the ranks of a prepared run, and wait for them. Returns the outcome."""
    scheduler = plugins.scheduler(run.cluster.scheduler)
    request = JobRequest(run.plan, run.cluster, Path.cwd(), paths.cache().absolute(), via=via)
    outcome = scheduler.submit(scheduler.render(request)).outcome
    assert outcome is not None, "the job of a scheduler without a queue has ended"
    return outcome


def _prepare(
    recipe: Loaded[Recipe],
    profile: Cluster,
    ranks: int | None,
    resume: bool,
    via: launch_spec.Via,
    problems: Sequence[str],
) -> run_setup.PreparedRun:
    """Plan, prepare and write the run, and return it. If nothing is left to train, nothing is written. `problems`: user
    errors found before. Raises UserError."""
    known = recipe.value
    if via != "elastic" and not profile.scheduler.on_this_machine:
        raise UserError(f"--via {via}: is of one machine (leave it out: each host of the cluster gets an agent)")
    problems = [*problems, *writable_folders.run(RunDir(paths.RUNS / known.name))]
    if via == "elastic" and profile.scheduler.on_this_machine:
        problems += local_start.warm_up(known, profile, ranks, problems)
    begin = time.monotonic()
    run = run_setup.validate(recipe, profile, ranks, problems)
    if resume and run.resume is None:
        what = f"{run.folder.checkpoints}: no whole checkpoint to go on from (leave --resume out to start)"
        raise UserError(f"--resume: {what}")
    if over(run.resume, run.plan.steps):
        return run
    run = run_setup.create(run)
    run_ledger.record_command(run.folder, prepare=time.monotonic() - begin)
    if via != "elastic":
        own = run_setup.hold(run.folder, ".starter")  # until a rank has its own, status has to know that this one lives
        atexit.register(own.release)
        run.release()  # rank 0 of another starter acquires the right to start itself
        run = replace(run, start=own)
    return run
