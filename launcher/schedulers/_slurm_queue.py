"""Slurm's commands. Only this module runs them, each with a time limit, and none through a shell.

Pure functions parse their output. `scontrol show job` is parsed by lines, without its option -o. There, text that a
user may choose (a job's name, paths, a comment) has its own line or the end of one, so that it cannot be mistaken for
another field.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from launcher.config import env_vars
from launcher.config.errors import UserError

QUERY_TIMEOUT, SUBMIT_TIMEOUT = 20.0, 120.0
"""Maximum seconds of a command. If its configuration is missing, Slurm tries for a minute."""

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
RUNNING = frozenset({"CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"})
LEAVING = frozenset({"COMPLETING"})
"""States of a job that is ending. With these, a job is still alive; all other states are final."""

_FREE_TEXT_LINES = (
    "Command", "WorkDir", "Comment", "StdErr", "StdIn", "StdOut", "AdminComment", "SystemComment", "Power",
)  # fmt: skip
_FIELD = re.compile(r"(?:^| )([A-Za-z][\w:/]*)=(.*?)(?= [A-Za-z][\w:/]*=|$)")
_JOB_VARIABLES = (*env_vars.OF_JOB, "SLURM_RESTART_COUNT")
_SACCT_FIELDS = ("JobID", "State", "ExitCode", "NodeList", "Submit", "Start", "End", "JobName")


class SlurmMissing(UserError):
    """Slurm is not installed on this machine."""


class SlurmTimeout(UserError):
    """Slurm does not answer, or too late."""


class SlurmRefusal(UserError):
    """Slurm refuses a command. `message`: Slurm's own words."""

    def __init__(self, message: str):
        self.message = message
        super().__init__(message)


@dataclass(frozen=True)
class Job:
    """A job as Slurm reports it. Times are in seconds since the epoch."""

    id: str
    """Id of the job; for a task of an array, the array's id with the index, such as 12_1."""
    name: str
    state: str
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    code: int | None = None
    signal: int = 0
    submitted: float | None = None
    start: float | None = None
    end: float | None = None
    """End of the job, or of its time limit while it runs."""
    preempted: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    """All fields of `scontrol show job`."""

    @property
    def alive(self) -> bool:
        """Whether the job waits or runs."""
        return self.state in WAITING | RUNNING | LEAVING


def test(argv: Sequence[str], script: str) -> str:
    """Return Slurm's answer to a script, such as when its job would start.

    `argv`: sbatch --test-only and further options; the script is its standard input. Raises SlurmMissing, SlurmTimeout
    or SlurmRefusal.
    """
    done = _run(argv, "a job is submitted with it", SUBMIT_TIMEOUT, _submit_environment(), script)
    if done.returncode:
        raise SlurmRefusal(_message(done))
    return _message(done)


def submit(argv: Sequence[str]) -> str:
    """Submit a job and return its id. `argv`: sbatch --parsable and further options. Raises SlurmMissing, SlurmTimeout
    or SlurmRefusal."""
    done = _run(argv, "a job is submitted with it", SUBMIT_TIMEOUT, _submit_environment())
    id = done.stdout.strip().partition(";")[0]
    if done.returncode or not id:
        raise SlurmRefusal(_message(done))
    return id


def job(id: str) -> Job | None:
    """Return a job as the controller reports it; None: unknown.

    If the controller has forgotten the job, the accounting reports it, if there is one. Raises SlurmMissing or
    SlurmTimeout.
    """
    done = _run(["scontrol", "show", "job", id], "the queue is asked with it", QUERY_TIMEOUT, _query_environment())
    if done.returncode == 0:
        return next(iter(parse(done.stdout)), None)
    if "Invalid job id" not in done.stderr:
        raise SlurmTimeout(f"Slurm does not answer: {_message(done)}")
    return _accounted(id)


def task_id(array: str, index: str) -> str:
    """Return the id of a task of an array."""
    return f"{array}_{index}"


def cancel(ids: Sequence[str]) -> None:
    """End jobs, waiting or running, without a requeue. Raises SlurmMissing, SlurmTimeout or SlurmRefusal."""
    done = _run(["scancel", *ids], "a job is cancelled with it", QUERY_TIMEOUT, _query_environment())
    if done.returncode or "error" in done.stderr:
        raise SlurmRefusal(_message(done))


def nodes() -> str:
    """Return the output of `scontrol show node --oneliner`. Raises SlurmMissing or SlurmTimeout."""
    return _answer(["scontrol", "show", "node", "--oneliner"])


def partitions() -> str:
    """Return the names of the partitions, the default one with a star. Raises SlurmMissing or SlurmTimeout."""
    return _answer(["sinfo", "--noheader", "--format=%P"])


def _answer(argv: Sequence[str]) -> str:
    done = _run(argv, "the nodes are asked with it", QUERY_TIMEOUT, _query_environment())
    if done.returncode:
        raise SlurmTimeout(f"Slurm does not answer: {_message(done)}")
    return done.stdout


