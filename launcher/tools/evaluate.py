"""`launcher evaluate`: a checkpoint on its run's validation data, as tables for a terminal and files for later."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from launcher.config.atomic_files import write
from launcher.launch import execute, launch_spec
from launcher.launch.execute import Outcome
from launcher.plan import writable_folders
from launcher.prepare import run_setup
from launcher.storage import disk_full
from launcher.storage.run_dir import RunDir
from launcher.tools import confusion, tables


def evaluate(run: str, which: str | int, ranks: int | None, as_json: bool, console: Console) -> Outcome:
    """Evaluate, print (the metrics alone `as_json`), and write RUN/report/evaluation-<step>.json; of a classifier a
    picture of its confusions too. Raises UserError."""
    report = RunDir(Path(run)).report
    made = run_setup.reopen(
        Path(run), ranks, writable_folders.unusable(report, f"the folder {report}", "make it writable, or copy the run")
    )
    saved = made.folder.saved(which)
    saved.verify()
    execute.warm_up(launch_spec.imports(made.recipe))
    outcome = execute.execute(launch_spec.evaluate(made.plan, {}, saved.step))
    if outcome.code:
        return outcome
    metrics, report = outcome.result["metrics"], outcome.result["report"]
    if as_json:
        print(json.dumps(metrics), flush=True)
    else:
        _show(saved.step, made.facts.baseline, metrics, report, console)
        if cut := str(made.facts.cut.get("validation", "")):
            console.print(f"note: {cut}", highlight=False, soft_wrap=True)
    with disk_full.reported(made.folder.report):
        files = _write(made.folder, saved.step, {"metrics": metrics, "baseline": made.facts.baseline, "report": report})
    if not as_json:
        console.print(f"in {' and '.join(map(str, files))}", highlight=False, markup=False, soft_wrap=True)
    return outcome


def _show(
    step: int, baseline: dict[str, float], metrics: dict[str, Any], report: dict[str, Any], console: Console
) -> None:
    console.print(f"checkpoint of step {step}", highlight=False)
    tables.metrics(metrics, baseline, console, classes="classes" not in report)
    if "classes" in report:
        tables.classes(report["classes"], console)
    if report.get("confusion"):
        confusion.show(report["confusion"], report["labels"], console)


def _write(folder: RunDir, step: int, found: dict[str, Any]) -> list[Path]:
    """The files of an evaluation."""
    folder.report.mkdir(exist_ok=True)
    file = folder.report / f"evaluation-{step}.json"
    write(file, json.dumps({"step": step, **found}, indent=1, ensure_ascii=False))
    report = found["report"]
    if not report.get("confusion"):
        return [file]
    picture = folder.report / f"confusion-{step}.png"
    confusion.draw(report["confusion"], report["labels"], f"{folder.path.name}, step {step}", picture)
    return [file, picture]
