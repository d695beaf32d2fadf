"""`launcher evaluate`: evaluate a checkpoint on its run's validation or test data, print tables, and write a report."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from launcher.config import plugins
from launcher.config.atomic_files import write
from launcher.config.errors import UserError
from launcher.config.strict_json import shown
from launcher.config.types import JsonObject
from launcher.launch import execute, launch_spec
from launcher.launch.execute import Outcome
from launcher.plan import facts, topology, writable_folders
from launcher.prepare import run_setup
from launcher.prepare.prepared_samples import PreparedSamples
from launcher.prepare.run_setup import PreparedRun
from launcher.storage import disk_full, sound_checkpoints
from launcher.storage.run_dir import RunDir
from launcher.tools import confusion_display, tables

_TOKENS, _TEXT = 200, 300
"""Maximum number of tokens and of characters of the text of an example."""


def evaluate(
    run: str, which: str | int, ranks: int | None, as_json: bool, console: Console, split: str = "validation"
) -> Outcome:
    """Evaluate a checkpoint, print its metrics, and write RUN/report/evaluation-<step>.json. Returns the outcome.

    For a classifier, a picture of the confusion matrix is written too. `split`: validation or test, whose files are
    named after it. Raises UserError.
    """
    folder = RunDir(Path(run)).report
    problems = writable_folders.unusable(folder, f"the folder {folder}", "make it writable, or copy the run")
    prepared = run_setup.reopen(Path(run), ranks, problems)
    known = prepared.facts
    if split == "test":
        _check_test(prepared)
    saved = sound_checkpoints.verified(prepared.folder, which)
    baseline = known.test_baseline if split == "test" else known.baseline
    topology.log_notes(prepared.cluster)
    execute.warm_up(launch_spec.imports(prepared.recipe))
    outcome = execute.execute(launch_spec.evaluate(prepared.plan, {}, saved.step, split))
    if outcome.code:
        return outcome
    metrics, report = outcome.result["metrics"], outcome.result["report"]
    if report.get("examples"):
        report = {**report, "examples": _with_texts(report["examples"], prepared, split)}
    if as_json:
        print(json.dumps(metrics), flush=True)
    else:
        _show(saved.step, split, baseline, metrics, report, console)
        if cut := str(known.cut.get(split, "")):
            console.print(f"note: {cut}", highlight=False, markup=False, soft_wrap=True)
    with disk_full.reported(prepared.folder.report):
        files = _write(prepared.folder, saved.step, split, {"metrics": metrics, "baseline": baseline, "report": report})
    if not as_json:
        console.print(f"in {' and '.join(map(str, files))}", highlight=False, markup=False, soft_wrap=True)
    return outcome


def _with_texts(examples: Sequence[JsonObject], run: PreparedRun, split: str) -> list[JsonObject]:
    """Return the examples with their texts, decoded and cut, if the samples have tokens."""
    from launcher.prepare import tokenizer

    rows = PreparedSamples(run.prepared, split).rows([one["sample"] for one in examples])
    if not plugins.task(run.recipe.inner_task).tokenized:
        return [*examples]
    words = tokenizer.load(str(run.folder.tokenizer), "tokenizer")
    texts = [words.decode(row["input_ids"][:_TOKENS].tolist(), skip_special_tokens=True) for row in rows]
    return [{**one, "text": shown(text, _TEXT)} for one, text in zip(examples, texts, strict=True)]


def _check_test(prepared: run_setup.PreparedRun) -> None:
    """Raise UserError if the run has no test set, or if that has changed since."""
    if "test" not in prepared.facts.samples:
        hint = "add it to the recipe, and train a run of another name"
        raise UserError(f"{prepared.folder.recipe}: data.test: there is no test set ({hint})")
    if facts.of_run(prepared.folder.path).test_digest != prepared.facts.test_digest:
        raise UserError(f"{prepared.folder.recipe}: data.test: its source has changed since the run began")


def _show(
    step: int, split: str, baseline: dict[str, float], metrics: dict[str, float], report: JsonObject, console: Console
) -> None:
    console.print(f"checkpoint of step {step}" + (", test set" if split == "test" else ""), highlight=False)
    tables.print_metrics(metrics, baseline, console, classes="classes" not in report)
    if "classes" in report:
        tables.print_classes(report["classes"], console)
    if report.get("confusion"):
        confusion_display.show(report["confusion"], report["labels"], console)


def _write(folder: RunDir, step: int, split: str, evaluation: JsonObject) -> list[Path]:
    """Write the files of an evaluation, and return their paths."""
    folder.report.mkdir(exist_ok=True)
    name = f"test-{step}" if split == "test" else f"{step}"
    file = folder.report / f"evaluation-{name}.json"
    write(file, json.dumps({"step": step, "split": split, **evaluation}, indent=1, ensure_ascii=False))
    report = evaluation["report"]
    if not report.get("confusion"):
        return [file]
    picture = folder.report / f"confusion-{name}.png"
    confusion_display.draw(report["confusion"], report["labels"], f"{folder.path.name}, step {step}", picture)
    return [file, picture]
