"""Where numbers go. A kind is one module here with a `Config` (a subclass of `launcher.config.types.Plugin`) and a
class `Sink` that extends the one below; the file is the registration. Only rank 0 has sinks. A record is one object of
metrics.jsonl: a training step (`step, loss, grad_norm, lr, samples, tokens, seconds, data, skipped`) or an evaluation
(`step` and `eval/<metric>`). After a resume a step may be written twice: the later record counts.
"""

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from launcher.config.strict_json import Object
from launcher.config.types import Plugin

C_co = TypeVar("C_co", bound=Plugin, covariant=True)
Record = Object
"""An object of metrics.jsonl."""


@dataclass(frozen=True)
class RunInfo:
    """What a sink may want to know of the run. `recipe` is the resolved one; `equation` the batch equation."""

    name: str
    folder: Path
    recipe: Object
    steps: int
    start: int
    seconds: float
    tokens: int
    equation: str
    notes: list[str]
    skipped: int = 0
    overflows: int = 0


def warn(line: str) -> None:
    """Print a line to the user. Standard output that takes none, such as on a full disk, ends no training."""
    with suppress(OSError):
        print(line, flush=True)


class Sink(ABC, Generic[C_co]):
    """Where the numbers of one run go. `config`: its Config; `about`: the run, or its continuation where `about.start`
    is above 0."""

    @abstractmethod
    def __init__(self, config: C_co, about: RunInfo) -> None: ...

    @abstractmethod
    def write(self, record: Record) -> None:
        """Take one record."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """The run leaves; `finished`: all its steps are done."""
