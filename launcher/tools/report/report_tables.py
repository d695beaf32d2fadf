"""The tables of a page, as plain cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from launcher.config.format import human, plural
from launcher.config.strict_json import shown
from launcher.plan.run_estimates import duration
from launcher.storage.ledger import PURPOSES
from launcher.tasks import _metrics
from launcher.tools import recipe_differences
from launcher.tools.compare import LESS_IS_BETTER
from launcher.tools.report import palette
from launcher.tools.report.run_data import Evaluation, Example, RunData
from launcher.tools.report.time_line import GROUPS
from launcher.tools.status.run_time import DESCRIPTIONS

_ROWS, _COLUMNS, _EVENTS = 24, 8, 60
"""Maximum number of evaluations, of metrics and of events in a table."""
_CLASSES, _MATRIX, _PAIRS = 60, 30, 12
"""Maximum number of classes in a table, of classes of a matrix, and of confusions with examples."""
_CELL, _TEXT = 80, 240
_KEY_LENGTH = 60


@dataclass(frozen=True)
class Cell:
    """A cell. `strong`: the best of its column. `share`: of a shade or a bar, 0 to 1; None: neither. `group`: colour
    of a bar."""

    text: str
    strong: bool = False
    share: float | None = None
    group: str = ""

    @property
    def shade(self) -> int:
        """The number of the shade, from 0 to 10."""
        return round(10 * min(1.0, max(0.0, self.share or 0.0)))


@dataclass(frozen=True)
class PageTable:
    """A table. `text`: number of the first columns that are text. `kind`: plain, bars (the last column) or matrix."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text: int = 1
    kind: str = "plain"
    note: str = ""


@dataclass(frozen=True)
class Confusion:
    """A frequent confusion with some of its samples. `share`: of the true class's samples."""

    truth: str
    predicted: str
    times: str
    share: float
    examples: Sequence[Example] = field(default=())


