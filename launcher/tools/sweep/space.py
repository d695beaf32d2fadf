"""The values that a sweep tries: lists of values and ranges, as they are written on the command line."""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from launcher.config import document
from launcher.config.base_model import hint
from launcher.config.document import Override, Value
from launcher.config.errors import UserError, shown
from launcher.tools import recipe_differences, sweep_grid

Params = dict[str, Value]
"""Values of a trial by recipe key."""

_RANGES = ("int", "float", "log", "choice")
_RANGE = re.compile(r"(?P<kind>[a-z_]+):(?P<ends>[^,\[{]*)")
_RESERVED = {
    "name": "each trial is a run with a name of its own",
    "seed": "--seeds N trains each trial with several seeds",
    "seeds": "--seeds N trains each trial with several seeds",
    "evaluate.metric": "trials are compared by one metric (--metric)",
    "evaluate.direction": "trials are compared by one metric (--metric)",
    "data.validation": "trials are compared on the same samples",
    "data.folds": "trials are compared on the same samples",
    "data.test": "a sweep never looks at the test set",
}
_DRAWS_PER_TRIAL = 50
"""Maximum number of draws for each trial, of which equal ones are left out."""


@dataclass(frozen=True)
class Choices:
    """A list of values. `origin`: text with which a message about it begins."""

    key: str
    values: tuple[Value, ...]
    origin: str

    def draw(self, generator: random.Random) -> Value:
        return generator.choice(self.values)

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.values


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included. `log`: uniform in the logarithm. `whole`: integers only."""

    key: str
    low: float
    high: float
    log: bool
    whole: bool
    origin: str

    def draw(self, generator: random.Random) -> Value:
        """Return a random number, rounded to four significant digits."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        if self.whole and not self.log:
            return generator.randint(int(low), int(high))
        number = generator.uniform(low, high)
        number = math.exp(number) if self.log else number
        number = round(number) if self.whole else float(f"{number:.4g}")
        return min(max(number, self.low), self.high)

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.low, self.high


Dimension = Choices | Range


def parse(option: str, texts: Sequence[str]) -> tuple[list[Dimension], list[str]]:
    """Parse the values of an option. Returns the dimensions without a mistake, and the mistakes of the others.

    `option`: --grid, which takes lists only, --random or --optuna.
    """
    found, problems = dict[str, Dimension](), list[str]()
    for text in texts:
        origin = shown(f"{option} {text}")
        try:
            dimension = _dimension(text, origin, ranges=option != "--grid")
            if dimension.key in found:
                raise UserError(f"{origin}: {dimension.key} stands there twice")
            found[dimension.key] = dimension
        except UserError as error:
            problems += map(str, error.problems)
    return list(found.values()), problems


def _dimension(text: str, origin: str, ranges: bool) -> Dimension:
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not values or not all(key.split(".")):
        raise UserError(f"{origin}: should be KEY=VALUES, such as optimizer.lr=1e-4,3e-4")
    for reserved, why in _RESERVED.items():
        if key == reserved or reserved.startswith(f"{key}."):
            raise UserError(f"{origin}: {key}: {why}")
    if key.split(".")[0] == "cluster":
        raise UserError(f"{origin}: {key}: all trials train on one cluster")
    match = _RANGE.fullmatch(values)
    if match and not ranges and match["kind"] in _RANGES:
        raise UserError(f"{origin}: a grid has lists of values (--random and --optuna draw from ranges)")
    if match and match["kind"] != "choice":
        return _range(key, match["kind"], match["ends"].split(":"), origin)
    return _choices(key, values.removeprefix("choice:") if ranges else values, origin)


def _choices(key: str, text: str, origin: str) -> Choices:
    values = document.of_text(f"[{text}]", origin)
    texts = [recipe_differences.text(value) if not isinstance(value, dict) else str(value) for value in values]
    if twice := [one for n, one in enumerate(texts) if one in texts[:n]]:
        raise UserError(f"{origin}: {shown(twice[0])} stands there twice")
    return Choices(key, tuple(values), origin)


def _range(key: str, kind: str, ends: Sequence[str], origin: str) -> Range:
    if kind not in _RANGES:
        raise UserError(f"{origin}: unknown range {kind!r} ({hint(kind, _RANGES)})")
    numbers = [document.of_text(end, origin) for end in ends if end.strip()]
    if (
        len(numbers) != 2
        or len(ends) != 2
        or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers)
    ):
        raise UserError(f"{origin}: should be {kind}:LOW:HIGH, with two numbers")
    low, high = numbers
    whole = all(isinstance(number, int) for number in numbers) and kind != "float"
    if kind == "int" and not whole:
        raise UserError(f"{origin}: both ends should be whole numbers (float:LOW:HIGH)")
    if not low < high or not all(map(math.isfinite, numbers)):
        raise UserError(f"{origin}: the first number should be smaller than the second")
    if kind == "log" and low <= 0:
        raise UserError(f"{origin}: a logarithmic range begins above 0")
    return Range(key, low, high, kind == "log", whole, origin)


def grid(dimensions: Sequence[Dimension]) -> list[Params]:
    """Return all points of a grid. The last key changes fastest. Raises UserError for too many."""
    count = math.prod(len(dimension.ends) for dimension in dimensions)
    if count > sweep_grid.MAX_POINTS:
        raise UserError(f"--grid: {count} points ({sweep_grid.MAX_POINTS} at the most)")
    keys = [dimension.key for dimension in dimensions]
    return [dict(zip(keys, values, strict=True)) for values in product(*(one.ends for one in dimensions))]


def draw(dimensions: Sequence[Dimension], trials: int, seed: int) -> list[Params]:
    """Return different random points. A trial's values are a pure function of the seed and its number, so that more
    trials begin with the same points. Raises UserError if the space has fewer points."""
    points = list[Params]()
    for number in range(trials * _DRAWS_PER_TRIAL):
        point = {one.key: one.draw(random.Random(f"{seed} {number} {one.key}")) for one in dimensions}
        if point not in points:
            points.append(point)
        if len(points) == trials:
            return points
    raise UserError(f"--trials {trials}: these values have only {len(points)} different points (--grid tries them all)")


def corners(dimensions: Sequence[Dimension]) -> list[Params]:
    """Return points that have each value of a list, and both ends of a range, for a plan before values are known."""
    most = max(len(dimension.ends) for dimension in dimensions)
    return [{one.key: one.ends[min(n, len(one.ends) - 1)] for one in dimensions} for n in range(most)]


def overrides(params: Mapping[str, Value], dimensions: Sequence[Dimension] = ()) -> list[str]:
    """Return a trial's values as overrides. Messages about them name their dimension."""
    origins = {one.key: one.origin for one in dimensions}
    written = [(key, sweep_grid.override(key, value, "")) for key, value in params.items()]
    return [Override(text, origins[key]) if key in origins else str(text) for key, text in written]


def labels(params: Mapping[str, Value]) -> Iterator[str]:
    """Yield the text of each value for a table."""
    for value in params.values():
        yield f"{value:.4g}" if isinstance(value, float) else recipe_differences.text(value)
