"""`launcher run`: plan, prepare and train here; a run folder with a checkpoint is gone on with."""

import os
from collections.abc import Sequence

from rich.console import Console

from launcher.config import load
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.launch import execute, render, ssh
from launcher.launch.execute import Outcome
from launcher.plan.folder import Saved
from launcher.prepare import ready
from launcher.tools import show


def train(
    recipe: str, overrides: Sequence[str], profile: Cluster, ranks: int | None, resume: bool, via: render.Via
) -> Outcome:
    """Train to the last step, or say that this was done already. `resume`: refuse to start from the beginning. Raises
    UserError."""
    load.recipe(recipe, overrides)  # a mistake in it is told before anything is started
    if profile.kind == "slurm":
        raise UserError(f"--cluster {profile.given}: of kind slurm, where runs wait for their turn (launcher submit)")
    if via != "elastic" and profile.kind == "ssh":
        raise UserError(f"--via {via}: is of one machine (leave it out: each host of the cluster gets an agent)")
    if via == "elastic" and profile.kind == "local":
        os.environ.update(render.environment(profile))  # before anything that reads it is imported
        execute.warm_up()
    made = ready.check(recipe, overrides, profile, ranks)
    if resume and made.resume is None:
        raise UserError(
            f"--resume: {made.folder.checkpoints}: no whole checkpoint to go on from (leave --resume out to start)"
        )
    if why := over(made.resume, made.plan.steps):
        print(f"{made.folder.path}: {why}")
        return Outcome(0, {}, [])
    made = ready.write(made)
    if via != "elastic":
        made.release()  # rank 0 of the other starter comes the whole way itself, and takes it
    show.plan(made.plan, Console(stderr=True))
    if profile.kind == "ssh":
        return ssh.execute(made.folder.path, profile)
    return execute.execute(render.train(made.plan, profile, via))


def over(newest: Saved | None, steps: int | None) -> str | None:
    """Why there is nothing left to train after the newest checkpoint. `steps`: of the whole run, where known."""
    if newest is not None and newest.state.get("enough"):
        return f"stopped early at step {newest.step} (another name starts another run)"
    if newest is not None and steps is not None and newest.step >= steps:
        return f"all {steps} steps are done (another name starts another run)"
    return None
