"""Measurements of the launcher and its peers in alternation, and their medians and ratios.

A module of a benchmark looks like this:

    def options(parser):
        parser.add_argument("--ranks", type=int, default=2)

    def measure(options):
        sides = [Side("launcher", ours), Side("torchrun", theirs)]
        return [alternate("from command to first step", "s", sides, options.pairs, higher_is_better=False)]
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Measurement:
    """One measurement of a side.

    `value`: in the unit of the comparison. `figures`: other figures, by column of the table. `losses`: by step, of the
    steps that were measured.
    """

    value: float
    figures: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """A program to measure. `measure`: takes one measurement, and returns it or its value alone."""

    name: str
    measure: Callable[[], Measurement | float]


@dataclass(frozen=True)
class Comparison:
    """Measurements of several sides. The first side is the launcher's.

    `unit`: of the values. `measurements`: of each side, by pair. `notes`: lines below the table.
    """

    title: str
    unit: str
    higher_is_better: bool
    measurements: Mapping[str, Sequence[Measurement]]
    notes: Sequence[str] = ()

    @property
    def ours(self) -> str:
        """Name of the launcher's side."""
        return next(iter(self.measurements))

    @property
    def peers(self) -> list[str]:
        """Names of the other sides."""
        return list(self.measurements)[1:]

    def values(self, side: str) -> list[float]:
        return [measurement.value for measurement in self.measurements[side]]

    def median(self, side: str) -> float:
        return statistics.median(self.values(side))

    def spread(self, side: str) -> float:
        """Return half of the range between the smallest and the largest value, as a share of the median."""
        values = self.values(side)
        return (max(values) - min(values)) / 2 / self.median(side) if self.median(side) else 0.0

    def ratios(self, peer: str) -> list[float]:
        """Return the launcher's value divided by the peer's, of each pair."""
        return [ours / theirs for ours, theirs in zip(self.values(self.ours), self.values(peer), strict=True)]

    def ratio(self, peer: str) -> float:
        """Return the median of the ratios."""
        return statistics.median(self.ratios(peer))

    def figures(self, side: str) -> dict[str, float]:
        """Return the medians of a side's other figures."""
        names = dict.fromkeys(name for one in self.measurements[side] for name in one.figures)
        return {
            name: statistics.median(one.figures[name] for one in self.measurements[side] if name in one.figures)
            for name in names
        }

    def loss_difference(self, peer: str) -> float | None:
        """Return the largest relative difference between the losses of a step that both sides took; None: there is no
        such step."""
        ours, theirs = (
            {step: loss for one in self.measurements[side] for step, loss in one.losses.items()}
            for side in (self.ours, peer)
        )
        return max((abs(ours[step] - theirs[step]) / abs(theirs[step]) for step in ours.keys() & theirs), default=None)


@runtime_checkable
class Benchmark(Protocol):
    """A module of a benchmark."""

    __name__: str
    __doc__: str | None

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Add the benchmark's options. `--pairs`, `--json` and `--record` are those of all benchmarks."""

    def measure(self, options: argparse.Namespace) -> Sequence[Comparison]:
        """Measure, and return the comparisons. A benchmark without a peer prints its own table and returns none. Raises
        `Unavailable`."""


class Unavailable(Exception):
    """The machine lacks what a benchmark needs."""


def alternate(
    title: str,
    unit: str,
    sides: Sequence[Side],
    pairs: int,
    *,
    higher_is_better: bool = True,
    warm_up: int = 1,
    notes: Sequence[str] = (),
) -> Comparison:
    """Measure all sides in turn, `pairs` times, after `warm_up` rounds that do not count. Every second round has the
    reverse order, so that a slow drift of the machine's speed is the same for all sides."""
    measurements: dict[str, list[Measurement]] = {side.name: [] for side in sides}
    for number in range(warm_up + pairs):
        for side in sides if number % 2 == 0 else reversed(sides):
            taken = side.measure()
            if number >= warm_up:
                measurements[side.name].append(Measurement(taken) if isinstance(taken, int | float) else taken)
    return Comparison(title, unit, higher_is_better, measurements, notes)
