"""One run as it is now: what its folder and the story of its job tell, and Slurm where it is there. Nothing is written;
Slurm is asked only of a job that is not known to be done."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.config.errors import UserError
from launcher.launch import hosts, queue
from launcher.plan import jobs, plan
from launcher.plan.folder import RunFolder, Saved
from launcher.prepare import lease
from launcher.tools import state
from launcher.tools.state import State
from launcher.tools.train import over

_TAIL = 1 << 16
"""Bytes at the end of the metrics that are looked through."""
_SILENT = 30.0
"""Seconds after which a writer that has not been heard of is taken to be dead, by the clock of the disk."""


@dataclass(frozen=True)
class Status:
    """One run. `step`: that a run has come to that runs, else of what it goes on from; `steps`: in all. `metric`,
    `value`: what is watched, where the newest checkpoint was made at an evaluation. `id`: what Slurm calls its job now.
    `limit`: when a running job's time is over. `error`: the first line of what the last start that failed, or whose
    nodes were unfit or lost, has told, after its place in the history; `log`: the job's, where there is one."""

    name: str
    folder: str
    state: State
    step: int
    steps: int | None
    metric: str
    value: float | None
    loss: float | None
    checkpoint: int | None
    job: str
    id: str
    cluster: str
    nodes: tuple[str, ...]
    requeues: int
    starts: tuple[jobs.Start, ...]
    limit: float | None = None
    error: str = ""
    log: str = ""


class Slurm:
    """Slurm as far as it answers: after it has not, it is not asked again."""

    def __init__(self) -> None:
        self.trouble: str | None = None

    def job(self, id: str) -> tuple[queue.Job | None, bool]:
        """What is known of a job, and whether Slurm could be asked."""
        if self.trouble is None:
            try:
                return queue.job(id), True
            except UserError as error:
                self.trouble = str(error)
        return None, False


def named(run: str) -> RunFolder:
    """The folder of a run, or the run of that name. Raises UserError where there is none."""
    folder = RunFolder(Path(run))
    if not folder.path.is_dir() and RunFolder(plan.RUNS / run).path.is_dir():
        folder = RunFolder(plan.RUNS / run)
    if not folder.plan.is_file() and not jobs.file(folder).is_file():
        raise UserError(f"{run}: no run is there (a run folder is named, such as runs/quickstart-pretrain)")
    return folder


def found() -> list[RunFolder]:
    """The run folders here, in the order of their names."""
    there = sorted(plan.RUNS.iterdir()) if plan.RUNS.is_dir() else []
    return [RunFolder(path) for path in there if RunFolder(path).plan.is_file() or jobs.file(RunFolder(path)).is_file()]


def current(folder: RunFolder) -> jobs.Job | None:
    """The job that the run's story speaks of last."""
    events = jobs.read(folder)
    return next((job for job in jobs.story(events) if job.name == events[-1]["job"]), None) if events else None


def mine(known: queue.Job | None, folder: RunFolder) -> queue.Job | None:
    """The job as Slurm knows it, unless it is another's: ids begin anew where a Slurm is set up again."""
    if known is None:
        return None
    here = f"{folder.path.absolute()}/"
    paths = [known.fields.get(name, "") for name in ("StdOut", "StdErr", "Command")]
    named = any(path.startswith(here) or f"/{folder.path.name}/" in path for path in paths)
    return known if named or known.name == folder.path.name else None


