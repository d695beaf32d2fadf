"""What a report shows of one run, read from its folder. A damaged or missing file becomes a sentence."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from launcher.config import load, paths, strict_json
from launcher.config.errors import UserError
from launcher.config.format import plural
from launcher.config.strict_json import Count, Stored, shown
from launcher.config.types import JsonObject
from launcher.plan.facts import of_run
from launcher.storage import job_log, ledger, roll_backs
from launcher.storage.goodput import RunSeconds
from launcher.storage.job_log import Event
from launcher.storage.ledger import Purpose
from launcher.storage.run_dir import RunDir
from launcher.storage.run_files import Environment
from launcher.tools.report import series, time_line
from launcher.tools.report.series import Metrics, Series
from launcher.tools.report.time_line import Mark
from launcher.tools.status import run_status, run_time
from launcher.tools.status.run_events import JobSchedulers
from launcher.tools.status.run_status import RunStatus

T = TypeVar("T")
_TEXT, _RECIPE = 300, 20_000
"""Maximum characters of a text from a run, and of its recipe."""
_KINDS = {"started": "start", "restarted": "restart", "hang": "hang", "ended": "end"}
"""Events of the job log that are marked."""


class Example(Stored):
    """A sample with a wrong prediction. `text`: None: the sample is no text."""

    sample: Count
    truth: str
    predicted: str
    probability: float
    text: str | None = None


def _square(report: "EvaluationReport") -> "EvaluationReport":
    size = len(report.labels)
    if report.confusion and {len(report.confusion), *map(len, report.confusion)} != {size}:
        raise ValueError("confusion: should have a row and a column for each label")
    return report


class EvaluationReport(Stored):
    """The report of a task in an evaluation file (see Task.report)."""

    classes: dict[str, dict[str, float]] = {}
    confusion: list[list[Annotated[float, Field(ge=0)]]] = []
    labels: list[str] = []
    examples: list[Example] = []


class Evaluation(Stored):
    """Content of a file that `launcher evaluate` writes."""

    step: Count
    report: Annotated[EvaluationReport, AfterValidator(_square)] = EvaluationReport()


@dataclass(frozen=True)
class RunData:
    """A run. `name`: unique among those of a page. `spans`, `marks`: the time line and its events. `problems`: what
    could not be read. `recipe_text`: the file. `went_back`: steps of the spikes after which training went back."""

    name: str
    folder: RunDir
    status: RunStatus
    metrics: Metrics
    seconds: RunSeconds | None = None
    spans: Sequence[dict[Purpose, float]] = ()
    marks: Sequence[Mark] = ()
    recipe: JsonObject = field(default_factory=dict)
    recipe_text: str = ""
    baseline: dict[str, float] = field(default_factory=dict)
    plan: JsonObject = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    went_back: Sequence[int] = ()
    evaluation: Evaluation | None = None
    problems: Sequence[str] = ()

    @property
    def watched(self) -> str:
        """The metric that the recipe watches."""
        evaluate = self.recipe.get("evaluate")
        return str(evaluate.get("metric", "loss")) if isinstance(evaluate, dict) else "loss"


def find(run: str) -> RunDir:
    """Return a run by its folder, or by its name below runs/. Raises UserError if there is none."""
    named = [RunDir(Path(run)), RunDir(paths.RUNS / run)]
    for folder in named:
        with suppress(OSError, ValueError):
            if any(map(strict_json.exists, (folder.metrics, folder.recipe, folder.ledger))):
                return folder
    return run_status.find_run(run)


def read_all(folders: Sequence[RunDir]) -> list[RunData]:
    """Read runs. Those with the same folder name are named by their paths."""
    schedulers = JobSchedulers()
    statuses = run_status.read_statuses(folders, schedulers)
    names = [status.name for status in statuses]
    unique = [n if names.count(n) == 1 else shown(str(f.path), 200) for n, f in zip(names, folders, strict=True)]
    return [_read(*of_run) for of_run in zip(unique, folders, statuses, strict=True)]


def _read(name: str, folder: RunDir, status: RunStatus) -> RunData:
    problems = [*status.damaged]

    def tried(action: Callable[[], T], default: T) -> T:
        try:
            return action()
        except UserError as error:
            problems.extend(shown(str(problem), 4096) for problem in error.problems)
        except OSError as error:
            problems.append(shown(f"{error.filename or folder.path}: cannot be read: {error.strerror}", 4096))
        return default

    nothing = Series(np.empty(0), {})
    metrics = tried(lambda: series.read(folder), Metrics(nothing, nothing))
    if metrics.damaged:
        problems.append(f"{folder.metrics}: lines that are no records were left out: {metrics.damaged:,}")
    recipe = tried(lambda: load.plain(folder.recipe), dict[str, object]()) if strict_json.exists(folder.recipe) else {}
    for file, what in ((folder.recipe, "its recipe"), (folder.metrics, "its curves"), (folder.plan, "its plan")):
        if not strict_json.exists(file):
            problems.append(f"{shown(str(file), _TEXT)}: missing, and {what} with it")
    return RunData(
        name, folder, status, metrics,
        seconds=tried(lambda: run_time.read(folder, status), None),
        spans=tried(lambda: run_time.time_line(folder, status), []),
        marks=tried(lambda: _marks(folder), []),
        recipe=recipe,
        recipe_text=tried(lambda: _recipe_text(folder.recipe), ""),
        baseline=tried(lambda: of_run(folder.path).baseline, {}) if strict_json.exists(folder.facts) else {},
        plan=tried(lambda: strict_json.read_object(folder.plan, ""), {}) if strict_json.exists(folder.plan) else {},
        versions=tried(lambda: _versions(folder), {}),
        went_back=tried(lambda: [spike.step for spike in roll_backs.read(folder)], []),
        evaluation=tried(lambda: _evaluation(folder), None),
        problems=problems,
    )  # fmt: skip


def _recipe_text(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open(encoding="utf-8", errors="replace") as text:
        content = text.read(_RECIPE + 1)
    return content if len(content) <= _RECIPE else f"{content[:_RECIPE]}\n..."


def _versions(folder: RunDir) -> dict[str, str]:
    if not strict_json.exists(folder.environment):
        return {}
    found = strict_json.read(folder.environment, Environment, "the next start writes it again")
    return {"python": found.python, **found.versions}


def _evaluation(folder: RunDir) -> Evaluation | None:
    """Return the evaluation file of the latest step on validation data; None: there is none. Raises DamagedFile."""
    files = {
        int(step): file
        for file in (folder.report.glob("evaluation-*.json") if folder.report.is_dir() else ())
        if (step := file.stem.removeprefix("evaluation-")).isascii() and step.isdigit() and len(step) < 19
    }
    return strict_json.read(files[max(files)], Evaluation, f"launcher evaluate {folder.path}") if files else None


def _marks(folder: RunDir) -> list[Mark]:
    """Return the events of the time line in their order. Raises DamagedFile."""
    lines = ledger.read(folder)
    if not lines:
        return []
    begin = lines[0].begun
    known = [event for event in job_log.read(folder) if event["event"] in _KINDS]
    marks = [Mark(_KINDS[event["event"]], _time(event) - begin, _in_words(event)) for event in known]
    return sorted([*marks, *time_line.roll_backs(lines)], key=lambda mark: mark.time)


def _time(event: Event) -> float:
    value = event.get("time")
    return float(value) if isinstance(value, int | float) else 0.0


def _in_words(event: Event) -> str:
    """Return the details of an event."""
    at = f" at step {event['step']}" if isinstance(event.get("step"), int) else ""
    if event["event"] == "started":
        ranks = event.get("ranks")
        return at.replace("at", "from").strip() + (f" on {plural(ranks, 'rank')}" if type(ranks) is int else "")
    seconds, why, error = event.get("seconds"), event.get("why"), str(event.get("error") or "").strip()
    who = f"rank {event['rank']}" if isinstance(event.get("rank"), int) else ""
    what = "asked to stop" if why == "told" else why if isinstance(why, str) else ""
    what = f"in {event['stage']}" if isinstance(event.get("stage"), str) else what
    lasted = f" for {seconds:.0f} s" if isinstance(seconds, int | float) else ""
    words = " ".join(filter(None, (who, what))) + at + lasted
    return shown(f"{words}: {error.splitlines()[0]}" if error else words, _TEXT).strip()
