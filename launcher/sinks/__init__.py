"""Sinks: where metrics go. Only rank 0 has sinks.

A kind is a module of this package with a `Config` (a subclass of `launcher.config.types.Plugin`) and a class `Sink`
that extends the one below. The file is the registration. A record is an object of metrics.jsonl: a training step
(`step, loss, grad_norm, lr, samples, tokens, seconds, data, skipped` and others) or an evaluation (`step` and
`eval/<metric>`). After a resume, a step may be written twice; the later record is valid.
"""

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from launcher.config import secret_values, strict_json
from launcher.config.types import JsonObject, Plugin
from launcher.storage.run_dir import RunDir

C_co = TypeVar("C_co", bound=Plugin, covariant=True)
Record = JsonObject
"""An object of metrics.jsonl."""
warnings: deque[str] = deque(maxlen=20)
"""Lines of `warn` in this process that no display shows yet."""
_LONGEST_ID = 100
"""Maximum size of the file with an id, in bytes."""


@dataclass(frozen=True)
class RunInfo:
    """Description of a run for its sinks.

    `recipe`: the resolved recipe. `steps`: steps of the whole run. `start`: step that the run continues from.
    `seconds`, `tokens`, `skipped`, `overflows`: totals up to that step. `equation`: equation of the global batch.
    """

    name: str
    folder: Path
    recipe: JsonObject
    steps: int
    start: int
    seconds: float
    tokens: int
    equation: str
    notes: list[str]
    skipped: int = 0
    overflows: int = 0


def warn(line: str) -> None:
    """Print a line for the user, without passwords of addresses. A display keeps it in view. An error of standard
    output, such as a full disk, is ignored."""
    line = secret_values.without_password(line)
    warnings.append(line)
    with suppress(OSError):
        print(line, flush=True)


def numbers(record: Record) -> dict[str, float]:
    """Return the metrics of a record, without its step."""
    return {k: v for k, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool) and k != "step"}


def earlier(about: RunInfo) -> list[Record]:
    """Return the records of metrics.jsonl up to the step that this start continues from.

    If a step has two records of a kind, the later one is returned.
    """
    records = {(line["step"], "loss" in line): line for line in RunDir(about.folder).lines()}
    return [line for (step, _), line in records.items() if step <= about.start]


def stored_id(file: Path, advice: str) -> str | None:
    """Return the id of a run of a tracking service, which a file of the run folder has; None: there is no file.

    Raises DamagedFile for anything else, since a service makes it a part of paths.
    """
    if not strict_json.exists(file):
        return None
    with strict_json.opened(file, advice) as data:
        content = data.read(_LONGEST_ID + 1).strip()
    if not re.fullmatch(rb"[A-Za-z0-9_-]{1,64}", content):
        raise strict_json.damage(file, "not the id of a run", advice)
    return content.decode()


class Sink(ABC, Generic[C_co]):
    """The sink of one Config for one run. `about`: the run, which is a resumed one if `about.start` is above 0."""

    takes_reports: ClassVar[bool] = False
    """Whether the sink shows the reports of evaluations."""

    @abstractmethod
    def __init__(self, config: C_co, about: RunInfo) -> None: ...

    @abstractmethod
    def write(self, record: Record) -> None:
        """Write a record."""

    def report(self, step: int, report: JsonObject) -> None:
        """Show the report of an evaluation, whose record follows (see launcher.tasks.Task.report)."""
        raise NotImplementedError

    @abstractmethod
    def close(self, finished: bool) -> None:
        """Close the sink at the end of a start. `finished`: whether all steps of the run are done."""


def close_all(sinks: Sequence[Sink[Plugin]], finished: bool, failing: bool) -> None:
    """Close every sink, then raise the first error of a sink.

    `failing`: another error is being raised, and errors of sinks are dropped.
    """
    errors = list[Exception]()
    for sink in sinks:
        try:
            sink.close(finished)
        except Exception as error:
            errors.append(error)
    if errors and not failing:
        raise errors[0]
