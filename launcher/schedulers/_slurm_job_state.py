"""States of Slurm's jobs in the terms of all schedulers."""

from pathlib import Path

from launcher.schedulers import EndReason, JobState, Phase, _slurm_queue

_END_REASONS: dict[str, EndReason] = {
    "CANCELLED": "cancelled", "TIMEOUT": "time over", "DEADLINE": "time over", "PREEMPTED": "preempted",
    "NODE_FAIL": "node lost", "BOOT_FAIL": "node lost", "OUT_OF_MEMORY": "failed", "REVOKED": "cancelled",
}  # fmt: skip
_END_DETAILS = {"OUT_OF_MEMORY": "out of memory", "BOOT_FAIL": "a node did not start"}
_SCRIPT_NOT_STARTED = 53
"""Signal number that Slurm reports for a job whose script could not be started."""


def is_of_run(job: _slurm_queue.Job, run: Path) -> bool:
    """Return whether a job belongs to this run folder, by its output paths, its script or its name.

    The id is not enough, because a reinstalled Slurm uses the same ids again.
    """
    folder = f"{run.absolute()}/"
    paths = [job.fields.get(name, "") for name in ("StdOut", "StdErr", "Command")]
    in_run = any(path.startswith(folder) or f"/{run.name}/" in path for path in paths)
    return in_run or job.name == run.name


def job_state(job: _slurm_queue.Job) -> JobState:
    """Return a job of Slurm as the JobState of all schedulers."""
    ended: EndReason = _END_REASONS.get(job.state, "")
    if not ended and job.preempted is not None:
        ended = "preempted"
    return JobState(
        id=job.id, phase=_phase(job.state), state=job.state, reason=_reason(job, ended), ended=ended, nodes=job.nodes,
        restarts=job.restarts, code=job.code, submitted=job.submitted, start=job.start, end=job.end,
    )  # fmt: skip


def _phase(state: str) -> Phase:
    if state in _slurm_queue.WAITING:
        return "waiting"
    if state in _slurm_queue.RUNNING:
        return "running"
    return "leaving" if state in _slurm_queue.LEAVING else "ended"


def _reason(job: _slurm_queue.Job, ended: EndReason) -> str:
    """Return the reason why a job waits, or a text about its end; empty: not known."""
    if job.alive:
        return job.reason
    if ended:
        return _END_DETAILS.get(job.state, "")
    if job.reason == "JobLaunchFailure" and job.signal == _SCRIPT_NOT_STARTED:
        return "Slurm could not start its script: look for its log's folder on the nodes"
    return f"killed by signal {job.signal}" if job.signal else ""
