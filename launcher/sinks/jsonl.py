"""metrics.jsonl in the run folder: an object a line, each written whole."""

import json
import os
from typing import Literal

from launcher.config.types import Plugin
from launcher.sinks import About, Record


class Config(Plugin):
    kind: Literal["jsonl"] = "jsonl"


class Jsonl:
    def __init__(self, about: About):
        self._file = os.open(about.folder / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, record: Record) -> None:
        """One system call a line: a process killed at any instant leaves whole lines."""
        os.write(self._file, (json.dumps(record) + "\n").encode())

    def close(self, finished: bool) -> None:
        os.close(self._file)


def open(config: Config, about: About) -> Jsonl:
    return Jsonl(about)
