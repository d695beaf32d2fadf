"""The history of measurements, an object of JSON a line, and its regressions."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import groupby
from pathlib import Path

from benchmarks.pairs import Comparison

FILE = Path(__file__).with_name("history.jsonl")
ALLOWED = 0.05
"""Relative change of a ratio above which it counts as a regression."""


@dataclass(frozen=True)
class Record:
    """A comparison as the history keeps it. `machine`: its description, without which figures mean nothing. `versions`:
    of libraries. `ratios`: of the launcher's value to that of each peer."""

    benchmark: str
    title: str
    commit: str
    date: str
    machine: str
    versions: Mapping[str, str]
    unit: str
    higher_is_better: bool
    pairs: int
    medians: Mapping[str, float]
    ratios: Mapping[str, float]
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Regression:
    """A ratio that has become worse. `before`, `after`: the ratios."""

    benchmark: str
    title: str
    peer: str
    before: float
    after: float
    commits: tuple[str, str]

    def sentence(self) -> str:
        """Return a line for the user."""
        change = abs(self.after / self.before - 1)
        commits = " and ".join(self.commits)
        return (
            f"{self.benchmark}: {self.title}: the ratio to {self.peer} is {change:.0%} worse, {self.before:.2f} before "
            f"and {self.after:.2f} now (commits {commits})"
        )


def record(benchmark: str, comparison: Comparison) -> Record:
    """Return the record of a comparison that was measured here and now."""
    sides = list(comparison.measurements)
    return Record(
        benchmark=benchmark,
        title=comparison.title,
        commit=commit(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions={name: metadata.version(name) for name in ("torch", "transformers", "accelerate")},
        unit=comparison.unit,
        higher_is_better=comparison.higher_is_better,
        pairs=len(comparison.values(comparison.ours)),
        medians={side: comparison.median(side) for side in sides},
        ratios={peer: comparison.ratio(peer) for peer in comparison.peers},
        figures={side: comparison.figures(side) for side in sides},
    )


def append(file: Path, records: Sequence[Record]) -> None:
    """Append records to a history, by one write."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write("".join(json.dumps(asdict(one)) + "\n" for one in records))


def read(file: Path) -> list[Record]:
    """Return the records of a history, the oldest first. Raises ValueError with the number of a line that is none."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}:{number}: {error}") from None
    return found


def latest_pairs(records: Sequence[Record]) -> Iterator[tuple[Record, Record]]:
    """Yield the latest two records of each comparison and machine that has two, the earlier one first."""

    def key(one: Record) -> tuple[str, str, str]:
        return one.benchmark, one.title, one.machine

    for _, group in groupby(sorted(records, key=key), key):  # sorting is stable
        if len(of_one := list(group)) > 1:
            yield of_one[-2], of_one[-1]


def regressions(before: Record, after: Record) -> list[Regression]:
    """Return the ratios that have become worse by more than `ALLOWED`. A peer that only one of the two has does not
    count: a machine's own speed varies, and only ratios of one run can be compared."""
    found = []
    for peer in before.ratios.keys() & after.ratios:
        old, new = before.ratios[peer], after.ratios[peer]
        worse = new < old * (1 - ALLOWED) if after.higher_is_better else new > old * (1 + ALLOWED)
        if worse:
            commits = (before.commit, after.commit)
            found.append(Regression(after.benchmark, after.title, peer, old, new, commits))
    return sorted(found, key=lambda one: one.peer)


def machine() -> str:
    """Return a description of this machine."""
    names = [line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return f"{next(iter(names), platform.machine())}, {len(os.sched_getaffinity(0))} cores"


def commit() -> str:
    """Return the commit of this repository, with a mark if files have changed since; empty: it is not known."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=FILE.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
