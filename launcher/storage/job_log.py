"""The log of a run's jobs: RUN/jobs.jsonl, a line for each event. Every process that observes an event appends it.

Events are `submitted`, `started`, `hang`, `restarted`, `resumed`, `ended`, `requeued` and `cancelled`. Each has a `job`
and a `time`: the name of the job, which is LAUNCHER_JOB on its nodes and stays the same when the job is requeued, and
seconds since the epoch. `submitted` and `started` have an `id`: the scheduler's id of the job at that time. If a start
has no `ended` event, it was killed, or its node was lost.

`restarted` is a restart of the ranks within a start. Its `why` is failed, node (one is lost) or joined (another node);
`rank` and `error` are of the rank that failed first, `step` is the one that it computed (0: it had not begun one), and
`attempt` is the number of the restart. `resumed` follows when all ranks have completed a step after it: `step` is
the last one, and `seconds` is the time since the ranks' end was noticed. `hang` has the rank that hung, its stage and
step, and the seconds without progress.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from launcher.config import strict_json
from launcher.config.atomic_files import append_line
from launcher.config.strict_json import Wrong
from launcher.config.types import JsonObject
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import JobEvent

Event = JsonObject
STARTS_PER_JOB = 1000
"""Start numbers for each job of a chain. The number of a start is the count of earlier jobs times this, plus the count
of restarts of its job."""
_MOST = 20_000
"""Maximum number of events of a run, enough for thousands of starts."""
_HINT = "take this line out, or move the file away"


@dataclass(frozen=True)
class Start:
    """One start of a job.

    `number`: increases with every start, not always by one. `id`: the scheduler's id of the job at this start; empty:
    not known. `begun`, `ended`: seconds since the epoch. `first`, `last`: steps of the newest checkpoint at the
    beginning and at the end. `code`: exit code. `why`: reason of the end: done, failed, time (time limit), "told"
    (asked to stop), node (unhealthy or lost), replaced; empty: not known. `excluded`: nodes that were left out.
    `error`, `rank`: if a start by hand failed, the message and the rank that failed first.
    """

    number: int
    id: str = ""
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
    """A job over all its starts.

    `scheduler`: kind of its scheduler; empty: none. `options`: the scheduler's section of the profile; None: not
    recorded. `ids`: the scheduler's ids of the job and of the jobs chained to it, the newest last. `submitted`,
    `cancelled`, `requeued`: seconds since the epoch.
    """

    name: str
    cluster: str = ""
    scheduler: str = ""
    script: str = ""
    options: JsonObject | None = None
    submitted: float | None = None
    cancelled: float | None = None
    ids: tuple[str, ...] = ()
    starts: tuple[Start, ...] = ()
    requeued: tuple[float, ...] = field(default=())

    @property
    def scheduled(self) -> bool:
        """Whether the name comes from a scheduler or from a start on several hosts.

        Otherwise the job was started by hand on this machine.
        """
        return self.name != BY_HAND

    @property
    def queued(self) -> bool:
        """Whether a scheduler started the job, and may start it again. Hosts that are reached by ssh have none."""
        return self.scheduled and not self.name.startswith(OVER_SSH)

    @property
    def requeues(self) -> int:
        """Number of restarts, including one that is about to happen.

        Starts count too, because Slurm logs no event when it requeues a job after its node was lost.
        """
        return max(len(self.requeued), len({start.number for start in self.starts}) - 1)


def append(folder: RunDir, event: Mapping[str, object]) -> None:
    """Append an event. If it has no time, the current time is added.

    Raises OSError if the line cannot be written completely.
    """
    append_line(folder.job_log, json.dumps({**event, "time": event.get("time", time.time())}))


def read(folder: RunDir) -> list[Event]:
    """Return the events in their order; empty: no log exists.

    Incomplete lines, and lines that are no events, are ignored. Raises DamagedFile for a damaged event.
    """
    there, found = folder.job_log, list[Event]()
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
    """Parse a line. Returns None if it is no event. Raises Wrong for an event with invalid values."""
    try:
        event = strict_json.parse(line)
    except Wrong:
        return None
    if not isinstance(event.get("event"), str) or not isinstance(event.get("job"), str):
        return None
    strict_json.check(event, JobEvent)
    return event


def story(events: Iterable[Event]) -> list[Job]:
    """Return the jobs, in the order of their first events."""
    jobs = dict[str, Job]()
    for event in events:
        name = event["job"]
        job = jobs.get(name) or Job(name, ids=() if name == BY_HAND else (name,))
        jobs[name] = _after(job, event)
    return list(jobs.values())


BY_HAND = "by-hand"
"""The job name of starts without a scheduler."""
OVER_SSH = "ssh-"
"""The beginning of the job names of starts over ssh."""


def _after(job: Job, event: Event) -> Job:
    """Return the job after an event."""
    when = _number(event.get("time"))
    match event["event"]:
        case "submitted":
            cluster, script = str(event.get("cluster", "")), str(event.get("script", ""))
            kind = str(event.get("scheduler", "slurm"))  # earlier launchers had no other scheduler
            id = str(event.get("id") or job.name)
            ids = (id, *(one for one in job.ids if one not in (id, job.name)))
            job = replace(job, cluster=cluster, scheduler=kind, options=event.get("options"), script=script)
            return replace(job, submitted=when, ids=ids)
        case "started":
            start = _start(job, event, when)
            kind = job.scheduler or str(event.get("scheduler", "slurm" if start.id else ""))
            return _with_id(replace(job, starts=(*job.starts, start), scheduler=kind), start.id)
        case "ended":
            return replace(job, starts=_ended(job.starts, event, when))
        case "requeued":
            return _with_id(replace(job, requeued=(*job.requeued, when)), _slurm_id(job, event.get("next"), event))
        case "cancelled":
            return replace(job, cancelled=when)
    return job  # an event of a newer launcher


def _with_id(job: Job, id: str) -> Job:
    """Return the job with one more id, or unchanged if the id is empty or known."""
    return job if not id or id in job.ids else replace(job, ids=(*job.ids, id))


def _slurm_id(job: Job, id: object, event: Event) -> str:
    """Return the job's id in an event of Slurm's batch script or of an earlier launcher; empty: none.

    For a task of an array this is ARRAY_INDEX, because the event has the task's own number. A chained array has another
    ARRAY and the same INDEX.
    """
    _, array, index = job.name.partition("_")
    if not id or not array:
        return str(id or "")
    return f"{str(id).partition('_')[0]}_{index}" if event.get("how") == "chain" else job.name


def _start(job: Job, event: Event, when: float) -> Start:
    return Start(
        number=int(_number(event.get("start"))),
        id=str(event.get("id", "")) or _slurm_id(job, event.get("slurm"), event),
        nodes=tuple(map(str, event.get("nodes", ()))),
        ranks=int(_number(event.get("ranks"))),
        begun=when,
        first=int(_number(event.get("step"))),
    )


def _ended(starts: Sequence[Start], event: Event, when: float) -> tuple[Start, ...]:
    """Return the starts, with the end added to the newest one that has the event's number.

    If no start has it, because its `started` event is missing, a start is added.
    """
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


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
