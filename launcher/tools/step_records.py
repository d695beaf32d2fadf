"""The training records of a run by step, read as a stream, also while the run writes them."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from launcher.config import strict_json
from launcher.config.strict_json import MOST_LINE, Wrong
from launcher.config.types import JsonObject
from launcher.storage.run_files import check_metrics

_HINT = "move the file away"


class _Segment(NamedTuple):
    """Records in the order of their steps, from `first` to `last`. `offset`: where to begin to read, in bytes."""

    first: int
    last: int
    offset: int


def _pieces(segments: Sequence[_Segment]) -> list[_Segment]:
    """Return the parts of segments that no later segment replaces, in the order of their steps."""
    pieces, later = list[_Segment](), list[_Segment]()
    for segment in reversed(segments):
        free = [segment]
        for other in later:
            before = [one._replace(last=min(one.last, other.first - 1)) for one in free]
            after = [one._replace(first=max(one.first, other.last + 1)) for one in free]
            free = [one for one in (*before, *after) if one.first <= one.last]
        pieces += free
        later.append(segment)
    return sorted(pieces)


class StepRecords:
    """The training records of a metrics file, in the order of their steps. If a step stands there several times, as
    after a resume, the last line counts.

    `damaged`: number of lines that are no records; they are skipped. `last`: the last step; 0: there is none.
    """

    def __init__(self, file: Path):
        self._file = file
        self.damaged, self.last = 0, 0
        self._segments = list[_Segment]()
        if strict_json.exists(file):
            self._scan()

    def _scan(self) -> None:
        """Find the segments of the file, each with ascending steps."""
        with strict_json.opened(self._file, _HINT) as data:
            for offset, record in _records(data):
                if record is None:
                    self.damaged += 1
                    continue
                step = record["step"]
                if self._segments and step > self._segments[-1].last:
                    self._segments[-1] = self._segments[-1]._replace(last=step)
                else:
                    self._segments.append(_Segment(step, step, offset))
                self.last = max(self.last, step)

    def __iter__(self) -> Iterator[JsonObject]:
        if not self._segments:
            return
        with strict_json.opened(self._file, _HINT) as data:
            for piece in _pieces(self._segments):
                data.seek(piece.offset)
                for _, record in _records(data):
                    if record is not None and record["step"] >= piece.first:
                        if record["step"] <= piece.last:
                            yield record
                        if record["step"] >= piece.last:
                            break

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
