"""`launcher logs`: the logs of a run's ranks, nodes and jobs, merged, and followed until the run ends."""

import heapq
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from launcher.config.errors import UserError
from launcher.config.strict_json import shown
from launcher.storage.run_dir import RunDir
from launcher.tools.status import run_status
from launcher.tools.status.run_events import JobSchedulers

_FILE = re.compile(r"(rank|node|job)-?(.+)\.log")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ")
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.")
_BLOCK, _LONGEST = 1 << 16, 1 << 16
"""Bytes that are read at once, and the maximum length of a line in bytes."""
_BEFORE = 200
"""Lines before the printed ones in which their time is looked for, such as those of a traceback."""
_INTERVAL, _STATE_INTERVAL, _QUEUE_INTERVAL = 0.3, 2.0, 10.0
"""Seconds between two looks at the files, at the state of a run, and at that of a job whose scheduler is asked."""
_ALIVE = ("running", "pending", "requeued", "ready")
"""States of a run that may write more."""


class Line(NamedTuple):
    """A line of a log. `time`: its own or that of the line before, in seconds since the epoch. `source`: such as
    `rank 0`."""

    time: float
    source: str
    text: str


@dataclass
class LogFile:
    """One log, which is read from `offset` on. `rest`: an incomplete line. `time`: of the last line with a time."""

    path: Path
    source: str
    offset: int = 0
    rest: bytes = b""
    time: float = 0.0

    def new_lines(self, at_end: bool = False) -> list[Line]:
        """Return the lines that were added. A file that has become shorter is read from its beginning. `at_end`:
        include a last line without its end."""
        return list(self._read(at_end))

    def all_lines(self) -> Iterator[Line]:
        """Yield all lines, an incomplete one included, without more of the file in memory than a block."""
        self.time = next((line.time for line in self._read() if line.time), 0.0)
        if not self.time:
            with suppress(OSError):
                self.time = self.path.stat().st_mtime
        self.offset, self.rest = 0, b""
        yield from self._read(at_end=True)

    def _read(self, at_end: bool = False) -> Iterator[Line]:
        with suppress(OSError), self.path.open("rb") as data:
            if os.fstat(data.fileno()).st_size < self.offset:
                self.offset, self.rest = 0, b""
            data.seek(self.offset)
            while block := data.read(_BLOCK):
                self.offset = data.tell()
                *texts, self.rest = (self.rest + block).split(b"\n")
                if len(self.rest) > _LONGEST:
                    texts.append(self.rest)
                    self.rest = b""
                yield from map(self._line, texts)
        if at_end and self.rest:
            rest, self.rest = self.rest, b""
            yield self._line(rest)

    def last_lines(self, count: int) -> list[Line]:
        """Return the last lines, an incomplete one included."""
        with suppress(OSError):
            self.offset = _offset_of_last(self.path, count + _BEFORE)
        lines = self.new_lines(at_end=True)
        first = next((line.time for line in lines if line.time), None)
        if first is None:
            with suppress(OSError):
                first = self.path.stat().st_mtime
        return [line if line.time else line._replace(time=first or 0.0) for line in lines[-count:]]

    def _line(self, raw: bytes) -> Line:
        text = raw[:_LONGEST].decode(errors="replace")
        if found := _TIME.match(text):
            with suppress(ValueError, OverflowError):
                at = time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S")) + int(found[2]) / 1000
                self.time = max(self.time, at)
        return Line(self.time, self.source, text.rstrip("\r"))


@dataclass
class RunLogs:
    """The logs of a run. `rank`: only those of this rank; None: all logs."""

    folder: RunDir
    rank: int | None = None
    files: dict[Path, LogFile] = field(default_factory=dict)

    def find(self) -> list[LogFile]:
        """Return the logs that were not there before, those of low ranks first."""
        found = list[LogFile]()
        with suppress(OSError):
            for path in self.folder.logs.iterdir():
                name = _FILE.fullmatch(path.name)
                if name is None or path in self.files or not path.is_file() or not self._wanted(name[1], name[2]):
                    continue
                found.append(LogFile(path, shown(f"{name[1]} {name[2]}", 64)))
        found.sort(key=lambda file: _order(file.source))
        self.files.update({file.path: file for file in found})
        return found

    def _wanted(self, kind: str, name: str) -> bool:
        if kind == "rank" and not name.isdecimal():
            return False
        return self.rank is None or (kind == "rank" and int(name) == self.rank)

    def last(self, count: int) -> Iterator[Line]:
        """Return the last lines of all logs together, in the order of their times (0: all, read as they are taken)."""
        files = self.find()
        if not count:
            return merge([file.all_lines() for file in files])
        return iter(list(merge(file.last_lines(count) for file in files))[-count:])

    def new(self, at_end: bool = False) -> list[Line]:
        """Return the lines that were added to any log, in the order of their times."""
        self.find()
        return list(merge(file.new_lines(at_end) for file in self.files.values()))

    def print(self, lines: Iterable[Line], console: Console) -> None:
        """Print lines, each after its source if there may be several. On a terminal, without control characters."""
        width = max((len(file.source) for file in self.files.values()), default=0)
        for line in lines:
            text = line.text
            if console.is_terminal:
                text = shown(_SEQUENCE.sub("", text).rpartition("\r")[2].expandtabs(), _LONGEST)
            console.file.write(f"{text}\n" if self.rank is not None else f"{line.source:<{width}} | {text}\n")
        console.file.flush()


