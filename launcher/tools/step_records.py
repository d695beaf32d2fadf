"""The training records of a run by step, read as a stream, also while the run writes them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from launcher.config import strict_json
from launcher.config.strict_json import MOST_LINE, Wrong
from launcher.config.types import JsonObject
from launcher.storage.run_files import check_metrics

_HINT = "move the file away"


class StepRecords:
    """The training records of a metrics file, in the order of their steps. If a step stands there several times, as
    after a resume, the last line counts.

    `damaged`: number of lines that are no records; they are skipped. `last`: the last step; 0: there is none.
    """

    def __init__(self, file: Path):
        self._file = file
        self.damaged, self.last = 0, 0
        self._segments = list[tuple[int, int]]()
        """First step and offset of each piece of the file that counts; a piece ends at the first step of the next."""
        if strict_json.exists(file):
            self._scan()

    def _scan(self) -> None:
        step = 0
        with strict_json.opened(self._file, _HINT) as data:
            for offset, record in _records(data):
                if record is None:
                    self.damaged += 1
                    continue
                if not self._segments or record["step"] <= step:
                    while self._segments and self._segments[-1][0] >= record["step"]:
                        self._segments.pop()
                    self._segments.append((record["step"], offset))
                step = record["step"]
                self.last = max(self.last, step)

    def __iter__(self) -> Iterator[JsonObject]:
        if not self._segments:
            return
        ends = [first for first, _ in self._segments[1:]]
        with strict_json.opened(self._file, _HINT) as data:
            for (_, offset), end in zip(self._segments, [*ends, self.last + 1], strict=True):
                data.seek(offset)
                step = 0
                for _, record in _records(data):
                    if record is not None:
                        if not step < record["step"] < end:
                            break
                        step = record["step"]
                        yield record

    def of(self, step: int) -> JsonObject | None:
        """Return the record of a step; None: there is none."""
        return next((record for record in self if record["step"] == step), None)


def relative_difference(one: float | None, other: float | None) -> float:
    """Return the difference relative to the larger value. 0 if neither is finite, infinite if one is not; None stands
    for a value that is not finite."""
    values = [value for value in (one, other) if value is not None and math.isfinite(value)]
    if len(values) < 2:
        return math.inf if values else 0.0
    return abs(values[0] - values[1]) / max(*map(abs, values), 1e-12)


def _records(data: BinaryIO) -> Iterator[tuple[int, JsonObject | None]]:
    """Yield (offset, training record) for the complete lines from the current position on, without evaluations. A
    damaged line yields None."""
    offset = data.tell()
    while line := data.readline(MOST_LINE):
        begin, offset = offset, offset + len(line)
        whole = line.endswith(b"\n")
        while line and not line.endswith(b"\n"):  # the rest of a line that is too long
            line = data.readline(MOST_LINE)
            offset += len(line)
        if not line:
            return
        record = _parsed(line) if whole else None
        if record is None or "loss" in record:
            yield begin, record


def _parsed(line: bytes) -> JsonObject | None:
    try:
        record = strict_json.parse(line)
        check_metrics(record)
    except Wrong:
        return None
    return record
