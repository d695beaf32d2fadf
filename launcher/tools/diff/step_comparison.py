"""Comparison of the training records of two runs, step by step."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from launcher.config.types import JsonObject
from launcher.tools.step_records import StepRecords, relative_difference

QUANTITIES = {"data": "digest", "loss": "loss", "grad_norm": "gradient norm", "lr": "learning rate"}
"""Compared fields of a record, with their names for people."""
_RATE_ROUNDING = 1e-9
"""Relative difference of learning rates that counts as rounding."""


@dataclass
class Comparison:
    """The comparison of one quantity.

    `first`: first step at which the runs differ beyond rounding; None: they do not. `values`: of both runs there.
    `off`: relative difference there. `largest`: largest relative difference of the steps before.
    """

    first: int | None = None
    values: tuple[object, object] = (None, None)
    off: float = 0.0
    largest: float = 0.0


@dataclass
class StepComparison:
    """The comparison of all steps that both runs have recorded.

    `count`: number of these steps; `begin`, `end`: the first and the last. `left_out`: first step that only one of the
    runs left out; None: there is none.
    """

    quantities: dict[str, Comparison] = field(default_factory=lambda: {name: Comparison() for name in QUANTITIES})
    count: int = 0
    begin: int = 0
    end: int = 0
    left_out: int | None = None

    @property
    def first(self) -> int | None:
        """The first step at which anything differs; None: nothing does."""
        return min((one.first for one in self.quantities.values() if one.first is not None), default=None)

    def add(self, one: JsonObject, other: JsonObject, rounding: float) -> None:
        """Compare the records of a step. `rounding`: allowed relative difference of losses and gradient norms."""
        self.count += 1
        self.begin, self.end = self.begin or one["step"], one["step"]
        if self.left_out is None and one.get("left_out") != other.get("left_out"):
            self.left_out = one["step"]
        for name, compared in self.quantities.items():
            if compared.first is not None:
                continue
            values = one.get(name), other.get(name)
            off = float(values[0] != values[1]) if name == "data" else relative_difference(*values)
            allowed = {"data": 0.0, "lr": _RATE_ROUNDING}.get(name, rounding)
            if off > allowed:
                compared.first, compared.values, compared.off = one["step"], values, off
            else:
                compared.largest = max(compared.largest, off)


def compare(one: StepRecords, other: StepRecords, rounding: float) -> StepComparison:
    """Compare two runs. `rounding`: as for `StepComparison.add`."""
    found = StepComparison()
    for here, there in _common(iter(one), iter(other)):
        found.add(here, there, rounding)
    return found


def _common(one: Iterator[JsonObject], other: Iterator[JsonObject]) -> Iterator[tuple[JsonObject, JsonObject]]:
    """Yield the records of the steps that are in both streams, which are in the order of the steps."""
    here, there = next(one, None), next(other, None)
    while here is not None and there is not None:
        if here["step"] == there["step"]:
            yield here, there
            here, there = next(one, None), next(other, None)
        elif here["step"] < there["step"]:
            here = next(one, None)
        else:
            there = next(other, None)
