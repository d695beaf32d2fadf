"""First part of a start on this machine: whether it may start here, and the server from which its ranks are forked.

The server takes seconds to import what ranks need. So this module imports little: neither launcher.plan.plan nor
launcher.prepare.
"""

import logging
import os
import shlex
from collections.abc import Sequence

from launcher.config import plugins
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.recipe import Recipe
from launcher.distributed import launch_env
from launcher.launch import elastic_agent, launch_spec
from launcher.plan import writable_folders

_log = logging.getLogger(__name__)


def check_starts_here(recipe: str, overrides: Sequence[str], profile: Cluster) -> None:
    """Raise UserError, with the command to submit, for a cluster with a queue. Log a note if the run uses only one node
    of an allocation of several."""
    if plugins.is_queued(profile.scheduler):
        words = ["launcher", "submit", recipe, "--cluster", profile.reference, *overrides, *profile.overrides]
        what = f"of kind {profile.kind}, where runs wait for their turn ({shlex.join(words)})"
        raise UserError(f"--cluster {profile.reference}: {what}")
    nodes = launch_env.allocated_nodes()
    if profile.scheduler.on_this_machine and nodes > 1:
        what = f"this allocation has {nodes} nodes, and this run uses the one it is on"
        _log.info("note: %s (launcher submit, or srun python -m launcher.worker, uses all)", what)


def warm_up(recipe: Recipe, profile: Cluster, ranks: int | None, problems: Sequence[str] = ()) -> list[str]:
    """Set the environment of the profile. Unless there are problems, also start the server of the ranks. Returns the
    problems of the folders that the ranks need. `problems`: known already."""
    os.environ.update(launch_spec.environment(profile))  # must come before an import reads it
    found = writable_folders.ranks(recipe, profile, ranks)
    if not problems and not found:
        elastic_agent.warm_up(launch_spec.imports(recipe))
    return found
