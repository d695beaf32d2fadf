"""The state of a run, and how each start of its job ended.

Pure functions of the reports of the scheduler, the job log and the run folder. Each of the three may be missing.
"""

from dataclasses import dataclass
from typing import Literal

from launcher.schedulers import JobState
from launcher.storage import job_log

Name = Literal[
    "ready", "pending", "running", "requeued", "done", "stopped", "made way", "time over", "preempted", "node lost",
    "cancelled", "failed", "replaced", "killed",
]  # fmt: skip
"""Name of a state.

ready: planned, but not started. requeued: waits for its next start. stopped: on request. made way: saved and left, at
USR1 or before its time limit. time over: ended by the scheduler at its time limit. After the last two, the run does not
start again by itself. replaced: another start of the run took over. killed: a start without a queue that did not log
its end.
"""

_WHY: dict[str, Name] = {
    "done": "done", "failed": "failed", "time": "made way", "told": "stopped", "node": "node lost",
    "replaced": "replaced",
}  # fmt: skip
_ENDINGS = {
    "done": "done", "failed": "failed", "time": "made way", "told": "stopped on request", "node": "node failure",
    "replaced": "replaced by a later start",
}  # fmt: skip
"""Description of the end of a start."""


@dataclass(frozen=True)
class State:
    """State of a run. `reason`: a detail, such as why the job waits. `since`: seconds since the epoch."""

    name: Name
    reason: str = ""
    since: float | None = None


def derive(
    job: job_log.Job | None,
    known: JobState | None,
    *,
    reachable: bool,
    alive: bool,
    finished: bool,
    starting: bool = False,
) -> State:
    """Return the state of a run.

    `job`: the newest job in its log. `known`: the scheduler's report of this job. `reachable`: whether the scheduler
    answered. `alive`: whether a rank holds the run's lease. `finished`: whether nothing is left to train after the
    newest checkpoint. `starting`: whether the command that starts the ranks lives. It is all that does before the first
    rank holds the lease, and while the ranks are started again.
    """
    if known is not None and known.alive:
        return _living(job, known)
    last = job.starts[-1] if job and job.starts else None
    if last is not None and last.why == "done":
        return State("done", since=last.ended)
    if alive:
        return State("running", since=last.begun if last and last.ended is None else None)
    if finished:
        return State("done", since=last.ended if last else None)
    if starting and (last is None or last.ended is None):
        return State("running", "starting", last.begun if last else None)
    if job is None:
        return State("stopped")
    return _ended(job, known, reachable)


def _living(job: job_log.Job | None, known: JobState) -> State:
    again = bool(job and job.starts) or known.restarts > 0
    last = job.starts[-1] if job and job.starts else None
    if known.phase == "waiting":
        waiting = (last.ended or last.begun) if last else known.submitted
        return State("requeued" if again else "pending", known.reason, waiting)
    if known.phase == "running":
        return State("running", _phase(job, last, known), known.start)
    if job is not None and job.cancelled is not None and (last is None or job.cancelled >= last.begun):
        return State("cancelled", "leaving", job.cancelled)
    if last is not None and known.restarts > last.number % job_log.STARTS_PER_JOB:
        return State("requeued", "leaving", last.ended)
    if last is not None and last.why:
        return State(_WHY.get(last.why, "stopped"), "leaving", last.ended)
    return State("running", "leaving", known.start)


def _phase(job: job_log.Job | None, last: job_log.Start | None, known: JobState) -> str:
    """Return `starting` or `leaving` if a running job does not train, else an empty text. Starts are compared by
    number, because clocks may differ."""
    number = job_log.STARTS_PER_JOB * (len(job.ids) - 1) + known.restarts if job else 0
    if job is None or last is None or last.number != number:
        return "starting"
    return "leaving" if last.ended is not None else ""


def _ended(job: job_log.Job, known: JobState | None, reachable: bool) -> State:
    """Return the state of a job that is neither alive nor done."""
    last = job.starts[-1] if job.starts else None
    why = last.why if last is not None else ""
    since = (last.ended if last else None) or (known.end if known else None) or (last.begun if last else job.submitted)
    if job.cancelled is not None and (last is None or job.cancelled >= last.begun):
        return State("cancelled", since=job.cancelled)
    if not reachable and last and last.ended and job.requeued and job.requeued[-1] >= last.ended:
        return State("requeued", since=last.ended)
    if known is not None and known.ended and why not in ("failed", "replaced"):
        return State(known.ended, known.reason, known.end or since)
    if why:
        excluded = f"without {', '.join(last.excluded)}" if last and last.excluded else ""
        return State(_WHY.get(why, "stopped"), excluded, since)
    if known is not None:
        code = f"exit code {known.code}" if known.code else "it never began to train"
        return State("failed", known.reason or code, since)
    return _unexplained(job, last, reachable, since)


def _unexplained(job: job_log.Job, last: job_log.Start | None, reachable: bool, since: float | None) -> State:
    """Return the state of a job whose end was not logged and that the scheduler no longer lists."""
    if not job.queued:  # nothing starts it again but a person; it lived until about its last write
        return State("killed", "its end was not recorded: killed, or its machine went down")
    if last is not None:
        return State("node lost", "its end was not recorded", since)
    forgotten = State("failed", "its scheduler does not know of it any more", since)
    return forgotten if reachable else State("pending", "", since)


def describe_end(start: job_log.Start, later: job_log.Start | None, current: State, scheduled: bool = True) -> str:
    """Return a description of the end of a start. `later`: the next start; None: there is none. `current`: the state of
    the run. `scheduled`: whether a scheduler starts the job again by itself."""
    if later is not None and not scheduled:
        return _ENDINGS.get(start.why, start.why) if start.why else "killed"
    if later is not None and start.why == "told":
        return "preempted or requeued"
    if later is not None and not start.why:
        return "lost: its end was not recorded"
    lost = ("cancelled", "preempted", "time over", "node lost", "killed")
    if later is None and current.name in lost and start.why != "failed":
        return current.name
    if start.why:
        return _ENDINGS.get(start.why, start.why)
    return current.name
