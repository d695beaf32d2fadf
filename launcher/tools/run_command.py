"""`launcher run`: plan, prepare and train here; a run folder with a checkpoint is gone on with."""

import os
import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.distributed import private_tmp, signals
from launcher.distributed.signals import STOPPED
from launcher.launch import execute, launch_spec
from launcher.launch.execute import Outcome
from launcher.plan import plan, writable_folders
from launcher.prepare import run_setup
from launcher.schedulers import ssh
from launcher.storage.run_dir import RunDir, over
from launcher.tools import run_summary, tables


def begins_here(recipe: str, overrides: Sequence[str], profile: Cluster) -> None:
    """Raises UserError where a run waits for its turn, with the command for that. One that begins inside an allocation
    of several nodes is on one of them: this is told."""
    if profile.kind == "slurm":
        words = ["launcher", "submit", recipe, "--cluster", profile.given, *overrides, *profile.overrides]
        told = f"of kind slurm, where runs wait for their turn ({shlex.join(words)})"
        raise UserError(f"--cluster {profile.given}: {told}")
    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "")
    if profile.kind == "local" and nodes.isdecimal() and int(nodes) > 1:
        what = f"this allocation has {nodes} nodes, and this run uses the one it is on"
        print(f"note: {what} (launcher submit, or srun python -m launcher.worker, uses all)", file=sys.stderr)


def train(recipe: Loaded[Recipe], profile: Cluster, ranks: int | None, resume: bool, via: launch_spec.Via) -> Outcome:
    """Train to the last step, or say that this was done already. `resume`: refuse to start from the beginning. Raises
    UserError."""
    wrong = writable_folders.temporary()
    private_tmp.enter()  # what is prepared goes through it too
    with signals.interrupting(private_tmp.leave):
        made = _ready(recipe, profile, ranks, resume, via, wrong)
    if why := over(made.resume, made.plan.steps):
        print(f"{made.folder.path}: {why}")
        return Outcome(0, {}, [])
    if profile.kind == "ssh":
        return ssh.execute(made.folder.path, profile)
    return _end(made, execute.execute(launch_spec.train(made.plan, profile, via)))


def _end(made: run_setup.PreparedRun, outcome: Outcome) -> Outcome:
    """Report what a run of this machine has come to, or how it goes on."""
    if outcome.code == 0:
        run_summary.of(made, Console())
    elif outcome.code == STOPPED and made.folder.whole():
        signals.say(f"to go on: {made.plan.command}")
    return outcome


def _ready(
    recipe: Loaded[Recipe],
    profile: Cluster,
    ranks: int | None,
    resume: bool,
    via: launch_spec.Via,
    wrong: Sequence[str],
) -> run_setup.PreparedRun:
    """Plan, prepare and write the run, unless nothing is left to train. Raises UserError."""
    known = recipe.value
    if via != "elastic" and profile.kind == "ssh":
        raise UserError(f"--via {via}: is of one machine (leave it out: each host of the cluster gets an agent)")
    wrong = [*wrong, *writable_folders.run(RunDir(plan.RUNS / known.name))]
    if via == "elastic" and profile.kind == "local":
        os.environ.update(launch_spec.environment(profile))  # before anything that reads it is imported
        if not (wrong := [*wrong, *writable_folders.ranks(known, profile, ranks)]):
            execute.warm_up(launch_spec.imports(known))
    made = run_setup.check(recipe, profile, ranks, wrong)
    if resume and made.resume is None:
        raise UserError(
            f"--resume: {made.folder.checkpoints}: no whole checkpoint to go on from (leave --resume out to start)"
        )
    if over(made.resume, made.plan.steps):
        return made
    made = run_setup.write(made)
    if via != "elastic":
        made.release()  # rank 0 of the other starter comes the whole way itself, and takes it
    tables.plan(made.plan, Console(stderr=True))
    return made
