"""From a recipe's sources to a prepared folder: tokenizer, samples as Arrow files, and the facts about them.

The folder is named by its content: source bytes or revisions, tokenizer, task and the version of this code.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import track

from launcher.config import kinds
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Fraction, Recipe, TrainTokenizer
from launcher.config.types import Plugin
from launcher.plan.facts import Facts, Side
from launcher.prepare import cache, tokenizer

VERSION = 1
"""Part of every prepared folder's name: raise it when the same input gives other samples."""

_NOTHING = "there is no document in it (is the path, the column or the split right?)"

Row = dict[str, Any]


def identity(recipe: Recipe) -> str:
    """The name of the prepared folder: where the content was found is no part of it. Raises UserError with every source
    that cannot be found."""
    where = {"path", "name"}
    data = recipe.data.model_dump_json(exclude={"train": where, "validation": where})
    parts: list[Any] = [VERSION, data, recipe.task.model_dump_json()]
    problems: list[str | Problem] = []
    sources = {"data.train": recipe.data.train, "data.validation": recipe.data.validation}
    made = [partial(kinds.of("data", s).fingerprint, s, key) for key, s in sources.items() if isinstance(s, Plugin)]
    for fingerprint in (*made, partial(tokenizer.fingerprint, recipe)):
        try:
            parts.append(fingerprint())
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def find(name: str) -> Path | None:
    """The prepared folder of this name where there is one."""
    folder = cache.path(name)
    return folder if folder.is_dir() else None


def prepare(recipe: Recipe, name: str | None = None) -> Path:
    """The prepared folder, made now where it is not there. `name`: its identity, where that is known already: it takes
    reading the sources. Raises UserError for mistakes in the data."""
    name = name or identity(recipe)
    with cache.making(name) as folder:
        if folder is not None:
            _make(recipe, folder, name)
    return cache.path(name)


def held_out(row: Row, fraction: float) -> bool:
    """Whether a row belongs to validation: by a hash of its text, so equal texts are never on both sides."""
    text = "\0".join(str(row[column]) for column in ("text", "text_pair") if column in row)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def _make(recipe: Recipe, folder: Path, name: str) -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    task = kinds.of("tasks", recipe.task).Task
    _spool(recipe, task.columns, folder)
    sides: list[Side] = ["train"] if recipe.data.validation is None else ["train", "validation"]
    survey = task.survey(recipe.task, _rows(folder, "train"))

    where = tokenizer.source(recipe)
    if isinstance(where, TrainTokenizer):
        made = tokenizer.train(where, lambda: _watched(_texts(folder), "training the tokenizer"))
    else:
        made = tokenizer.load(where, "tokenizer" if recipe.tokenizer is None else "tokenizer.name")
    made.save_pretrained(folder / "tokenizer")

    samples, tokens, longest = {}, {}, 1
    for side in sides:
        key = "data.validation" if side == "validation" and isinstance(recipe.data.validation, Plugin) else "data.train"
        rows = _watched(_rows(folder, side), f"tokenising {side}")
        tables = task.features(recipe.task, rows, survey, made, recipe.data.max_length, key)
        samples[side], tokens[side], most = _write(folder / f"{side}.arrow", tables)
        if not samples[side]:
            raise UserError(Problem(key, _NOTHING))
        longest = max(longest, most)
        (folder / f"{side}.rows").unlink()
    special = sorted(made.all_special_ids)
    facts = Facts(
        digest=name,
        vocab_size=max(len(made), max(special, default=0) + 1),
        pad_token_id=made.pad_token_id if made.pad_token_id is not None else 0,
        mask_token_id=made.mask_token_id,
        special_ids=special,
        labels=survey.get("labels", []),
        longest=longest,
        samples=samples,
        tokens=tokens,
        baseline=_baseline(recipe, folder, special) if "validation" in sides else {},
    )
    (folder / "facts.json").write_text(facts.model_dump_json(indent=1), encoding="utf-8")


def _spool(recipe: Recipe, columns: tuple[str, ...], folder: Path) -> None:
    """Read each source once, into a file of rows a side."""
    data = recipe.data
    source = kinds.of("data", data.train).rows(data.train, columns, "data.train")
    rows = _watched(source, f"reading {data.train.kind}")
    if isinstance(data.validation, Fraction):
        with _Rows(folder, "train") as train, _Rows(folder, "validation") as validation:
            for row in rows:
                (validation if held_out(row, data.validation.fraction) else train).add(row)
        kept, held = train.count, validation.count
        if kept + held and not (kept and held):
            what = f"holds out {held} of {kept + held} documents: nothing is left for one side (change the fraction)"
            raise UserError(Problem("data.validation.fraction", what))
    else:
        with _Rows(folder, "train") as train:
            for row in rows:
                train.add(row)
    if not train.count:
        raise UserError(Problem("data.train", _NOTHING))
    if isinstance(data.validation, Plugin):
        with _Rows(folder, "validation") as validation:
            for row in kinds.of("data", data.validation).rows(data.validation, columns, "data.validation"):
                validation.add(row)
        if not validation.count:
            raise UserError(Problem("data.validation", _NOTHING))


class _Rows:
    """A side's rows on their way to disk, a batch at a time; labels as text, since they are names."""

    def __init__(self, folder: Path, side: str):
        self.file, self.count = folder / f"{side}.rows", 0
        self._batch: list[Row] = []
        self._writer: Any = None

    def __enter__(self) -> "_Rows":
        return self

    def add(self, row: Row) -> None:
        if "label" in row:
            row = {**row, "label": str(row["label"])}
        self._batch.append(row)
        self.count += 1
        if len(self._batch) == 1000:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            schema = None if self._writer is None else self._writer[1]
            table = pa.Table.from_pylist(self._batch, schema=schema)
            if self._writer is None:
                self._writer = pa.ipc.new_stream(self.file, table.schema), table.schema
            self._writer[0].write_table(table)
            self._batch = []

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer[0].close()


def _rows(folder: Path, side: str) -> Iterator[Row]:
    with pa.memory_map(str(folder / f"{side}.rows")) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            yield from batch.to_pylist()


def _texts(folder: Path) -> Iterator[str]:
    """The texts of the training rows, pairs one after the other."""
    return (row[name] for row in _rows(folder, "train") for name in ("text", "text_pair") if name in row)


def _write(file: Path, tables: Iterable[pa.Table]) -> tuple[int, int, int]:
    """Samples, tokens and the longest sample of the tables written."""
    samples, tokens, longest, writer = 0, 0, 0, None
    for table in tables:
        writer = writer or pa.ipc.new_stream(file, table.schema)
        writer.write_table(table)
        lengths = table["length"].to_numpy()
        samples, tokens, longest = samples + len(lengths), tokens + int(lengths.sum()), max(longest, int(lengths.max()))
    if writer is not None:
        writer.close()
    return samples, tokens, longest


def _baseline(recipe: Recipe, folder: Path, special: list[int]) -> dict[str, float]:
    with pa.memory_map(str(folder / "validation.arrow")) as file:
        table = pa.ipc.open_stream(file).read_all()
        found: dict[str, float] = kinds.of("tasks", recipe.task).Task.baseline(recipe.task, table, special)
    return found


def _watched(rows: Iterable[Any], what: str) -> Iterable[Any]:
    """A progress bar on a terminal; elsewhere nothing."""
    console = Console(file=sys.stderr)
    return track(rows, description=what, console=console, transient=True, disable=not console.is_terminal)
