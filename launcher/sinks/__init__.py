"""Where numbers go. A kind is one module here with a `Config` (a subclass of `launcher.config.types.Plugin`) and a
function `open` that returns a `Sink`; the file is the registration. Only rank 0 has sinks. A record is one object of
metrics.jsonl: a training step (`step, loss, grad_norm, lr, samples, tokens, seconds, data, skipped`) or an evaluation
(`step` and `eval/<metric>`). After a resume a step may be written twice: the later record counts.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Record = dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """What a sink may want to know of the run. `recipe` is the resolved one; `equation` the batch equation."""

    name: str
    folder: Path
    recipe: dict[str, Any]
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


class Sink(Protocol):
    def write(self, record: Record) -> None:
        """Take one record."""

    def close(self, finished: bool) -> None:
        """The run leaves; `finished`: all its steps are done."""


class Module(Protocol):
    def open(self, config: Any, about: RunInfo) -> Sink:
        """A sink for this run, or for its continuation where `about.start` is above 0."""
