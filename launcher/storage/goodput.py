"""The seconds of a run over all its starts, each with one purpose, and the share of them that counts: goodput.

Pure functions of the lines of the ledger and of the hangs in the job log.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from launcher.storage.job_log import Event
from launcher.storage.ledger import OF_STEPS, PURPOSES, LedgerLine, Purpose

_OF_HANGS: tuple[Purpose, ...] = ("down", *reversed(OF_STEPS), "save", "evaluate")
"""Purposes as which the seconds of a hang were recorded."""


class Hang(NamedTuple):
    """A hang that ended a start's ranks. `time`: of its end, in seconds since the epoch."""

    time: float
    seconds: float


@dataclass(frozen=True)
class RunSeconds:
    """The seconds of a run. `goodput`: share of `total` in data, compute and communicate of steps that count."""

    total: float
    goodput: float
    parts: dict[Purpose, float]

    @classmethod
    def of(cls, parts: dict[Purpose, float]) -> "RunSeconds":
        """Return the seconds by purpose, with their sum and goodput."""
        total = sum(parts.values())
        return cls(total, sum(parts[purpose] for purpose in OF_STEPS) / total if total > 0 else 0.0, parts)


def hangs(events: Iterable[Event]) -> list[Hang]:
    """Return the hangs among the events of a job log, without those that were only reported."""
    ended = [event for event in events if event["event"] == "hang" and event.get("action") != "report"]
    found = [Hang(_number(event, "time"), _number(event, "seconds")) for event in ended]
    return [hang for hang in found if hang.seconds > 0]


def _number(event: Event, key: str) -> float:
    value = event.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def account(
    lines: Sequence[LedgerLine], hangs: Sequence[Hang] = (), saved: int | None = None, end: float | None = None
) -> RunSeconds | None:
    """Return the seconds of a run by purpose; None: there are no lines.

    `saved`: step from which the run will resume: what was done after it is lost; None: the run goes on. `end`: of the
    run, in seconds since the epoch; None: the last line.

    Between two processes, differences of the wall clock that are negative, as after it was set back, count as 0.
    """
    return RunSeconds.of(_account(lines, hangs, saved, end).parts()) if lines else None


def time_line(
    lines: Sequence[LedgerLine], hangs: Sequence[Hang] = (), saved: int | None = None, end: float | None = None
) -> list[dict[Purpose, float]]:
    """Return the same seconds by purpose, from one line to the next, in the order in which they passed."""
    stretches = _account(lines, hangs, saved, end).stretches if lines else []
    return [{purpose: max(0.0, value) for purpose, value in one.seconds.items()} for one in stretches]


def _account(lines: Sequence[LedgerLine], hangs: Sequence[Hang], saved: int | None, end: float | None) -> "_Account":
    run = _Account(lines[0], sorted(hangs))
    for line in lines:
        run.add(line)
    if saved is not None:
        run.throw_away(saved)
    run.finish(end)
    return run


@dataclass
class _Stretch:
    """Seconds that passed between two lines. `first`, `last`: steps taken before and after them; None: they belong to
    no step that counts."""

    seconds: dict[Purpose, float]
    first: int | None = None
    last: int | None = None

    def move(self, purpose: Purpose, to: Purpose, share: float) -> float:
        """Give a share of the seconds of a purpose to another one, and return how many."""
        moved = self.seconds.get(purpose, 0.0) * share
        self.seconds[purpose] = self.seconds.get(purpose, 0.0) - moved
        self.seconds[to] = self.seconds.get(to, 0.0) + moved
        return moved

    def lose(self, share: float) -> None:
        """Mark a share of the seconds of steps as lost."""
        for purpose in OF_STEPS:
            self.move(purpose, "lost", share)


@dataclass
class _Account:
    """The seconds of a run up to `line`. `hangs`: those that are not accounted for yet, in the order of their times.
    `ended`: processes that others have followed."""

    line: LedgerLine
    hangs: list[Hang]
    stretches: list[_Stretch] = field(default_factory=list)
    ended: set[tuple[str, str]] = field(default_factory=set)

    def add(self, line: LedgerLine) -> None:
        """Account for the seconds up to a line. Lines of a process that another one has followed do not count."""
        if (line.process, line.writer) in self.ended:
            return
        before = dict[Purpose, float]()
        same = not self.stretches or (line.process, line.writer) == (self.line.process, self.line.writer)
        if not same:
            self._follow(line)
        elif self.stretches:
            before = self.line.seconds
        first = self.line.step if same and self.stretches else None
        if line.step is not None and (first is None or line.step < first):
            self.throw_away(line.step)
            first = line.step
        purposes = {*before, *line.seconds}
        passed = {purpose: line.seconds.get(purpose, 0.0) - before.get(purpose, 0.0) for purpose in purposes}
        self.stretches.append(_Stretch(passed, first, line.step))
        self.line = line

    def throw_away(self, step: int) -> None:
        """Mark the seconds after this number of steps as lost."""
        for stretch in reversed(self.stretches):
            if stretch.first is None or stretch.last is None:
                continue
            if stretch.first >= step:
                stretch.lose(1.0)
                stretch.first = stretch.last = None
            elif stretch.last > step:
                stretch.lose((stretch.last - step) / (stretch.last - stretch.first))
                stretch.last = step
            else:
                return

    def finish(self, end: float | None) -> None:
        """Account for the time from the last line to the end of the run."""
        stretch = _Stretch({"down": 0.0 if end is None else max(0.0, end - self.line.time)})
        self.stretches.append(stretch)
        self._account_for_hangs(stretch, None)

    def parts(self) -> dict[Purpose, float]:
        """Return the seconds by purpose."""
        return {
            purpose: max(0.0, sum(stretch.seconds.get(purpose, 0.0) for stretch in self.stretches))
            for purpose in PURPOSES
        }

    def _follow(self, line: LedgerLine) -> None:
        """Account for the time between the last process and the one of `line`. Ranks that a command starts are being
        started in it; otherwise nothing ran."""
        purpose: Purpose = "start" if self.line.writer == "command" and line.writer == "rank" else "down"
        stretch = _Stretch({purpose: max(0.0, line.begun - self.line.time)})
        self.stretches.append(stretch)
        self._account_for_hangs(stretch, line.begun)
        self.ended.add((self.line.process, self.line.writer))

    def _account_for_hangs(self, gap: _Stretch, until: float | None) -> None:
        """Mark the last seconds of the last process as a hang, from the gap after it back to its last whole step.
        `until`: time of the next process's beginning; None: there is none."""
        due = [hang for hang in self.hangs if until is None or hang.time <= until]
        self.hangs = self.hangs[len(due) :]
        left = max((hang.seconds for hang in due), default=0.0)  # each node may record the same hang
        for stretch in reversed(self.stretches):
            if left <= 0 or not (stretch is gap or stretch.first == stretch.last is not None):
                return
            for purpose in _OF_HANGS:
                there = stretch.seconds.get(purpose, 0.0)
                if there > 0 and left > 0:
                    left -= stretch.move(purpose, "hang", min(1.0, left / there))
