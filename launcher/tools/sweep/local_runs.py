"""The runs of a sweep on this machine, one after another, in one process.

The server from which ranks are forked, and the prepared data, serve all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from launcher.config import paths
from launcher.config.cluster import Cluster
from launcher.config.errors import UserError
from launcher.config.load import Loaded
from launcher.config.recipe import Recipe
from launcher.config.strict_json import shown
from launcher.distributed import signals
from launcher.distributed.exit_codes import DONE, NODE_FAILURE, STOPPED
from launcher.distributed.signals import StopReason
from launcher.launch.execute import Outcome
from launcher.storage import job_log
from launcher.storage.run_dir import RunDir, over
from launcher.tools import run_command
from launcher.tools.sweep.evaluation_follower import EvaluationFollower
from launcher.tools.sweep.record import RunEnd

Follow = Callable[[RunDir, int | None], EvaluationFollower]
"""Begins to follow the evaluations of a run, by its folder and its number of steps."""
_LONGEST_ERROR = 400


@dataclass(frozen=True)
class Stopped(Exception):
    """The sweep ends before its last run, which goes on with the next command. `code`: exit code of the sweep."""

    code: int


@dataclass(frozen=True)
class LocalRuns:
    """Where the runs train."""

    profile: Cluster
    ranks: int | None
    console: Console

    def train(self, recipe: Loaded[Recipe], follow: Follow | None = None) -> RunEnd:
        """Train a run, or go on with it, to its end. `follow`: for a run that may be pruned. Returns how it ended.
        Raises Stopped if it was stopped otherwise, or if its machines were lost."""
        if signals.requested() is not StopReason.NONE:
            raise Stopped(STOPPED)
        try:
            run = run_command.prepare(recipe, self.profile, self.ranks)
        except UserError as error:
            return _failed(str(error))
        try:
            if over(run.resume, run.plan.steps):
                return RunEnd(state="done")
            if follow is None:
                return self._end(run.folder, run_command.start(run), pruned=False)
            with follow(run.folder, run.plan.steps) as follower:
                outcome = run_command.start(run)
            return self._end(run.folder, outcome, follower.pruned)
        except UserError as error:
            return _failed(str(error))
        finally:
            run.release()

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _end(self, folder: RunDir, outcome: Outcome, pruned: bool) -> RunEnd:
        if outcome.code == DONE:
            if pruned:  # it was done before it looked
                (folder.path / paths.STOP).unlink(missing_ok=True)
            return RunEnd(state="done")
        if signals.requested() is not StopReason.NONE:
            raise Stopped(STOPPED)
        if outcome.code == STOPPED and pruned:
            return RunEnd(state="pruned")
        if outcome.code in (STOPPED, NODE_FAILURE):
            raise Stopped(outcome.code)
        return _failed("; ".join(outcome.problems) or _logged_error(folder))


def _failed(error: str) -> RunEnd:
    return RunEnd(state="failed", error=shown(" ".join(error.split()), _LONGEST_ERROR))


def _logged_error(folder: RunDir) -> str:
    """Return the error of the last start in the run's job log; without one, where to look."""
    errors = [str(event.get("error", "")) for event in job_log.read(folder) if event.get("event") == "ended"]
    return (errors[-1] if errors else "") or f"{folder.logs} says why"
