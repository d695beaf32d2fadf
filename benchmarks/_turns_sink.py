"""A sink that holds a run of the launcher between its turns: `{kind: benchmarks._turns_sink, folder: FOLDER}`.

Rank 0 alone has sinks. The other ranks wait for it at the next step.
"""

from pathlib import Path

from benchmarks._turns import Gate
from launcher import sinks
from launcher.config.types import Plugin
from launcher.sinks import Record, RunInfo


class Config(Plugin):
    """Steps in turns."""

    kind: str
    folder: str
    """Folder of the job."""


class Sink(sinks.Sink[Config]):
    def __init__(self, config: Config, about: RunInfo):
        self._gate = Gate(Path(config.folder), 0)
        self._gate.wait(about.start + 1)

    def write(self, record: Record) -> None:
        if "loss" in record:
            self._gate.record(record["step"], record["loss"], fill=record["fill"], tokens=record["tokens"])
            self._gate.wait(record["step"] + 1)

    def close(self, finished: bool) -> None:
        """Do nothing: every line is written."""