def at(folder: RunFolder, slurm: Slurm) -> Status:
    """One run as it is now."""
    made, whole, job = _plan(folder), folder.whole(), current(folder)
    newest = whole[-1] if whole else None
    holder = _writer(folder)
    if holder is not None and job is not None and holder.job != job.name:
        job = None  # it was started here since
    known, asked = None, True
    if job is not None and job.ids and not (job.starts and job.starts[-1].why == "done"):
        known, asked = slurm.job(job.ids[-1])
        known = mine(known, folder)
    steps = made.get("steps")
    now = state.of(job, known, asked=asked, alive=holder is not None, finished=_finished(newest, steps))
    kept, last = newest.step if newest else 0, job.starts[-1] if job and job.starts else None
    told = _last(folder, None if now.name == "running" else kept)
    step = max(told.get("step", 0), kept)
    if now.name == "stopped" and job is None and not folder.metrics.is_file():
        now = State("ready")
    if now.since is None:
        now = State(now.name, now.reason, _touched(folder))
    metric, value = _watched(newest)
    running = known is not None and known.state in queue.RUNNING
    return Status(
        name=folder.path.name, folder=str(folder.path), state=now, step=step, steps=steps, metric=metric, value=value,
        loss=told.get("loss"), checkpoint=newest.step if newest else None, job=job.name if job else "",
        id=job.ids[-1] if job and job.ids else "", cluster=job.cluster if job else "",
        nodes=_nodes(known if running else None, last, holder), requeues=job.requeues if job else 0,
        starts=job.starts if job else (), limit=known.end if running and known else None,
        error=_error(folder, job) if job and now.name != "done" else "", log=_log(folder, job) if job else "",
    )  # fmt: skip


def _error(folder: RunFolder, job: jobs.Job) -> str:
    for number, start in reversed(list(enumerate(job.starts))):
        if start.why in ("failed", "node"):
            with suppress(OSError):
                file = folder.jobs / f"{job.name}-{start.number}" / "error"
                lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                return f"start {number}: {lines[0]}" if lines else ""
    return ""


def _log(folder: RunFolder, job: jobs.Job) -> str:
    """The log of the newest of its ids that has one."""
    files = (folder.logs / f"job-{id}.log" for id in reversed(job.ids))
    return next((str(file) for file in files if file.is_file()), "")


def _plan(folder: RunFolder) -> dict[str, Any]:
    """As it stands: another version of the launcher may have made it."""
    with suppress(OSError, ValueError):
        made = json.loads(folder.plan.read_text(encoding="utf-8"))
        return made if isinstance(made, dict) else {}
    return {}


def _finished(newest: Saved | None, steps: int | None) -> bool:
    with suppress(OSError, ValueError):
        return over(newest, steps) is not None
    return False


def _watched(newest: Saved | None) -> tuple[str, float | None]:
    """The metric that is watched, where the newest checkpoint was made at an evaluation."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if newest is not None:
            name = str(newest.state["watched"]["metric"])
            return name.removeprefix("eval/"), float(newest.state["evaluation"][name])
    return "", None


def _last(folder: RunFolder, most: int | None) -> dict[str, Any]:
    """The last training record of the metrics, with its step and loss, or the last up to the step `most`: what came
    after it is gone. A line that is cut, or damaged, is passed over."""
    with suppress(OSError), folder.metrics.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        for line in reversed(file.read().splitlines()):
            with suppress(ValueError):
                record = json.loads(line)
                known = isinstance(record, dict) and "loss" in record and "step" in record
                if known and (most is None or record["step"] <= most):
                    return record
    return {}


def _writer(folder: RunFolder) -> lease.Holder | None:
    """Who writes into the folder now."""
    for file in sorted(folder.path.glob(".writer.lease-*"), reverse=True):
        with suppress(OSError):
            holder, age = lease.read(file), time.time() - file.stat().st_mtime
            if holder is not None and not holder.dead() and age < _SILENT:
                return holder
    return None


def _nodes(known: queue.Job | None, last: jobs.Start | None, holder: lease.Holder | None) -> tuple[str, ...]:
    """Where it runs, or ran last."""
    if known is not None and known.nodes:
        with suppress(ValueError):
            return tuple(hosts.expand(known.nodes))
    if last is not None:
        return last.nodes
    return (holder.host,) if holder is not None else ()


def _touched(folder: RunFolder) -> float | None:
    """When something was last written that tells how far the run is."""
    times = []
    for file in (folder.metrics, folder.plan):
        with suppress(OSError):
            times.append(file.stat().st_mtime)
    return times[0] if times else None
