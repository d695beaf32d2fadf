"""The search for the fastest setting, in the order of the expected gain, within a budget of seconds.

First the recipe as written is measured. Then tokens of a micro-batch, with and without padding, are compared by a
race: all of them take the same steps by turns, so that what else runs on the machine disturbs them alike, and after
each round the slower half is left out (successive halving; Jamieson and Talwalkar, 2016). With the winner, options of
the strategy, compilation, loader processes and other strategies are tried, each once. The fastest settings of all end
in another race. The recipe as written takes part in each race. A part is left out if it might take longer than what is
left of the budget.

The search is a generator of trials, which is sent the result of each. It decides from these alone, so that all ranks
decide alike, and a search that is started again with the same results continues where it was.
"""

from collections.abc import Generator
from typing import Literal

from launcher.config.base_model import Strict
from launcher.config.recipe import Strategy
from launcher.tuning.journal import ENDED, TOO_LARGE, Measured, Trial
from launcher.tuning.results import Result, Results
from launcher.tuning.setting import Setting

FILE = "tune.json"
_SHARE_OF_TRIAL = 40
"""A trial takes about this part of the budget, as far as steps are that fast."""
_MOST_STEPS = 10
_COMPILE_SECONDS = 40.0
"""Seconds that a compilation may take. It cannot be interrupted."""
_NEAR = 0.85
"""Ratio to the fastest setting from which on the neighbours of a setting are tried too."""
_WAITING = 0.03
"""Share of the time that ranks wait for data, from which on loader processes are tried."""
_ROUNDS = 3
_FINALISTS = 3
_RUNGS = 3
"""Number of times that the tokens of a micro-batch are halved."""

Trials = Generator[Trial, Measured, None]
Found = Generator[Trial, Measured, Result]


class Space(Strict):
    """Settings that may be tried.

    `budget`: seconds of the search, from `begun`, a time.time. `written`: setting of the recipe. `least_tokens`,
    `most_tokens`: limits of a micro-batch. `options`: the strategy with other options. `strategies`: other strategies.
    `compiles`: whether compilation may be tried. `workers`: numbers of loader processes. `tolerance`: maximum relative
    difference of losses. `most`: maximum number of settings; None: the budget alone limits the search.
    """

    budget: float
    begun: float
    written: Setting
    least_tokens: int
    most_tokens: int
    options: list[Strategy] = []
    strategies: list[Strategy] = []
    compiles: bool = True
    workers: list[int] = []
    tolerance: float
    most: int | None = None


def trials(space: Space, results: Results) -> Trials:
    """Yield what to measure. Results are sent to the generator, which adds them to `results`."""
    yield from _Search(space, results).run()


