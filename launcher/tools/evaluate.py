"""`launcher evaluate`: evaluate a checkpoint on its run's validation data, print tables, and write a report."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from launcher.config import plugins
from launcher.config.atomic_files import write
from launcher.config.strict_json import shown
from launcher.config.types import JsonObject
from launcher.launch import execute, launch_spec
from launcher.launch.execute import Outcome
from launcher.plan import topology, writable_folders
from launcher.prepare import run_setup
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.prepare.run_setup import PreparedRun
from launcher.storage import disk_full, sound_checkpoints
from launcher.storage.run_dir import RunDir
from launcher.tools import confusion_display, tables

_TOKENS, _TEXT = 200, 300
"""Maximum number of tokens and of characters of the text of an example."""


def evaluate(run: str, which: str | int, ranks: int | None, as_json: bool, console: Console) -> Outcome:
    """Evaluate a checkpoint, print its metrics, and write RUN/report/evaluation-<step>.json. Returns the outcome.

    For a classifier, a picture of the confusion matrix is written too. Raises UserError.
    """
    folder = RunDir(Path(run)).report
    problems = writable_folders.unusable(folder, f"the folder {folder}", "make it writable, or copy the run")
    prepared = run_setup.reopen(Path(run), ranks, problems)
    saved, baseline = sound_checkpoints.verified(prepared.folder, which), prepared.facts.baseline
    topology.log_notes(prepared.cluster)
    execute.warm_up(launch_spec.imports(prepared.recipe))
    outcome = execute.execute(launch_spec.evaluate(prepared.plan, {}, saved.step))
    if outcome.code:
        return outcome
    metrics, report = outcome.result["metrics"], outcome.result["report"]
    if report.get("examples"):
        report = {**report, "examples": _with_texts(report["examples"], prepared)}
    if as_json:
        print(json.dumps(metrics), flush=True)
    else:
        _show(saved.step, baseline, metrics, report, console)
        if cut := str(prepared.facts.cut.get("validation", "")):
            console.print(f"note: {cut}", highlight=False, markup=False, soft_wrap=True)
    with disk_full.reported(prepared.folder.report):
        files = _write(prepared.folder, saved.step, {"metrics": metrics, "baseline": baseline, "report": report})
    if not as_json:
        console.print(f"in {' and '.join(map(str, files))}", highlight=False, markup=False, soft_wrap=True)
    return outcome


def _with_texts(examples: Sequence[JsonObject], run: PreparedRun) -> list[JsonObject]:
    """Return the examples with their texts, decoded and cut, if the samples have tokens."""
    from launcher.prepare import tokenizer

    rows = PreparedSamples(run.prepared, "validation").rows([one["sample"] for one in examples])
    if not plugins.task(run.recipe.inner_task).tokenized:
        return [*examples]
    words = tokenizer.load(str(run.folder.tokenizer), "tokenizer")
    texts = [words.decode(row["input_ids"][:_TOKENS].tolist(), skip_special_tokens=True) for row in rows]
    return [{**one, "text": shown(text, _TEXT)} for one, text in zip(examples, texts, strict=True)]


def _show(
    step: int, baseline: dict[str, float], metrics: dict[str, float], report: JsonObject, console: Console
) -> None:
    console.print(f"checkpoint of step {step}", highlight=False)
    tables.print_metrics(metrics, baseline, console, classes="classes" not in report)
    if "classes" in report:
        tables.print_classes(report["classes"], console)
    if report.get("confusion"):
        confusion_display.show(report["confusion"], report["labels"], console)


def _write(folder: RunDir, step: int, evaluation: JsonObject) -> list[Path]:
    """Write the files of an evaluation, and return their paths."""
    folder.report.mkdir(exist_ok=True)
    file = folder.report / f"evaluation-{step}.json"
    write(file, json.dumps({"step": step, **evaluation}, indent=1, ensure_ascii=False))
    report = evaluation["report"]
    if not report.get("confusion"):
        return [file]
    picture = folder.report / f"confusion-{step}.png"
    confusion_display.draw(report["confusion"], report["labels"], f"{folder.path.name}, step {step}", picture)
    return [file, picture]
