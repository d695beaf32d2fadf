"""Sinks: where metrics go. A kind is one module here with a `Config` (a subclass of `launcher.config.types.Plugin`) and
a class `Sink` that extends the one below; the file is the registration. Only rank 0 has sinks. A record is an object of
metrics.jsonl: a training step (`step, loss, grad_norm, lr, samples, tokens, seconds, data, skipped`) or an evaluation
(`step` and `eval/<metric>`). After a resume a step may be written twice; the later record is valid.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from launcher.config.types import JsonObject, Plugin

C_co = TypeVar("C_co", bound=Plugin, covariant=True)
Record = JsonObject
"""An object of metrics.jsonl."""


@dataclass(frozen=True)
class RunInfo:
    """A run, for its sinks. `recipe`: the resolved one. `steps`: of the whole run; `start`: the step that it continues
    from. `seconds`, `tokens`, `skipped`, `overflows`: until then. `equation`: of the global batch."""

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
    """Print a line for the user. An error of standard output, such as a full disk, is ignored."""
    with suppress(OSError):
        print(line, flush=True)


class Sink(ABC, Generic[C_co]):
    """The sink of one Config for one run. `about`: the run, which continues an earlier start where `about.start` is
    above 0."""

    @abstractmethod
    def __init__(self, config: C_co, about: RunInfo) -> None: ...

    @abstractmethod
    def write(self, record: Record) -> None:
        """Write a record."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """Close the sink at the end of a start. `finished`: all steps of the run are done."""


def close_all(sinks: Sequence[Sink[Plugin]], finished: bool, failing: bool) -> None:
    """Close every sink, then raise the first error of one, unless another error is on its way (`failing`)."""
    errors = list[Exception]()
    for sink in sinks:
        try:
            sink.close(finished)
        except Exception as error:
            errors.append(error)
    if errors and not failing:
        raise errors[0]