def parse(text: str) -> list[Job]:
    """Return the jobs in the output of `scontrol show job`."""
    records, lines = list[list[str]](), list[str]()
    for line in text.splitlines():
        if line.startswith("JobId="):
            records.append(lines := [])
        lines.append(line)
    return [_job(_fields(record)) for record in records]


def parse_accounted(text: str) -> list[Job]:
    """Return the jobs in the output of `sacct --parsable2 --noheader` with the fields above. The name is the last
    field, because it may contain a bar."""
    jobs = []
    for line in text.splitlines():
        words = line.split("|", len(_SACCT_FIELDS) - 1)
        if len(words) < len(_SACCT_FIELDS):
            continue
        id, state, exit_code, nodes, submitted, start, end, name = words
        code, signal = _exit_code(exit_code)
        jobs.append(
            Job(
                id=id,
                name=name,
                state=state.partition(" ")[0],  # such as CANCELLED by 1000
                nodes="" if nodes == "None assigned" else nodes,
                code=code,
                signal=signal,
                submitted=_time(submitted),
                start=_time(start),
                end=_time(end),
            )
        )
    return jobs


def _accounted(id: str) -> Job | None:
    if shutil.which("sacct") is None:
        return None
    argv = ["sacct", "--allocations", "--parsable2", "--noheader", f"--format={','.join(_SACCT_FIELDS)}"]
    try:
        done = _run([*argv, f"--jobs={id}"], "", QUERY_TIMEOUT, _query_environment())
    except SlurmTimeout:
        return None
    jobs = parse_accounted(done.stdout) if done.returncode == 0 else []
    return jobs[-1] if jobs else None


def _fields(lines: Sequence[str]) -> dict[str, str]:
    """Return the fields of one job, from its lines."""
    first, _, name = lines[0].partition(" JobName=")
    fields = {"JobName": name, **dict(_FIELD.findall(first))}
    for line in (line.strip() for line in lines[1:]):
        key, _, value = line.partition("=")
        fields |= {key: value} if key in _FREE_TEXT_LINES else dict(_FIELD.findall(line))
    return fields


def _job(fields: Mapping[str, str]) -> Job:
    array, index = fields.get("ArrayJobId"), fields.get("ArrayTaskId")
    code, signal = _exit_code(fields.get("ExitCode", ""))
    nodes = fields.get("NodeList", "")
    return Job(
        id=task_id(array, index) if array and index else fields["JobId"],
        name=fields["JobName"],
        state=fields.get("JobState", ""),
        reason="" if fields.get("Reason", "None") == "None" else fields["Reason"],
        nodes="" if nodes == "(null)" else nodes,
        restarts=int(fields.get("Restarts", "0")),
        code=code,
        signal=signal,
        submitted=_time(fields.get("SubmitTime", "")),
        start=_time(fields.get("StartTime", "")),
        end=_time(fields.get("EndTime", "")),
        preempted=_time(fields.get("PreemptTime", "")),
        fields=fields,
    )


def _exit_code(text: str) -> tuple[int | None, int]:
    """Return the exit code and the signal from a text such as `1:9`. The exit code is None, and the signal 0, if
    missing."""
    code, _, signal = text.partition(":")
    return (int(code) if code.isdigit() else None), (int(signal) if signal.isdigit() else 0)


def _time(text: str) -> float | None:
    """Return a time that Slurm printed, in seconds since the epoch; None for Unknown, None and N/A."""
    if text.isdigit():
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _query_environment() -> dict[str, str]:
    """Return the environment of a query, which sets the language of the answer and makes times seconds."""
    return {**os.environ, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}


def _submit_environment() -> dict[str, str]:
    """Return the environment of sbatch, which the job inherits. The variables of an enclosing job are left out."""
    return {name: value for name, value in os.environ.items() if name not in _JOB_VARIABLES}


def _run(
    argv: Sequence[str], purpose: str, timeout: float, env: Mapping[str, str], script: str | None = None
) -> "subprocess.CompletedProcess[str]":
    tool = shutil.which(argv[0])
    if tool is None:
        raise SlurmMissing(
            f"{argv[0]}: not found: {purpose} (run this where Slurm's commands are, or start it by launcher run)"
        )
    try:
        return subprocess.run(
            [tool, *argv[1:]], input=script, stdin=subprocess.DEVNULL if script is None else None, capture_output=True,
            text=True, errors="replace", timeout=timeout, check=False, env=dict(env),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SlurmTimeout(
            f"Slurm does not answer: {argv[0]} took longer than {timeout:.0f} s (try again later)"
        ) from None
    except OSError as error:
        raise SlurmMissing(f"{tool}: cannot be run: {error.strerror}") from None


def _message(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the output of a command, without the command's name at the beginning of each line."""
    lines = (done.stderr + done.stdout).strip().splitlines()
    messages = [re.sub(r"^\w+: (?:error: |fatal: )?", "", line) for line in lines]
    return "\n".join(messages) or f"exit code {done.returncode}"
