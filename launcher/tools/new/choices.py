"""What a new recipe is to learn: from options, from answers to at most five questions, or from the data."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.config.base_model import hint
from launcher.config.errors import UserError, shown
from launcher.config.format import plural
from launcher.config.paths import RUNS
from launcher.tools.new import columns
from launcher.tools.new.columns import Column, Table

Task = Literal["classify", "regression", "pretrain"]
SIZES = ("tiny", "mini", "small", "base")
"""Models from scratch."""
_PRETRAINED, _MULTILINGUAL = "distilbert/distilbert-base-uncased", "FacebookAI/xlm-roberta-base"
_NOTHING = "nothing"
"""Answer for a recipe without a label: pretraining."""

Ask = Callable[[str, str, Callable[[str], str | None]], str]
"""A question with its default answer, and a check that returns what is wrong with an answer."""


@dataclass(frozen=True)
class Options:
    """Options of the command. None: not given."""

    text: str | None = None
    label: str | None = None
    task: Task | None = None
    model: str | None = None
    epochs: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class Choices:
    """Decisions about a recipe. `model`: a size of SIZES, or the name or folder of a pretrained model."""

    task: Task
    text: Column
    label: Column | None
    model: str
    epochs: int
    name: str


def choose(table: Table, data: str, options: Options, ask: Ask | None, offline: bool) -> Choices:
    """Decide what the options leave open. `ask`: asks a person; None: there is none. `offline`: no download of models.
    Raises UserError for options that do not fit the data, and with what cannot be guessed."""
    text = _text(table, options, ask)
    label, task = _label(table, text, options, ask)
    default = _model(task, text, offline)
    model = options.model or (
        default
        if ask is None
        else ask(f"Model: {', '.join(SIZES)} (from scratch), or a pretrained one", default, _filled)
    )
    passes = options.epochs or _epochs(task, model, table.rows)
    if ask is not None and options.epochs is None:
        passes = int(ask("Epochs (passes over the data)", str(passes), _whole))
    name = options.name or (_free(data) if ask is None else ask("Name of the run", _free(data), _named))
    if mistake := _named(name):
        raise UserError(f"--name: {mistake}")
    return Choices(task, text, label, model, passes, name)


def _text(table: Table, options: Options, ask: Ask | None) -> Column:
    candidates = columns.text_candidates(table.columns)
    if options.text is not None:
        return _column(table.columns, options.text, "--text")
    if not candidates:
        known = ", ".join(map(shown, table.columns))
        raise UserError(f"DATA: no column holds texts (there are: {known}; --text COLUMN names one all the same)")
    if ask is None or len(candidates) == 1:
        return candidates[0]
    names = {column.name: column for column in candidates}
    return names[ask(f"Column of the text ({', '.join(map(shown, names))})", candidates[0].name, _among(names))]


def _label(table: Table, text: Column, options: Options, ask: Ask | None) -> tuple[Column | None, Task]:
    """Return the column of the label, if any, and the task."""
    if options.task == "pretrain" and options.label is None:
        return None, "pretrain"
    candidates = {column.name: column for column in columns.label_candidates(table.columns, text.name)}
    likely = next(iter(candidates), _NOTHING)
    if options.label is not None:
        likely = _column(table.columns, options.label, "--label").name
    elif ask is not None and candidates:
        what = f"What to predict from {shown(text.name)} ({', '.join(map(shown, candidates))}, or {_NOTHING}: pretrain)"
        likely = ask(what, likely, _among([*candidates, _NOTHING]))
    elif candidates and not columns.is_likeliest(list(candidates.values())):
        names = ", ".join(map(shown, candidates))
        raise UserError(f"DATA: the label may be in {names} (give --label COLUMN, or --task pretrain)")
    if likely == _NOTHING:
        _refuse_without_label(table, text, options)
        return None, "pretrain"
    label = table.columns[likely]
    task = options.task or ("regression" if label.is_number else "classify")
    if mistake := _unfit(label, task):
        raise UserError(f"DATA: {mistake}")
    return label, task


def _refuse_without_label(table: Table, text: Column, options: Options) -> None:
    """Raise UserError if a label is asked for, or if a column that is named like a label cannot be one."""
    if options.task in ("classify", "regression"):
        raise UserError(f"DATA: no column may be a label for --task {options.task} (give --label COLUMN)")
    for column in table.columns.values():
        if column.name.lower() == "label" and options.task is None and column is not text:
            mistake = _unfit(column, "classify")
            raise UserError(
                f"DATA: {mistake or 'its label cannot be used'} (to pretrain on the texts: --task pretrain)"
            )


def _unfit(label: Column, task: Task) -> str | None:
    """Return why a column cannot be the label of a task; None: it can."""
    name, classes = f"column {shown(label.name)!r}", len(label.values)
    if task == "regression" and (label.texts or not label.filled):
        return f"{name} holds texts, not numbers (--task classify)"
    if classes < 2:
        return (
            f"{name} has {'the same value in every row' if classes else 'no values'}: there is nothing to learn from it"
        )
    if task == "classify" and classes > label.filled // 2:
        return f"{name} has {classes:,} different values in {plural(label.filled, 'row')}: names of rows, not classes?"
    return None


def _model(task: Task, text: Column, offline: bool) -> str:
    if task == "pretrain" or offline:
        return "mini"
    return _MULTILINGUAL if text.foreign > 0.1 * text.characters else _PRETRAINED


def _epochs(task: Task, model: str, rows: int) -> int:
    """Return the usual number of epochs: more for few rows, and for a model that knows nothing yet."""
    few = 10 if rows < 1000 else 5 if rows < 10_000 else 3
    return few * (3 if model in SIZES and task != "pretrain" else 1)


def _free(data: str) -> str:
    """Return a name of a run after the data, which no run has."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(data).name.partition(".")[0]).strip("-_") or "run"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10_000))
    return next(name for name in names if not (RUNS / name).exists())


def _column(known: Mapping[str, Column], name: str, option: str) -> Column:
    if name not in known:
        raise UserError(f"{option}: no column {shown(name)!r} ({shown(hint(name, known))})")
    return known[name]


def _among(names: "list[str] | Mapping[str, Column]") -> Callable[[str], str | None]:
    return lambda answer: None if answer in names else shown(hint(answer, names))


def _filled(answer: str) -> str | None:
    return None if answer else "a name"


def _whole(answer: str) -> str | None:
    return None if answer.isdecimal() and 0 < int(answer) < 10**6 else "a whole number"


def _named(answer: str) -> str | None:
    allowed = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,149}", answer)
    return None if allowed else "letters, digits, '.', '_' and '-', a letter or digit first"
