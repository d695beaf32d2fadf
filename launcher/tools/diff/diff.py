"""Compare two runs: their settings, their data, and their steps, with the likely cause of the first difference."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.config.errors import Problem, UserError, one_line
from launcher.config.format import plural
from launcher.config.strict_json import shown
from launcher.config.types import JsonObject
from launcher.distributed import output_streams
from launcher.tools.diff import cause, run_settings, sample_differences, step_comparison
from launcher.tools.diff.run_settings import PERFORMANCE, SECTIONS, Difference
from launcher.tools.diff.sample_differences import SampleDifferences
from launcher.tools.diff.step_comparison import QUANTITIES, Comparison, StepComparison
from launcher.tools.parity import TOLERANCE
from launcher.tools.seen import run_data
from launcher.tools.seen.run_data import RunData
from launcher.tools.step_records import StepRecords

_CELL = 40
"""Maximum characters of a value in the table."""


@dataclass(frozen=True)
class RunDifferences:
    """Two runs and their differences.

    `samples`: None: the cache does not have the data of both, or they have the same. `row`: of the first differing
    sample; empty: there is none. `rounding`: allowed relative difference of losses; `precision`: for which it holds.
    """

    runs: tuple[RunData, RunData]
    records: tuple[StepRecords, StepRecords]
    settings: Sequence[Difference]
    steps: StepComparison
    samples: SampleDifferences | None
    row: str
    cause: str
    rounding: float
    precision: str

    @property
    def same(self) -> bool:
        """Whether the runs are the same to rounding. Runs without a common step are, if their recipes and data are."""
        if self.steps.count:
            return self.steps.first is None
        return not any(one.section in (run_settings.RECIPE, run_settings.DATA) for one in self.settings)


def diff(one: str, other: str, as_json: bool) -> int:
    """Print the differences of two runs. Returns the exit code: 0 if they are the same to rounding, else 1. Raises
    UserError."""
    found = compare(*_opened([one, other]))
    if as_json:
        print(output_streams.as_json(json.dumps(_as_json(found), indent=1, ensure_ascii=False)))
    else:
        _show(found, Console())
    return 0 if found.same else 1


def _opened(paths: Sequence[str]) -> list[RunData]:
    """Return the data of all runs. Raises UserError with the problems of all runs."""
    runs, problems = [], list[str | Problem]()
    for path in paths:
        try:
            runs.append(run_data.existing(path))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return runs


def compare(one: RunData, other: RunData) -> RunDifferences:
    """Compare two runs. Raises UserError for a damaged file."""
    settings = run_settings.differences(one, other)
    records = StepRecords(one.folder.metrics), StepRecords(other.folder.metrics)
    precision = max((run.recipe.train.precision for run in (one, other)), key=lambda name: TOLERANCE[name][1])
    rounding = TOLERANCE[precision][1]
    steps = step_comparison.compare(*records, rounding)
    samples, row = sample_differences.compare(one, other), ""
    if samples is not None and samples.first is not None:
        row = sample_differences.rows_of(one, other, samples.first)
    why = cause.of(one, other, settings, steps, samples, precision)
    return RunDifferences((one, other), records, settings, steps, samples, row, why, rounding, precision)


def _show(found: RunDifferences, console: Console) -> None:
    """Print the settings as a table, and a line for each quantity of the steps."""
    names = [shown(run.folder.path.name) for run in found.runs]
    lines = [*_setting_lines(found), *_data_lines(found), *_step_lines(found, names)]
    if found.settings:
        table = Table(box=None, pad_edge=False)
        table.add_column("", no_wrap=True)
        for name in ("key", *names):
            table.add_column(escape(name), overflow="fold")
        for section in SECTIONS:
            for number, one in enumerate(d for d in found.settings if d.section == section):
                values = (escape(shown(value, _CELL)) for value in one.values)
                table.add_row("" if number else section, escape(one_line(one.key)), *values)
        console.print(table)
    for line in lines:
        console.print(one_line(line), highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _setting_lines(found: RunDifferences) -> list[str]:
    """Return a line about the sections without a difference, and one about keys that only affect speed."""
    differing = {one.section for one in found.settings}
    same = [section for section in SECTIONS if section not in differing]
    lines = [f"the same: {', '.join(same)}"] if same else []
    return lines + (["performance: keys that affect speed, never the steps"] if PERFORMANCE in differing else [])


def _data_lines(found: RunDifferences) -> list[str]:
    samples = found.samples
    if found.runs[0].facts.digest == found.runs[1].facts.digest:
        return []
    if samples is None:
        return ["samples: the cache does not have the data of both runs, so that they are not compared"]
    least = min(samples.counts)
    if samples.first is None:
        return [
            f"samples: the first {least:,} are the same" + (", the tokenizers differ" if samples.tokenizers else "")
        ]
    first = f"the first: sample {samples.first}, {found.row}"
    words = "; the tokenizers differ" if samples.tokenizers else ""
    return [f"samples: {samples.differing:,} of {least:,} differ{words}; {first}"]


def _step_lines(found: RunDifferences, names: Sequence[str]) -> list[str]:
    """Return lines about damaged records, the steps, and the cause."""
    lines = [
        f"{name}: {plural(records.damaged, 'damaged line')} of metrics.jsonl left out"
        for name, records in zip(names, found.records, strict=True)
        if records.damaged
    ]
    steps, ends = found.steps, [records.last for records in found.records]
    if not steps.count:
        return [*lines, f"steps: no step that both have recorded ({names[0]} to {ends[0]}, {names[1]} to {ends[1]})"]
    more = "" if ends[0] == ends[1] else f" ({names[0]} has {ends[0]:,}, {names[1]} {ends[1]:,})"
    lines.append(f"steps: {plural(steps.count, 'step')} compared, {steps.begin:,} to {steps.end:,}{more}")
    lines += [f"  {_quantity(QUANTITIES[key], one, found)}" for key, one in steps.quantities.items()]
    if steps.first is None:
        return [*lines, f"the same to rounding, at every step ({found.precision} may differ by {found.rounding:.0e})"]
    return [*lines, f"they differ from step {steps.first:,} on. Likely cause: {found.cause}"]


def _quantity(name: str, one: Comparison, found: RunDifferences) -> str:
    before = f"at most {one.largest:.0e} off" if one.largest else "equal to the last bit"
    if one.first is None:
        return f"{name}: equal" if name == QUANTITIES["data"] else f"{name}: {before}"
    values = " / ".join(_value(value) for value in one.values)
    if name == QUANTITIES["data"]:
        return f"{name}: differs from step {one.first:,} on ({values})"
    until = "" if one.first == found.steps.begin else f"; {before} before"
    return f"{name}: differs from step {one.first:,} on ({values}, {one.off:.0e} off{until})"


def _value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float | int) else "none" if value is None else shown(str(value))


def _as_json(found: RunDifferences) -> JsonObject:
    steps, samples = found.steps, found.samples
    return {
        "runs": [str(run.folder.path) for run in found.runs],
        "same": found.same,
        "settings": [{"section": one.section, "key": one.key, "values": one.values} for one in found.settings],
        "samples": None if samples is None else {**vars(samples), "row": found.row or None},
        "steps": {"count": steps.count, "begin": steps.begin, "end": steps.end, "last": _last(found)},
        "damaged": [records.damaged for records in found.records],
        "first": steps.first,
        "differences": {name: _comparison(one) for name, one in steps.quantities.items()},
        "precision": found.precision,
        "rounding": found.rounding,
        "cause": found.cause or None,
    }


def _last(found: RunDifferences) -> list[int]:
    return [records.last for records in found.records]


def _comparison(one: Comparison) -> JsonObject:
    return {**vars(one), "off": one.off if math.isfinite(one.off) else None}