def shades() -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Return background and text colour of each shade, for a light and a dark page."""
    return [(palette.shade(n / 10, dark=False), palette.shade(n / 10, dark=True)) for n in range(11)]


def summary(run: RunData) -> list[tuple[str, str]]:
    """Return the main numbers of a run by name, without those that are not known."""
    training, plan, status = run.metrics.training, run.plan, run.status
    last = training.steps[-1] if len(training.steps) else 0
    steps = f"{max(int(last), status.step):,}" + (f" of {status.steps:,}" if status.steps else "")
    found = {
        "state": status.state.name,
        "steps": steps,
        "training loss": _number(training.column("loss")[-1]) if len(training.steps) else "",
        **_best(run),
        "tokens": _count(training.column("tokens")[-1]) if training.has("tokens") else "",
        "training time": duration(float(training.column("seconds")[-1])) if training.has("seconds") else "",
        "wall clock": duration(run.seconds.total) if run.seconds else "",
        "goodput": f"{run.seconds.goodput:.1%}" if run.seconds else "",
        "restarts": str(sum(mark.kind == "restart" for mark in run.marks) or ""),
        "global batch": _plan(plan, "global_batch"),
        "ranks": " ".join(
            filter(None, (_plan(plan, "ranks"), "on" if "device" in plan else "", _plan(plan, "device")))
        ),
        "strategy": ", ".join(filter(None, (_plan(plan, "strategy"), _plan(plan, "precision")))),
        "model": _plan(plan, "model"),
        "parameters": _plan(plan, "parameters"),
    }
    return [(name, value) for name, value in found.items() if value]


def _plan(plan: Mapping[str, object], key: str) -> str:
    value = plan.get(key)
    return f"{value:,}" if type(value) is int else shown(value, _KEY_LENGTH) if isinstance(value, str) else ""


def _best(run: RunData) -> dict[str, str]:
    name = f"eval/{run.watched}"
    if not run.metrics.evaluation.has(name):
        return {}
    values, steps = run.metrics.evaluation.column(name), run.metrics.evaluation.steps
    at = best_row(values, run.watched)
    return {f"best {shown(_words(run.watched), 30)}": f"{_number(values[at])} at step {int(steps[at]):,}"}


def best_row(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]], metric: str) -> int:
    """Return the index of the best finite value, the first one if several are. `metric`: its name, which decides
    whether less is better."""
    array = np.asarray(values, dtype=np.float64)
    return int(np.nanargmin(array) if metric in LESS_IS_BETTER else np.nanargmax(array))


def evaluations(run: RunData, of: str = "") -> PageTable | None:
    """Return the metrics by step; None: there are none. Of many evaluations, the first, the last, the best and some
    between them are listed."""
    series = run.metrics.evaluation
    names = [name for name in series.columns if name.startswith("eval/") and name.count("/") == 1 and series.has(name)]
    names = names[:_COLUMNS]
    if not names:
        return None
    best = {name: best_row(series.column(name), name.removeprefix("eval/")) for name in names}
    count = len(series.steps)
    spread = np.linspace(0, count - 1, min(count, _ROWS)).round().astype(int).tolist()
    listed = sorted({*spread, *best.values()})
    rows = [
        [
            Cell(f"{int(series.steps[n]):,}"),
            *(Cell(_number(series.column(name)[n]), strong=best[name] == n) for name in names),
        ]
        for n in listed
    ]
    note = f"{len(listed)} of {count:,} evaluations. " if len(listed) < count else ""
    baseline = ", ".join(f"{shown(_words(name))} {value:.4f}" for name, value in run.baseline.items())
    note += "Bold: the best of a column." + (f" Baseline: {baseline}." if baseline else "")
    header = ["step", *(shown(_words(name.removeprefix("eval/")), 30) for name in names)]
    return PageTable(f"Evaluations{of}", header, rows, text=0, note=note)


def shares(runs: Sequence[RunData]) -> PageTable:
    """Return the share of the time by purpose, a row for each run with a ledger."""
    known = [(run.name, run.seconds) for run in runs if run.seconds is not None and run.seconds.total > 0]
    names = [name for name in PURPOSES if any(one.parts.get(name, 0.0) > 0 for _, one in known)]
    rows = [
        [
            Cell(run), Cell(duration(one.total)), Cell(f"{one.goodput:.1%}"),
            *(Cell(f"{one.parts.get(name, 0.0) / one.total:.1%}") for name in names),
        ]
        for run, one in known
    ]  # fmt: skip
    return PageTable("Share of the time by purpose", ["run", "time", "goodput", *names], rows)


def seconds(run: RunData) -> PageTable | None:
    """Return the seconds by purpose; None: there is no ledger."""
    if run.seconds is None or run.seconds.total <= 0:
        return None
    parts, total = run.seconds.parts, run.seconds.total
    rows = [
        [
            Cell(name), Cell(DESCRIPTIONS[name]), Cell(duration(parts[name])),
            Cell(f"{parts[name] / total:.1%}", share=parts[name] / total, group=GROUPS[name]),
        ]
        for name in PURPOSES
        if parts.get(name, 0.0) > 0
    ]  # fmt: skip
    rows.append([Cell("together"), Cell(""), Cell(duration(total)), Cell("100.0%")])
    return PageTable("Seconds by purpose", ["purpose", "", "time", "share"], rows, 2, "bars")


def events(run: RunData, of: str = "") -> PageTable | None:
    """Return the events of the time line; None: there are none. Of many, the last ones."""
    rows = [[Cell(duration(max(0.0, m.time))), Cell(m.kind), Cell(m.text)] for m in run.marks]
    more = len(rows) - _EVENTS
    note = f"{more:,} earlier events are in {run.folder.job_log}." if more > 0 else ""
    header = ["after", "event", ""]
    return PageTable(f"Events{of}", header, rows[-_EVENTS:], 3, note=note) if rows else None


def slowest(run: RunData, of: str = "") -> PageTable | None:
    """Return how often each rank was the slowest; None: this is not recorded."""
    found = run.metrics.training.column("slowest_rank")
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    numbers, counts = np.unique(found.astype(np.int64), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:10]
    rows = [
        [Cell(f"rank {numbers[n]}"), Cell(f"{counts[n] / len(found):.1%}", share=counts[n] / len(found), group="holds")]
        for n in order.tolist()
    ]
    return PageTable(f"How often a rank was the slowest{of}", ["rank", "share"], rows, 1, "bars")


def classes(evaluation: Evaluation) -> PageTable | None:
    """Return the scores of each class, the worst first if there are many; None: there are none."""
    found = evaluation.report.classes
    if not found:
        return None
    names = sorted(found, key=lambda name: found[name].get("f1", 0.0))[:_CLASSES] if len(found) > _CLASSES else [*found]
    scores = ("precision", "recall", "f1", "support")
    rows = [
        [
            Cell(shown(name, _CELL)),
            *(
                Cell(f"{found[name].get(s, 0.0):,.0f}" if s == "support" else _number(found[name].get(s)))
                for s in scores
            ),
        ]
        for name in names
    ]
    note = f"the {len(names)} worst of {len(found):,} classes" if len(names) < len(found) else ""
    return PageTable(f"Classes at step {evaluation.step:,}", ["class", *scores], rows, note=note)


def matrix(evaluation: Evaluation) -> PageTable | None:
    """Return the confusion matrix, shaded by share of a row; None: there is none, or it has too many classes."""
    counts, labels = evaluation.report.confusion, evaluation.report.labels
    if not counts or len(labels) > _MATRIX:
        return None
    rows = [
        [
            Cell(shown(label, 40)),
            *(Cell(f"{n:.0f}" if n else "·", strong=row == column, share=n / max(1.0, sum(counts[row])))
              for column, n in enumerate(counts[row])),
        ]
        for row, label in enumerate(labels)
    ]  # fmt: skip
    caption = (
        f"Confusion matrix at step {evaluation.step:,}: a row for each true class, a column for each predicted one"
    )
    return PageTable(caption, ["truth", *(shown(label, 40) for label in labels)], rows, 1, "matrix")


def confusions(evaluation: Evaluation) -> list[Confusion]:
    """Return the most frequent confusions with their examples."""
    counts, labels = evaluation.report.confusion, evaluation.report.labels
    found = list[Confusion]()
    for row, column in _metrics.confusions(counts)[:_PAIRS] if counts else ():
        pair = labels[row], labels[column]
        examples = [one for one in evaluation.report.examples if (one.truth, one.predicted) == pair]
        times = counts[row][column]
        some = [one.model_copy(update={"text": _cut(one.text)}) for one in examples[:3]]
        names = shown(pair[0], _CELL), shown(pair[1], _CELL)
        found.append(Confusion(*names, plural(round(times), "time"), times / max(1.0, sum(counts[row])), some))
    return found


def _cut(text: str | None) -> str | None:
    return None if text is None else shown(" ".join(text.split()), _TEXT)


def differences(runs: Sequence[RunData]) -> PageTable | None:
    """Return the keys in which the recipes differ, a row for each; None: there are none."""
    found = recipe_differences.differences({run.name: run.recipe for run in runs})
    rows = [
        [Cell(shown(key, _CELL)), *(Cell(shown(values.get(run.name, ""), _CELL)) for run in runs)]
        for key, values in found.items()
    ]
    header = ["key", *(run.name for run in runs)]
    return PageTable("Keys in which the recipes differ", header, rows, len(header)) if rows else None


def overview(runs: Sequence[RunData]) -> PageTable:
    """Return one row of main numbers for each of several runs."""
    summaries = [dict(summary(run)) for run in runs]
    left_out = ("model", "global batch", "strategy", "parameters")
    names = list(dict.fromkeys(name for one in summaries for name in one if name not in left_out))
    rows = [
        [Cell(run.name), *(Cell(one.get(name, "")) for name in names)] for run, one in zip(runs, summaries, strict=True)
    ]
    return PageTable("The runs", ["run", *names], rows, 2)


def facts(run: RunData) -> list[tuple[str, str]]:
    """Return the versions and sizes behind a run."""
    size = run.plan.get("checkpoint_bytes")
    found = {**run.versions, **({"checkpoint": human(size)} if type(size) is int else {})}
    return [(shown(name, 40), shown(value, 60)) for name, value in found.items()]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _count(value: float) -> str:
    size, unit = next(((s, u) for s, u in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if value >= s), (1.0, ""))
    return f"{value / size:.2f} {unit}" if unit else f"{value:,.0f}"


def _number(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "not finite" if value is not None else ""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"
