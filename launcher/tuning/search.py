"""The search for the fastest setting, in the order of the expected gain, within a budget of seconds.

First the recipe as written is measured. Then each part of the setting is varied in turn, and the fastest value is kept:
tokens of a micro-batch, padding, options of the strategy, compilation, loader processes, other strategies. At last the
two fastest settings and the recipe as written take the same further steps by turns, so that what else runs on the
machine disturbs them alike. A part is left out if it might take longer than what is left of the budget.

The search is a generator of trials, which is sent the result of each. It decides from these alone, so that all ranks
decide alike, and a search that is started again with the same results continues where it was.
"""

from collections.abc import Generator

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
_TURNS = 3

Trials = Generator[Trial, Measured, None]
Found = Generator[Trial, Measured, Result]


class Space(Strict):
    """Settings that may be tried.

    `budget`: seconds of the search, from `begun`, a time.time. `written`: setting of the recipe. `least_tokens`,
    `most_tokens`: limits of a micro-batch. `options`: the strategy with other options. `strategies`: other strategies.
    `compiles`: whether compilation may be tried. `workers`: numbers of loader processes. `tolerance`: maximum relative
    difference of losses.
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


def trials(space: Space, results: Results) -> Trials:
    """Yield what to measure. Results are sent to the generator, which adds them to `results`."""
    yield from _Search(space, results).run()


class _Search:
    """A search. `best`: the fastest setting so far. `count`, `warm`: steps of a trial. `step`: seconds of a step of the
    recipe as written. `built`: seconds for which an engine was built, at most."""

    def __init__(self, space: Space, results: Results):
        self.space, self.results, self.best = space, results, space.written
        self.count, self.warm, self.step, self.clock, self.built = 1, 1, 0.0, 0.0, 0.0

    def run(self) -> Trials:
        """Try each part of the setting in turn, then confirm the fastest ones."""
        if not (yield from self._written()):
            return
        yield from self._token_budgets()
        yield from self._padding()
        yield from self._strategies(self.space.options)
        yield from self._compile()
        yield from self._workers()
        yield from self._strategies(self.space.strategies)
        yield from self._confirm()

    def _written(self) -> Generator[Trial, Measured, bool]:
        """Measure the recipe as written, with smaller micro-batches until they fit, and at last with activation
        checkpointing. Returns whether any of these fits."""
        start = self.space.written
        while True:
            result = yield from self._measure(Trial(setting=start, first=1, count=1))
            if result.wrong not in (TOO_LARGE, ENDED):
                break
            tokens = (start.max_tokens or self.space.most_tokens) // 2
            if tokens < self.space.least_tokens and start.activation_checkpointing != "none":
                return False
            if tokens < self.space.least_tokens:
                start = start.but(activation_checkpointing="layers")
            else:
                start = start.but(max_tokens=tokens)
        if result.wrong:
            return False
        self.step, self.best = result.last.seconds[0], start
        if start != self.space.written:
            self.results.written = start  # what others are compared with
        steps = int(self.space.budget / _SHARE_OF_TRIAL / self.step) - 1
        self.count, self.warm = max(1, min(_MOST_STEPS, steps)), int(steps > 0)
        if self.count > 1:
            yield from self._measure(Trial(setting=start, first=1, count=self.count, warm=0))
        return True

    def _token_budgets(self) -> Trials:
        """Try twice and half the tokens of a micro-batch, and so on, until two in a row are slower."""
        start = self.best
        for factor in (2.0, 0.5):
            setting, slower = start, 0
            known = self.results.of(start)
            while slower < 2 and known is not None and not known.wrong:
                if factor > 1 and known.last.micro_batches == 1:
                    break  # all is in one micro-batch already
                now = setting.max_tokens or self.space.most_tokens
                tokens = min(self.space.most_tokens, max(self.space.least_tokens, round(now * factor)))
                if tokens == now or (tokens > now) != (factor > 1):
                    break
                setting = setting.but(max_tokens=tokens)
                before = self.best
                known = yield from self._try(setting)
                slower = 0 if self.best != before else slower + 1

    def _padding(self) -> Trials:
        """Try rows without padding if there is padding, else padding; and their token budgets if they are about as
        fast."""
        now = self.results.of(self.best)
        if now is None or self.best.compile:
            return
        other: bool | str = "auto" if self.best.padding_free is False else False
        if not now.last.padding_free and other is False:
            return  # rows are padded by necessity
        setting, fastest = self.best.but(padding_free=other), self.best
        known = yield from self._try(setting)
        if known is None or known.last.padding_free == now.last.padding_free:
            return
        if self.results.ratio(known) >= _NEAR * self._ratio(fastest):
            self.best = setting
            yield from self._token_budgets()
            self.best = max((fastest, self.best), key=self._ratio)

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
                yield from self._try(self.best.but(workers=workers))

    def _confirm(self) -> Trials:
        """Let the two fastest settings and the recipe as written take the same further steps by turns."""
        fastest = [result.setting for result in self.results.ranked() if result.setting != self.results.written][:2]
        if not fastest:
            return
        settings, first = [self.results.written, *fastest], self.count + 1
        for turn in range(_TURNS):
            if turn and not self._has_time(self._seconds_of_turn(settings), kept=False):
                return
            if not turn:
                self.results.confirmed_from = first
            for setting in settings if turn % 2 == 0 else settings[::-1]:
                yield from self._measure(Trial(setting=setting, first=first, count=self.count, warm=self.warm))
            first += self.count

    def _try(self, setting: Setting, builds: bool = False) -> Generator[Trial, Measured, Result | None]:
        """Measure a setting unless it is known, and keep it if it is the fastest. Returns what is known; None: there is
        no time. `builds`: whether an engine is built, which is left soon if it is much slower."""
        known = self.results.of(setting)
        if known is None:
            if not self._has_time(self._seconds_of_trial(builds)):
                return None
            count = 1 if builds else self.count
            known = yield from self._measure(
                Trial(setting=setting, first=1, count=count, warm=max(int(builds), self.warm))
            )
            near = self.results.ratio(known) >= _NEAR * self._ratio(self.best)
            if count < self.count and near and self._has_time(self._seconds_of_trial(False)):
                known = yield from self._measure(Trial(setting=setting, first=1, count=self.count, warm=0))
        if self.results.ratio(known) > self._ratio(self.best):
            self.best = setting
        return known

    def _measure(self, trial: Trial) -> Found:
        measured = yield trial
        self.clock = measured.clock
        self.built = max(self.built, measured.built)
        return self.results.add(trial, measured)

    def _ratio(self, setting: Setting) -> float:
        known = self.results.of(setting)
        return self.results.ratio(known) if known is not None else 0.0

    def _seconds_of_trial(self, builds: bool) -> float:
        return (self.count + self.warm) * self.step * 1.2 + (self.built if builds else 0.0)

    def _seconds_of_turn(self, settings: list[Setting]) -> float:
        engines = len({setting.engine for setting in settings})
        return len(settings) * self._seconds_of_trial(False) + (engines if engines > 1 else 0) * self.built

    def _has_time(self, seconds: float, kept: bool = True) -> bool:
        """Return whether so many seconds are left of the budget. `kept`: besides those of a turn of the last part."""
        reserved = 3 * self._seconds_of_trial(False) if kept else 0.0
        return self.clock + seconds + reserved <= self.space.budget
