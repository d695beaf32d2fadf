"""metrics.jsonl in the run folder, with an object in each line. Numbers that are not finite are null.

If the disk is full or fails, training continues, and lines are kept in memory until there is room. If the run ends
before that, lines are lost and the run fails.
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
"""Bytes of lines that may wait for room before the run fails."""


class Sink(sinks.Sink[Config]):
    def __init__(self, config: Config, about: RunInfo):
        self._path = RunDir(about.folder).metrics
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._waiting, self._warned = b"", False

    def write(self, record: Record) -> None:
        """Write a line by one system call, so that a killed process leaves complete lines.

        Raises DiskFull if too many lines wait for room, TypeError for a record that is not valid.
        """
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
        """Close the file. Raises DiskFull if lines are lost."""
        full = self._flush()
        os.close(self._file)
        if full:
            lines = plural(self._waiting.count(b"\n"), "line")
            raise disk_full.DiskFull(f"{lines} of {self._path} could not be written: {full}")

    def _flush(self) -> str | None:
        """Write the waiting lines. Returns None, or a description of the full or failing disk.

        A partly written line is completed later.
        """
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._file, self._waiting) :]
        except OSError as error:
            if (number := disk_full.cause_of(error)) is None:
                raise
            return disk_full.sentence(self._path.parent, number)
        return None
