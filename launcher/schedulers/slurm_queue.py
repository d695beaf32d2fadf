"""What Slurm is asked and told: the one place where its commands are run, each with a time limit, none through a shell.

What they print is read by pure functions. `scontrol show job` is read line by line as it stands, not with its option
-o: what a user is free to write (a job's name, paths, a comment) has a line of its own there, or the end of one, and
cannot pass for another field.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from launcher.config.errors import UserError

ASK, SUBMIT = 20.0, 120.0
"""Seconds that a command gets. Without its configuration Slurm tries for a minute."""

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
RUNNING = frozenset({"CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"})
LEAVING = frozenset({"COMPLETING"})
"""States of a job that lives. All others are ends."""

_OWN_LINE = ("Command", "WorkDir", "Comment", "StdErr", "StdIn", "StdOut", "AdminComment", "SystemComment", "Power")
_FIELD = re.compile(r"(?:^| )([A-Za-z][\w:/]*)=(.*?)(?= [A-Za-z][\w:/]*=|$)")
_OURS = ("LAUNCHER_JOB", "LAUNCHER_START", "LAUNCHER_CHAIN", "LAUNCHER_DEADLINE", "SLURM_RESTART_COUNT")
_SACCT = ("JobID", "State", "ExitCode", "NodeList", "Submit", "Start", "End", "JobName")


class SlurmMissing(UserError):
    """There is no Slurm on this machine."""


class SlurmTimeout(UserError):
    """Slurm does not answer, or not in time."""


class SlurmRefusal(UserError):
    """Slurm has said no. `said`: its own words."""

    def __init__(self, said: str):
        self.said = said
        super().__init__(said)


@dataclass(frozen=True)
class Job:
    """A job as Slurm knows it. `id`: of an array's task the array's with its place, such as 12_1. Times in seconds
    since the epoch; `end` of a job that lives: of its time limit; `preempted`: when it was told to make way."""

    id: str
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
    preempted: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def living(self) -> bool:
        return self.state in WAITING | RUNNING | LEAVING


def test(argv: Sequence[str], script: str) -> str:
    """What Slurm says that it would do with a script, such as when the job would start. `argv`: sbatch --test-only and
    more; the script goes to its standard input. Raises SlurmMissing, SlurmTimeout, or SlurmRefusal where it would not
    take it."""
    done = _run(argv, "a job is submitted with it", SUBMIT, _submitting(), script)
    if done.returncode:
        raise SlurmRefusal(_said(done))
    return _said(done)


def submit(argv: Sequence[str]) -> str:
    """The id of a new job. `argv`: sbatch --parsable and more. Raises SlurmMissing, SlurmTimeout or SlurmRefusal."""
    done = _run(argv, "a job is submitted with it", SUBMIT, _submitting())
    id = done.stdout.strip().partition(";")[0]
    if done.returncode or not id:
        raise SlurmRefusal(_said(done))
    return id


def job(id: str) -> Job | None:
    """What Slurm knows of a job, from its controller or, after that has forgotten it, from its accounting where there
    is one. None: nothing. Raises SlurmMissing or SlurmTimeout."""
    done = _run(["scontrol", "show", "job", id], "the queue is asked with it", ASK, _asking())
    if done.returncode == 0:
        return next(iter(parse(done.stdout)), None)
    if "Invalid job id" not in done.stderr:
        raise SlurmTimeout(f"Slurm does not answer: {_said(done)}")
    return _accounted(id)


def jobs(ids: Iterable[str]) -> dict[str, Job]:
    """Those of the jobs that Slurm knows. Raises SlurmMissing or SlurmTimeout."""
    found = {id: job(id) for id in ids}
    return {id: known for id, known in found.items() if known is not None}


def cancel(ids: Sequence[str]) -> None:
    """Have jobs ended, waiting or running; they are not requeued. Raises SlurmMissing, SlurmTimeout or SlurmRefusal."""
    done = _run(["scancel", *ids], "a job is cancelled with it", ASK, _asking())
    if done.returncode or "error" in done.stderr:
        raise SlurmRefusal(_said(done))


def parse(text: str) -> list[Job]:
    """What `scontrol show job` prints, of one job or more."""
    records, lines = list[list[str]](), list[str]()
    for line in text.splitlines():
        if line.startswith("JobId="):
            records.append(lines := [])
        lines.append(line)
    return [_job(_fields(record)) for record in records]


def parse_accounted(text: str) -> list[Job]:
    """What `sacct --parsable2 --noheader` prints of the fields that are asked for: a line for each job. A name may hold
    a bar, and stands last."""
    found = []
    for line in text.splitlines():
        words = line.split("|", len(_SACCT) - 1)
        if len(words) < len(_SACCT):
            continue
        id, state, ended, nodes, submitted, start, end, name = words
        code, _, signal = ended.partition(":")
        found.append(
            Job(
                id=id,
                name=name,
                state=state.partition(" ")[0],  # such as CANCELLED by 1000
                nodes="" if nodes == "None assigned" else nodes,
                code=int(code) if code.isdigit() else None,
                signal=int(signal) if signal.isdigit() else 0,
                submitted=_time(submitted),
                start=_time(start),
                end=_time(end),
            )
        )
    return found


def _accounted(id: str) -> Job | None:
    if shutil.which("sacct") is None:
        return None
    what = ["sacct", "--allocations", "--parsable2", "--noheader", f"--format={','.join(_SACCT)}", f"--jobs={id}"]
    try:
        done = _run(what, "", ASK, _asking())
    except SlurmTimeout:
        return None
    found = parse_accounted(done.stdout) if done.returncode == 0 else []
    return found[-1] if found else None


def _fields(lines: Sequence[str]) -> dict[str, str]:
    """The fields of one job."""
    first, _, name = lines[0].partition(" JobName=")
    told = {"JobName": name, **dict(_FIELD.findall(first))}
    for line in (line.strip() for line in lines[1:]):
        key, _, value = line.partition("=")
        told |= {key: value} if key in _OWN_LINE else dict(_FIELD.findall(line))
    return told


def _job(told: Mapping[str, str]) -> Job:
    array, place = told.get("ArrayJobId"), told.get("ArrayTaskId")
    code, _, signal = told.get("ExitCode", "").partition(":")
    nodes = told.get("NodeList", "")
    return Job(
        id=f"{array}_{place}" if array and place else told["JobId"],
        name=told["JobName"],
        state=told.get("JobState", ""),
        reason="" if told.get("Reason", "None") == "None" else told["Reason"],
        nodes="" if nodes == "(null)" else nodes,
        restarts=int(told.get("Restarts", "0")),
        code=int(code) if code.isdigit() else None,
        signal=int(signal) if signal.isdigit() else 0,
        submitted=_time(told.get("SubmitTime", "")),
        start=_time(told.get("StartTime", "")),
        end=_time(told.get("EndTime", "")),
        preempted=_time(told.get("PreemptTime", "")),
        fields=told,
    )


def _time(text: str) -> float | None:
    """A time as Slurm prints it, in seconds since the epoch; None for Unknown, None and N/A."""
    if text.isdigit():
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _asking() -> dict[str, str]:
    """The environment of a question: answers in one language, times in seconds."""
    return {**os.environ, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}


def _submitting() -> dict[str, str]:
    """The environment of sbatch, which is the job's too: nothing of a job that this may be called in."""
    return {name: value for name, value in os.environ.items() if name not in _OURS}


def _run(
    argv: Sequence[str], what: str, timeout: float, env: Mapping[str, str], script: str | None = None
) -> "subprocess.CompletedProcess[str]":
    tool = shutil.which(argv[0])
    if tool is None:
        raise SlurmMissing(
            f"{argv[0]}: not found: {what} (run this where Slurm's commands are, or start it by launcher run)"
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


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    """What a command has told, without its own name before each line."""
    lines = (done.stderr + done.stdout).strip().splitlines()
    told = [re.sub(r"^\w+: (?:error: |fatal: )?", "", line) for line in lines]
    return "\n".join(told) or f"exit code {done.returncode}"
