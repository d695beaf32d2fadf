"""metrics.jsonl in the run folder: an object a line, each written whole. A number that is not finite is null: JSON has
no other way to say it.

On a full disk training goes on, and lines wait in memory until there is room: none is lost or written in part, unless
the run ends before that, which is then its failure.
"""

import json
import math
import os
from typing import Literal

from launcher import sinks
from launcher.config.format import plural
from launcher.config.strict_json import Wrong
from launcher.config.types import Plugin
from launcher.sinks import Record, RunInfo, warn
from launcher.storage import disk_full
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import check_metrics


class Config(Plugin):
    """The metrics file of the run, metrics.jsonl."""

    kind: Literal["jsonl"] = "jsonl"


_MOST_WAITING = 2**24
"""Bytes of lines that wait for room; a run that writes more has been without room for too long to be trusted."""


class Sink(sinks.Sink[Config]):
    def __init__(self, config: Config, about: RunInfo):
        self._path = RunDir(about.folder).metrics
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._waiting, self._warned = b"", False

    def write(self, record: Record) -> None:
        """One system call a line: a process killed at any instant leaves whole lines. Raises DiskFull where too many
        wait for room."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        try:
            check_metrics(plain)
        except Wrong as error:
            raise TypeError(f"a metric cannot be recorded: {error}") from None
        self._waiting += (json.dumps(plain, allow_nan=False) + "\n").encode()
        full = self._flush()
        if full and len(self._waiting) > _MOST_WAITING:
            raise disk_full.DiskFull(full)
        if full and not self._warned:
            warn(f"{self._path.name}: {full}; its lines wait in memory, training goes on")
        self._warned = full is not None

    def close(self, finished: bool) -> None:
        """Raises DiskFull where lines are lost."""
        full = self._flush()
        os.close(self._file)
        if full:
            lines = plural(self._waiting.count(b"\n"), "line")
            raise disk_full.DiskFull(f"{lines} of {self._path} could not be written: {full}")

    def _flush(self) -> str | None:
        """Write what waits. Returns what is exhausted where that is impossible now. What a full disk cuts a line to is
        completed as soon as there is room."""
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
        except OSError as error:
            if (number := disk_full.number(error)) is None:
                raise
            return disk_full.sentence(self._path.parent, number)
        return None
