"""The seconds of a run as a time line: a row for each purpose, filled by its share of each moment, and events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from launcher.storage.ledger import OF_STEPS, PURPOSES, LedgerLine, Purpose
from launcher.tools.report import palette
from launcher.tools.report.drawing import Drawing, settings
from launcher.tools.report.series import Array

GROUPS: dict[Purpose, str] = {
    **dict.fromkeys(PURPOSES, "holds"), **dict.fromkeys(OF_STEPS, "counts"),
    "hang": "wasted", "lost": "wasted", "down": "wasted",
}  # fmt: skip
"""Colour of each purpose: counts (steps that count), holds (needed, but not for a step), wasted."""
GROUP_NAMES = {"counts": "steps that count", "holds": "around the steps", "wasted": "wasted"}
_UNITS = (("days", 2 * 86400.0, 86400.0), ("hours", 7200.0, 3600.0), ("minutes", 120.0, 60.0), ("seconds", 0.0, 1.0))
_SYMBOLS = {"start": "|", "restart": "v", "hang": "X", "roll back": "<", "end": "s"}


@dataclass(frozen=True)
class Mark:
    """An event of a run. `time`: seconds since the beginning of the time line."""

    kind: str
    time: float
    text: str


def unit(seconds: float) -> tuple[str, float]:
    """Return a unit that suits a duration, and its seconds."""
    return next((name, size) for name, least, size in _UNITS if seconds >= least)


def shares(spans: Sequence[Mapping[Purpose, float]], bins: int) -> tuple[Array, dict[Purpose, Array]]:
    """Return the edges of equal bins of time in seconds, and the share of each bin by purpose. Seconds of a span count
    as spread evenly over it."""
    ends = np.cumsum([sum(span.values()) for span in spans])
    edges = np.linspace(0.0, float(ends[-1]), bins + 1)
    found = dict[Purpose, Array]()
    for purpose in PURPOSES:
        passed = np.cumsum([span.get(purpose, 0.0) for span in spans])
        if passed[-1] > 0:
            at_edges = np.interp(edges, np.append(0.0, ends), np.append(0.0, passed))
            found[purpose] = np.clip(np.diff(at_edges) / (edges[1] - edges[0]), 0.0, 1.0)
    return edges, found


def roll_backs(lines: Sequence[LedgerLine]) -> list[Mark]:
    """Return the moments at which a process went back to an earlier step."""
    found = list[Mark]()
    for before, after in pairwise(lines):
        if before.process == after.process and (after.step or 0) < (before.step or 0):
            text = f"from step {before.step} to {after.step}"
            found.append(Mark("roll back", after.time - lines[0].begun, text))
    return found


def draw(name: str, title: str, spans: Sequence[Mapping[Purpose, float]], marks: Sequence[Mark], wide: bool) -> Drawing:
    """Draw the time line. `wide`: for a screen, else for a phone."""
    from matplotlib.figure import Figure

    edges, parts = shares(spans, 260 if wide else 110)
    kinds = [kind for kind in _SYMBOLS if any(mark.kind == kind for mark in marks)]
    rows = [*parts]
    word, size = unit(float(edges[-1]))
    inches = 0.9 + 0.31 * (len(rows) + bool(kinds)) + 0.25 * bool(kinds)
    with settings(grid=False):
        figure = Figure(figsize=(12.6 if wide else 5.0, inches), layout="constrained")
        axes = figure.add_subplot(facecolor="none")
        for number, purpose in enumerate(rows):
            base, share = len(rows) - 1 - number, np.append(parts[purpose], parts[purpose][-1])
            axes.axhline(base, color=palette.light("grid"), linewidth=0.8)
            colour = palette.light(GROUPS[purpose])
            axes.fill_between(edges / size, base, base + 0.86 * share, step="post", color=colour, linewidth=0)
        for kind in kinds:
            times = [mark.time / size for mark in marks if mark.kind == kind]
            axes.plot(
                times, [len(rows) + 0.4] * len(times), linestyle="", marker=_SYMBOLS[kind], markersize=6.5,
                color=palette.light("ink" if kind in ("start", "end") else "wasted"), label=kind, clip_on=False,
            )  # fmt: skip
        places = [len(rows) - 1 - number + 0.4 for number in range(len(rows))]
        axes.set_yticks([*places, *([len(rows) + 0.4] if kinds else [])], [*rows, *(["events"] if kinds else [])])
        axes.tick_params(axis="y", length=0, labelcolor=palette.light("ink"))
        axes.spines["left"].set_visible(False)
        axes.set(xlim=(0, edges[-1] / size), ylim=(0, len(rows) + (0.9 if kinds else 0)), xlabel=f"time ({word})")
        axes.set_xlabel(
            f"wall-clock time since the first start ({word})" if wide else f"since the first start ({word})"
        )
        axes.set_title(title)
        if kinds:
            figure.legend(loc="outside upper right", ncols=len(kinds), handlelength=1.0, columnspacing=1.2)
    return Drawing(name, _in_words(title, spans, marks), figure)


def _in_words(title: str, spans: Sequence[Mapping[Purpose, float]], marks: Sequence[Mark]) -> str:
    totals = {purpose: sum(span.get(purpose, 0.0) for span in spans) for purpose in PURPOSES}
    whole = sum(totals.values()) or 1.0
    parts = [f"{purpose} {seconds / whole:.1%}" for purpose, seconds in totals.items() if seconds > 0]
    kinds = [
        f"{sum(mark.kind == kind for mark in marks)} of kind {kind}" for kind in dict.fromkeys(m.kind for m in marks)
    ]
    return f"{title}: shares of the time: {', '.join(parts)}." + (f" Events: {', '.join(kinds)}." if kinds else "")
