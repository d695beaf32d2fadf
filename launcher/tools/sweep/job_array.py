"""The runs of a sweep as a job array of a cluster with a queue."""

from collections.abc import Sequence

from rich.console import Console

from launcher.config import paths, plugins
from launcher.config.cluster import Cluster
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.config.strict_json import shown
from launcher.storage.run_dir import RunDir
from launcher.tools import submit as submission
from launcher.tools.status import run_status
from launcher.tools.status.run_events import JobSchedulers
from launcher.tools.status.run_status import RunStatus
from launcher.tools.sweep import trials
from launcher.tools.sweep.record import Method, RunEnd, Sweep
from launcher.tools.sweep.space import Dimension

_ALIVE = ("pending", "running", "requeued")
_OVER = ("done", "failed")
"""States of runs that are not submitted again."""


def refusals(method: Method, profile: Cluster) -> list[str]:
    """Return why a sweep by this method cannot be an array of this cluster."""
    if method == "optuna":
        what = "each trial depends on the results of those before, and a job array starts all of them at once"
        return [
            f"--optuna: --cluster {profile.reference}: {what} (--random there, or --optuna inside of an allocation)"
        ]
    if not plugins.scheduler(profile.scheduler).supports_arrays:
        return [f"--cluster {profile.reference}: of kind {profile.kind}, which has no job arrays"]
    return []


def submit(
    recipe: Loaded[Recipe], sweep: Sweep, dimensions: Sequence[Dimension], profile: Cluster, console: Console
) -> tuple[int, dict[str, str], Sweep]:
    """Submit the runs that neither wait nor train, and are not over. Returns the number of runs that are not over, the
    states of those, and the sweep with the ends of the others. Raises UserError."""
    found = _statuses(sweep)
    states = {one.name: str(one.state.name) for one in found}
    errors = {one.name: one.error or one.state.reason for one in found if one.state.name == "failed"}
    runs = trials.recipes(recipe, sweep, dimensions)
    points = [n for n, run in enumerate(runs) if states.get(run.value.name) not in (*_ALIVE, *_OVER)]
    if points:
        submission.submit_array(sweep.record.name, runs, points, profile, console)
        states |= {runs[n].value.name: "pending" for n in points}
    for name, state in states.items():
        end = RunEnd(state="done" if state == "done" else "failed", error=shown(errors.get(name, ""), 400))
        if state in _OVER and sweep.record.ended.get(name) != end:
            sweep = sweep.with_end(name, end)
    return sum(state not in _OVER for state in states.values()), states, sweep


def _statuses(sweep: Sweep) -> list[RunStatus]:
    """Return the status of each run that has a folder."""
    names = [name for trial in range(len(sweep.record.trials)) for name in sweep.run_names(trial)]
    folders = [folder for name in names if (folder := RunDir(paths.RUNS / name)).plan.is_file()]
    return run_status.read_statuses(folders, JobSchedulers())
