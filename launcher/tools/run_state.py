"""The state of a run, and how each start of its job ended.

Pure functions of what Slurm, the job log and the run folder know; each of the three may be missing.
"""

from dataclasses import dataclass
from typing import Literal

from launcher.schedulers import slurm_queue
from launcher.storage import job_log

Name = Literal[
    "ready", "pending", "running", "requeued", "done", "stopped", "made way", "time over", "preempted", "node lost",
    "cancelled", "failed", "replaced", "killed",
]  # fmt: skip
"""ready: planned, not started. requeued: waits for its next start. stopped: on request. made way: saved and left, on
USR1 or before its time limit; time over: ended by Slurm at its time limit. Neither of the two starts again by itself.
replaced: another start of the run took over. killed: a start by hand that did not log its end."""

_WHY: dict[str, Name] = {
    "done": "done", "failed": "failed", "time": "made way", "told": "stopped", "node": "node lost",
    "replaced": "replaced",
}  # fmt: skip
_SLURM: dict[str, Name] = {
    "CANCELLED": "cancelled", "TIMEOUT": "time over", "DEADLINE": "time over", "PREEMPTED": "preempted",
    "NODE_FAIL": "node lost", "BOOT_FAIL": "node lost", "OUT_OF_MEMORY": "failed", "REVOKED": "cancelled",
}  # fmt: skip
_REASONS = {"OUT_OF_MEMORY": "out of memory", "BOOT_FAIL": "a node did not start"}
_NOT_STARTED = 53
"""Slurm's "signal" of a job whose script it could not start."""
_ENDINGS = {
    "done": "done", "failed": "failed", "time": "made way", "told": "told to stop", "node": "node unfit or lost",
    "replaced": "replaced by a later start",
}  # fmt: skip
"""The end of a start in words, by the `why` of its event."""


@dataclass(frozen=True)
class State:
    """`reason`: a detail, such as why Slurm has the job wait. `since`: seconds since the epoch."""

    name: Name
    reason: str = ""
    since: float | None = None


def derive(
    job: job_log.Job | None, queued: slurm_queue.Job | None, *, reachable: bool, alive: bool, finished: bool
) -> State:
    """The state of a run. `job`: its newest job in the log; `queued`: the same job in Slurm's queue; `reachable`:
    whether Slurm answered. `alive`: a rank holds the run's lease. `finished`: nothing is left to train after the newest
    checkpoint."""
    if queued is not None and queued.living:
        return _living(job, queued)
    last = _last_start(job)
    if last is not None and last.why == "done":
        return State("done", since=last.ended)
    if alive:
        return State("running", since=last.begun if last and last.ended is None else None)
    if finished:
        return State("done", since=last.ended if last else None)
    if job is None:
        return State("stopped")
    return _ended(job, queued, reachable)


def _last_start(job: job_log.Job | None) -> job_log.Start | None:
    return job.starts[-1] if job and job.starts else None


def _cancelled(job: job_log.Job) -> bool:
    """Whether the job was cancelled after its last start."""
    last = _last_start(job)
    return job.cancelled is not None and (last is None or job.cancelled >= last.begun)


def _living(job: job_log.Job | None, queued: slurm_queue.Job) -> State:
    last = _last_start(job)
    if queued.state in slurm_queue.WAITING:
        waiting = (last.ended or last.begun) if last else queued.submitted
        return State("requeued" if last or queued.restarts > 0 else "pending", queued.reason, waiting)
    if queued.state not in slurm_queue.LEAVING:
        return State("running", _phase(job, queued), queued.start)
    if job is not None and _cancelled(job):
        return State("cancelled", "leaving", job.cancelled)
    if last is not None and queued.restarts > last.number % 1000:
        return State("requeued", "leaving", last.ended)
    if last is not None and last.why:
        return State(_WHY.get(last.why, "stopped"), "leaving", last.ended)
    return State("running", "leaving", queued.start)


def _phase(job: job_log.Job | None, queued: slurm_queue.Job) -> str:
    """`starting` or `leaving` where a running job does not train. Starts are matched by number: clocks may differ."""
    last = _last_start(job)
    if job is None or last is None or last.number != 1000 * (len(job.ids) - 1) + queued.restarts:
        return "starting"
    return "leaving" if last.ended is not None else ""


def _ended(job: job_log.Job, queued: slurm_queue.Job | None, reachable: bool) -> State:
    """The state of a job that has left the queue and is not done."""
    last = _last_start(job)
    why = last.why if last is not None else ""
    ended = (last.ended if last else None) or (queued.end if queued else None)
    since = ended or (last.begun if last else job.submitted)
    if _cancelled(job):
        return State("cancelled", since=job.cancelled)
    if not reachable and last and last.ended and job.requeued and job.requeued[-1] >= last.ended:
        return State("requeued", since=last.ended)
    if queued is not None and why not in ("failed", "replaced"):
        if queued.state in _SLURM:
            return State(_SLURM[queued.state], _REASONS.get(queued.state, ""), queued.end or since)
        if queued.preempted is not None:
            return State("preempted", since=queued.end or since)
    if why:
        excluded = f"without {', '.join(last.excluded)}" if last and last.excluded else ""
        return State(_WHY.get(why, "stopped"), excluded, since)
    if queued is not None:
        return State("failed", _exit_reason(queued), since)
    return _unexplained(job, reachable, since)


def _unexplained(job: job_log.Job, reachable: bool, since: float | None) -> State:
    """The state of a job that did not log its end and that Slurm does not know."""
    if not job.scheduled:
        return State("killed", "it left no word of its end: killed, or its machine went down", since)
    if job.starts:
        return State("node lost", "it has not told its end", since)
    return State("failed", "Slurm does not know of it any more", since) if reachable else State("pending", "", since)


def _exit_reason(queued: slurm_queue.Job) -> str:
    if queued.reason == "JobLaunchFailure" and queued.signal == _NOT_STARTED:
        return "Slurm could not start its script: look for its log's folder on the nodes"
    if queued.signal:
        return f"killed by signal {queued.signal}"
    return f"exit code {queued.code}" if queued.code else "it never began to train"


def describe_end(start: job_log.Start, later: job_log.Start | None, current: State, scheduled: bool = True) -> str:
    """How a start ended, in words. `later`: the start after it; `current`: the state of the run. `scheduled`: whether
    the job is Slurm's, which starts it again by itself."""
    ending = _ENDINGS.get(start.why, start.why)
    if later is not None:
        if not scheduled:
            return ending or "killed"
        return "preempted or requeued" if start.why == "told" else ending or "lost: it has not told its end"
    if current.name in ("cancelled", "preempted", "time over", "node lost", "killed") and start.why != "failed":
        return current.name
    return ending or current.name