class _Search:
    """A search. `best`: the fastest setting so far. `count`, `warm`: steps of a trial. `step`: seconds of a step of the
    recipe as written. `built`: seconds for which an engine was built, at most. `first`: number of the first step of the
    latest round; `next`: that of the next one."""

    def __init__(self, space: Space, results: Results):
        self.space, self.results, self.best = space, results, space.written
        self.count, self.warm, self.step, self.clock, self.built = 1, 1, 0.0, 0.0, 0.0
        self.first, self.next = 1, 2

    def run(self) -> Trials:
        """Try each part of the setting in turn, then let the fastest ones race."""
        if not (yield from self._written()):
            return
        yield from self._race(self._micro_batches())
        yield from self._strategies(self.space.options)
        yield from self._compile()
        yield from self._workers()
        yield from self._strategies(self.space.strategies)
        ranked = [result.setting for result in self.results.ranked() if result.setting != self.results.written]
        yield from self._race(ranked[:_FINALISTS], is_last=True)

    def _written(self) -> Generator[Trial, Measured, bool]:
        """Measure the recipe as written, with smaller micro-batches until they fit, and at last with activation
        checkpointing. Returns whether any of these fits."""
        start = self.space.written
        while True:
            result = yield from self._measure(Trial(setting=start, first=1, count=1))
            if result.wrong not in (TOO_LARGE, ENDED):
                break
            tokens = (start.max_tokens or self.space.most_tokens) // 2
            if tokens >= self.space.least_tokens:
                start = start.but(max_tokens=tokens)
            elif start.activation_checkpointing == "none":
                start = start.but(activation_checkpointing="layers")
            else:
                return False
        if result.wrong:
            return False
        self.results.written, self.best = start, start  # others are compared with what fits
        self.step = result.last.seconds[0]
        steps = int(self.space.budget / _SHARE_OF_TRIAL / self.step) - 1
        self.count, self.warm = max(1, min(_MOST_STEPS, steps)), int(steps > 0)
        return True

    def _micro_batches(self) -> list[Setting]:
        """Return the settings with other micro-batches: more and fewer tokens, in the ascending order of tokens; as
        written and with the other kind of rows."""
        base, space = self.best, self.space
        now = base.max_tokens or space.most_tokens
        sizes = {max(space.least_tokens, now >> halved) for halved in range(_RUNGS + 1)}
        while now < space.most_tokens:
            now = min(2 * now, space.most_tokens)
            sizes.add(now)
        rows: list[Literal["auto"] | bool] = [base.padding_free]
        known = self.results.of(base)
        if known is not None and known.last.padding_free:
            rows.append(False)
        elif base.padding_free is False and not base.compile:
            rows.append("auto")
        return [base.but(max_tokens=size, padding_free=kind) for kind in rows for size in sorted(sizes)]

    def _race(self, settings: list[Setting], is_last: bool = False) -> Trials:
        """Let settings and the recipe as written take the same steps by turns, round by round. After each round, the
        slower half is left out. `is_last`: the time that is kept for the last race may be used."""
        racing = [setting for setting in settings if setting != self.results.written]
        for number in range(_ROUNDS):
            count = self.count if number or is_last else max(1, self.count // 2)
            if not racing or (number and not self._has_time(self._seconds_of_round(racing, count), kept=not is_last)):
                break
            if is_last and not number:
                self.results.confirmed_from = self.next
            racing = yield from self._round(racing, count, kept=not is_last, reverse=number % 2 == 1)
            racing = racing if is_last and number else racing[: max(2, len(racing) // 2)]
        self.best = max((self.best, *racing), key=self._ratio)

    def _round(
        self, racing: list[Setting], count: int, kept: bool, reverse: bool
    ) -> Generator[Trial, Measured, list[Setting]]:
        """Let each setting take the next steps. Returns those that did, the fastest first. `kept`: as for `_has_time`.
        `reverse`: in the reverse order."""
        self.first, self.next = self.next + self.warm, self.next + self.warm + count
        took, whole = list[Setting](), set[str]()
        for setting in sorted([self.results.written, *racing], key=lambda one: one.engine, reverse=reverse):
            rows = setting.but(max_tokens=None).model_dump_json()
            if rows in whole and self.results.of(setting) is None:
                continue  # the same steps were one micro-batch under fewer tokens
            if not self._is_allowed(setting):
                continue
            if took and not self._has_time(self._seconds_of_round([], count), kept):
                break
            result = yield from self._measure(Trial(setting=setting, first=self.first, count=count, warm=self.warm))
            took.append(setting)
            if result.last.micro_batches == 1 and setting in racing:
                whole.add(rows)
        ranked = [setting for setting in took if setting in racing and self._ratio(setting) > 0]
        return sorted(ranked, key=self._ratio, reverse=True)

    def _strategies(self, strategies: list[Strategy]) -> Trials:
        for strategy in strategies:
            yield from self._try(self.best.but(strategy=strategy), builds=True)

    def _compile(self) -> Trials:
        if self.space.compiles and not self.best.compile and self._has_time(_COMPILE_SECONDS):
            padding = False if self.best.padding_free is True else self.best.padding_free
            yield from self._try(self.best.but(compile=True, padding_free=padding), builds=True)

    def _workers(self) -> Trials:
        now = self.results.of(self.best)
        if now is not None and now.last.waited >= _WAITING:
            for workers in self.space.workers:
                yield from self._try(self.best.but(workers=workers), builds=False)

    def _try(self, setting: Setting, builds: bool) -> Trials:
        """Measure a setting in the steps of the latest round unless it is known, and keep it if it is the fastest.
        `builds`: whether an engine is built, which is left soon if it is much slower."""
        if self.results.of(setting) is not None or not self._is_allowed(setting):
            return
        if not self._has_time(self._seconds_of_round([], self.count, builds)):
            return
        first, warm = self.first, max(int(builds), self.warm)
        count = 1 if builds else self.count
        known = yield from self._measure(Trial(setting=setting, first=first, count=count, warm=warm))
        near = self.results.ratio(known) >= _NEAR * self._ratio(self.best)
        if count < self.count and near and self._has_time(self._seconds_of_round([], self.count)):
            yield from self._measure(Trial(setting=setting, first=first, count=self.count, warm=0))
        self.best = max((self.best, setting), key=self._ratio)

    def _measure(self, trial: Trial) -> Found:
        measured = yield trial
        self.clock = measured.clock
        self.built = max(self.built, measured.built)
        return self.results.add(trial, measured)

    def _is_allowed(self, setting: Setting) -> bool:
        """Return whether the setting is known, or one more may be measured."""
        most = self.space.most
        return most is None or len(self.results.found) < most or self.results.of(setting) is not None

    def _ratio(self, setting: Setting) -> float:
        known = self.results.of(setting)
        return self.results.ratio(known) if known is not None else 0.0

    def _seconds_of_round(self, racing: list[Setting], count: int, builds: bool = False) -> float:
        """Return the expected seconds of a round of the recipe as written and these settings. `builds`: an engine is
        built for it."""
        engines = len({setting.engine for setting in (self.results.written, *racing)})
        built = self.built * (engines if engines > 1 else int(builds))
        return (1 + len(racing)) * (count + self.warm) * self.step + built

    def _has_time(self, seconds: float, kept: bool = True) -> bool:
        """Return whether so many seconds are left of the budget. `kept`: besides those of two rounds of the last
        race."""
        engines = 2 if self.space.options or self.space.strategies else 0
        reserved = 2 * ((1 + _FINALISTS) * (self.count + self.warm) * self.step + engines * self.built) if kept else 0.0
        return self.clock + seconds + reserved <= self.space.budget