def logs(run: str, rank: int | None, follow: bool, count: int, console: Console) -> None:
    """Print the last lines of a run's logs. `rank`: of this rank only. `follow`: print what is added until the run
    ends, and wait for a run that is not there yet. `count`: number of lines; 0: all. Raises UserError if there is no
    run, or no log."""
    if follow:
        with suppress(KeyboardInterrupt):
            _follow(RunLogs(_wait_for(run, console), rank), count, console)
        return
    there = RunLogs(run_status.find_run(run), rank)
    lines = there.last(count)
    if (first := next(lines, None)) is None:
        raise UserError(f"{there.folder.path}: {_missing(there)}")
    there.print(chain([first], lines), console)


def merge(files: Iterable[Iterable[Line]]) -> Iterator[Line]:
    """Yield the lines of all files in the order of their times. The lines of a file keep their order."""
    return heapq.merge(*files, key=lambda line: line.time)


def _wait_for(run: str, console: Console) -> RunDir:
    """Return the folder of a run, as soon as it is there."""
    said = False
    while True:
        try:
            return run_status.find_run(run)
        except UserError:
            pass
        if not said:
            console.print(f"{run}: no run is there yet: waiting for it", highlight=False, markup=False, soft_wrap=True)
            said = True
        time.sleep(_INTERVAL)


def _follow(there: RunLogs, count: int, console: Console) -> None:
    """Print the last lines, then those that are added until the run has ended: over restarts, and while a job waits to
    start again."""
    there.print(there.last(count), console)
    status = run_status.read_status(there.folder, JobSchedulers())
    while status.state.name in _ALIVE:
        end = time.monotonic() + (_QUEUE_INTERVAL if status.job else _STATE_INTERVAL)
        while time.monotonic() < end:
            there.print(there.new(), console)
            time.sleep(_INTERVAL)
        status = run_status.read_status(there.folder, JobSchedulers())
    there.print(there.new(at_end=True), console)
    last = f"{status.folder}: {status.state.name}" + (f": {status.error}" if status.error else "")
    console.print(last, highlight=False, markup=False, soft_wrap=True)


def _missing(there: RunLogs) -> str:
    """Return why there is nothing to print."""
    if there.rank is not None:
        names = sorted((path.name for path in there.folder.logs.glob("rank*.log")), key=lambda name: (len(name), name))
        known = f"there are {', '.join(names[:8])}" if names else "no rank has started"
        return f"no log of rank {there.rank} ({known})"
    return "no log is there yet: no rank has started (-f waits for it)"


def _order(source: str) -> tuple[str, int, str]:
    kind, _, name = source.partition(" ")
    return {"job": "0", "node": "1"}.get(kind, "2"), int(name) if name.isdecimal() else 0, name


def _offset_of_last(path: Path, count: int) -> int:
    """Return where the last lines of a file begin. At most `_LONGEST` bytes are read for each of them."""
    with path.open("rb") as data:
        end = size = data.seek(0, os.SEEK_END)
        data.seek(max(0, size - 1))
        newlines = count + 1 if data.read(1) == b"\n" else count
        while end > 0 and size - end < count * _LONGEST:
            begin = max(0, end - _BLOCK)
            data.seek(begin)
            block = data.read(end - begin)
            if (found := block.count(b"\n")) >= newlines:
                at = len(block)
                for _ in range(newlines):
                    at = block.rfind(b"\n", 0, at)
                return begin + at + 1
            newlines, end = newlines - found, begin
    return end
