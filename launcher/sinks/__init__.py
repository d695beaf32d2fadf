"""Sinks: where metrics go. Only rank 0 has sinks.

A kind is a module of this package with a `Config` (a subclass of `launcher.config.types.Plugin`) and a class `Sink`
that extends the one below. The file is the registration. A record is an object of metrics.jsonl: a training step
(`step, loss, grad_norm, lr, samples, tokens, seconds, data, skipped` and others) or an evaluation (`step` and
`eval/<metric>`). After a resume, a step may be written twice; the later record is valid.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from launcher.config.types import JsonObject, Plugin

C_co = TypeVar("C_co", bound=Plugin, covariant=True)
Record = JsonObject
"""An object of metrics.jsonl."""
warnings: deque[str] = deque(maxlen=20)
"""Lines of `warn` in this process that no display shows yet."""


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
    """Print a line for the user, which a display keeps in view. An error of standard output, such as a full disk, is
    ignored."""
    warnings.append(line)
    with suppress(OSError):
        print(line, flush=True)


class Sink(ABC, Generic[C_co]):
    """The sink of one Config for one run. `about`: the run, which is a resumed one if `about.start` is above 0."""

    @abstractmethod
    def __init__(self, config: C_co, about: RunInfo) -> None: ...

    @abstractmethod
    def write(self, record: Record) -> None:
        """Write a record."""

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
