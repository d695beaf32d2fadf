"""metrics.jsonl in the run folder: an object a line, each written whole. A number that is not finite is null: JSON has
no other way to say it."""

import json
import math
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
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        os.write(self._file, (json.dumps(plain, allow_nan=False) + "\n").encode())

    def close(self, finished: bool) -> None:
        os.close(self._file)


def open(config: Config, about: About) -> Jsonl:
    return Jsonl(about)
