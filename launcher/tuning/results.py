"""Results of the measured settings, and which one is the fastest."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from launcher.tuning.journal import Measured, Trial
from launcher.tuning.setting import Setting

WORTHWHILE = 1.02
"""Minimum ratio to the recipe as written for which another setting is worth it. Less is within what the time of equal
steps varies by."""


@dataclass
class Result:
    """All that was measured of a setting. `seconds`, `losses`, `data`, `tokens`: by the number of the step. `last`: the
    last measurement. `wrong`: why the setting cannot be used; empty: it can."""

    setting: Setting
    seconds: dict[int, float] = field(default_factory=dict)
    losses: dict[int, float | None] = field(default_factory=dict)
    data: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    memory: int = 0
    last: Measured = field(default_factory=Measured)
    wrong: str = ""

    def add(self, trial: Trial, measured: Measured) -> None:
        """Add a measurement. A step that was measured before counts with the new time."""
        self.last, self.wrong = measured, self.wrong or measured.wrong
        steps = range(trial.first, trial.first + len(measured.seconds))
        self.seconds.update(zip(steps, measured.seconds, strict=True))
        self.losses.update(zip(steps, measured.losses, strict=True))
        self.data.update(zip(steps, measured.data, strict=True))
        self.tokens.update(zip(steps, measured.tokens, strict=True))
        self.memory = max(self.memory, measured.memory)


@dataclass
class Results:
    """The results of a search. `written`: the setting of the recipe. `tolerance`: maximum relative difference between
    the losses of a step. `confirmed_from`: number of the first step of the last race."""

    written: Setting
    tolerance: float
    confirmed_from: int | None = None
    found: dict[str, Result] = field(default_factory=dict)

    def add(self, trial: Trial, measured: Measured) -> Result:
        """Add a measurement, and return all that is known of its setting."""
        result = self.found.setdefault(trial.setting.model_dump_json(), Result(trial.setting))
        result.add(trial, measured)
        if not result.wrong and not self.agrees(result):
            result.wrong = "other losses than the recipe as written"
        return result

    def of(self, setting: Setting) -> Result | None:
        """Return what is known of a setting; None: it was not measured."""
        return self.found.get(setting.model_dump_json())

    @property
    def base(self) -> Result:
        """What is known of the recipe as written."""
        return self.of(self.written) or Result(self.written)

    def agrees(self, result: Result) -> bool:
        """Return whether a setting has the losses and digests of the recipe as written, in all steps that both took."""
        base = self.base
        return all(
            base.data[step] == result.data[step] and _near(base.losses[step], result.losses[step], self.tolerance)
            for step in base.data.keys() & result.data.keys()
        )

    def ratio(self, result: Result) -> float:
        """Return how many times as fast a setting is as the recipe as written: the median over the steps that both
        took; 0: it cannot be used, or there is no such step."""
        base = self.base.seconds
        ratios = [base[step] / result.seconds[step] for step in base.keys() & result.seconds.keys()]
        return 0.0 if result.wrong or not ratios else median(ratios)

    def tokens_per_second(self, result: Result) -> float:
        """Return the tokens per second of a setting: those of the recipe as written, times the ratio to it."""
        base = self.base
        seconds = sum(base.seconds.values())
        return self.ratio(result) * sum(base.tokens.values()) / seconds if seconds else 0.0

    def ranked(self) -> list[Result]:
        """Return the settings that can be used, the fastest first. Those of the last race come first."""
        usable = [result for result in self.found.values() if self.ratio(result) > 0]
        return sorted(usable, key=lambda result: (not self._confirmed(result), -self.ratio(result)))

    def best(self) -> Result | None:
        """Return the fastest setting; that of the recipe if no other is worth it; None: none can be used."""
        ranked = self.ranked()
        if not ranked:
            return None
        base = self.base
        worth = self.ratio(ranked[0]) >= WORTHWHILE or self.ratio(base) == 0
        return ranked[0] if worth else base

    def _confirmed(self, result: Result) -> bool:
        return self.confirmed_from is not None and any(step >= self.confirmed_from for step in result.seconds)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.found.values())


def _near(one: float | None, other: float | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= tolerance * max(abs(one), abs(other))
