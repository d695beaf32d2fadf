"""The story of a run's jobs: RUN/jobs.jsonl, a line for each event, told by whoever sees it happen.

Events are `submitted`, `started`, `ended`, `requeued` and `cancelled`. Each has `job`, a name that stays the same
however often the job is requeued, and `time` in seconds since the epoch. A start that has no end was killed, or its
node was lost.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher.config import strict_json
from launcher.config.strict_json import Wrong
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import JobEvent

Event = dict[str, Any]
STARTS_PER_JOB = 1000
"""Numbers of starts for each job of a chain: a start's number is this times the jobs before it, plus its restarts."""
_MOST = 20_000
"""Events of a run: some thousand starts."""
_HINT = "take this line out, or move the file away"


@dataclass(frozen=True)
class Start:
    """One start of a job. `number` counts them, though not by one; `slurm` is the id that Slurm knows it by. `first`,
    `last`: the steps of the newest checkpoints at its begin and its end. `why` it ended: done, failed, time (it made
    way), told (to stop), node (unfit or lost), replaced; empty where it has not said so. `error`, `rank`: of a start by
    hand that failed, why, and which rank was the first."""

    number: int
    slurm: str = ""
    nodes: tuple[str, ...] = ()
    ranks: int = 0
    begun: float = 0.0
    first: int = 0
    ended: float | None = None
    last: int | None = None
    code: int | None = None
    why: str = ""
    excluded: tuple[str, ...] = ()
    error: str = ""
    rank: int | None = None


@dataclass(frozen=True)
class Job:
    """A job over all its starts. `scheduler`: the kind that knows it, if any. `ids`: the scheduler's ids of it and of
    the jobs that were chained to it, the newest last."""

    name: str
    cluster: str = ""
    scheduler: str = ""
    script: str = ""
    submitted: float | None = None
    cancelled: float | None = None
    ids: tuple[str, ...] = ()
    starts: tuple[Start, ...] = ()
    requeued: tuple[float, ...] = field(default=())

    @property
    def scheduled(self) -> bool:
        """Whether a scheduler, or whoever started it on several hosts, gave it a name."""
        return self.name != BY_HAND

    @property
    def requeues(self) -> int:
        """How often it has been started again, or is about to be. Slurm requeues without a word when a node is lost."""
        return max(len(self.requeued), len({start.number for start in self.starts}) - 1)


def file(folder: RunDir) -> Path:
    return folder.path / "jobs.jsonl"


def append(folder: RunDir, event: Mapping[str, Any]) -> None:
    """Tell an event; the time is now unless it says another. Raises OSError where it cannot be written whole."""
    line = (json.dumps({**event, "time": event.get("time", time.time())}) + "\n").encode()
    handle = os.open(file(folder), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":  # whoever wrote last was killed in the middle of it
            line = b"\n" + line
        if os.write(handle, line) != len(line):
            raise OSError(f"{file(folder)}: an event could not be written whole")
    finally:
        os.close(handle)


def read(folder: RunDir) -> list[Event]:
    """The events in the order they were told. A line that was cut in the middle is none, nor is what another launcher
    may have written. Raises DamagedFile for an event that is."""
    there, found = file(folder), list[Event]()
    if not strict_json.exists(there):
        return found
    for offset, line in strict_json.lines(there, _HINT):
        try:
            if event := _event(line):
                found.append(event)
            if len(found) > _MOST:
                raise Wrong(f"more than {_MOST:,} events")
        except Wrong as error:
            raise strict_json.damage(strict_json.place(there, offset), error, _HINT) from None
    return found


def _event(line: bytes) -> Event | None:
    """The event of a line. Raises Wrong for one with values that no launcher writes."""
    try:
        event = strict_json.parse(line)
    except Wrong:
        return None
    if not isinstance(event.get("event"), str) or not isinstance(event.get("job"), str):
        return None
    strict_json.check(event, JobEvent)
    return event


def story(events: Iterable[Event]) -> list[Job]:
    """The jobs, in the order they are first spoken of."""
    jobs = dict[str, Job]()
    for event in events:
        name = event["job"]
        job = jobs.get(name) or Job(name, ids=() if name == BY_HAND else (name,))
        jobs[name] = _after(job, event)
    return list(jobs.values())


BY_HAND = "by-hand"
"""The job of a start that no scheduler knows of."""


def _after(job: Job, event: Event) -> Job:
    """The job after what an event tells."""
    when = _number(event.get("time"))
    match event["event"]:
        case "submitted":
            cluster, script = str(event.get("cluster", "")), str(event.get("script", ""))
            kind = str(event.get("scheduler", "slurm"))  # earlier launchers knew no other
            return replace(job, cluster=cluster, scheduler=kind, script=script, submitted=when)
        case "started":
            id = str(event.get("slurm", ""))
            kind = job.scheduler or ("slurm" if id else "")
            return _known(replace(job, starts=(*job.starts, _start(event, when)), scheduler=kind), id)
        case "ended":
            return replace(job, starts=_ended(job.starts, event, when))
        case "requeued":
            return _known(replace(job, requeued=(*job.requeued, when)), str(event.get("next", "")), event.get("how"))
        case "cancelled":
            return replace(job, cancelled=when)
    return job  # told by a newer launcher


def _known(job: Job, id: str, how: Any = None) -> Job:
    """With this id among those that Slurm knows. A task of an array is known by the array's id and its place there,
    also in an array that was chained to it."""
    _, array, place = job.name.partition("_")
    if array:
        id = f"{id.partition('_')[0]}_{place}" if how == "chain" and id else job.name
    if not id or id in job.ids:
        return job
    return replace(job, ids=(*job.ids, id))


def _start(event: Event, when: float) -> Start:
    return Start(
        number=int(_number(event.get("start"))),
        slurm=str(event.get("slurm", "")),
        nodes=tuple(map(str, event.get("nodes", ()))),
        ranks=int(_number(event.get("ranks"))),
        begun=when,
        first=int(_number(event.get("step"))),
    )


def _ended(starts: Sequence[Start], event: Event, when: float) -> tuple[Start, ...]:
    """The newest start of that number has ended; one that was never told of ended before it began."""
    number = int(_number(event.get("start")))
    step, code = event.get("step"), event.get("code")
    at = next((i for i in reversed(range(len(starts))) if starts[i].number == number), None)
    start = Start(number, begun=when) if at is None else starts[at]
    start = replace(
        start,
        ended=when,
        last=int(step) if isinstance(step, int) else None,
        code=code if isinstance(code, int) else None,
        why=str(event.get("why", "")),
        excluded=tuple(map(str, event.get("excluded", ()))),
        error=str(event.get("error", "")),
        rank=event.get("rank"),
    )
    return (*starts, start) if at is None else (*starts[:at], start, *starts[at + 1 :])


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
