"""From a recipe's sources to a prepared folder: tokenizer, samples as Arrow files, and the facts about them.

The folder is named by its content: source bytes or revisions, tokenizer, task and the version of this code.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
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

Row = dict[str, Any]


def identity(recipe: Recipe) -> str:
    """The name of the prepared folder. Raises UserError where a source cannot be found."""
    data = recipe.data
    train = kinds.of("data", data.train).fingerprint(data.train, "data.train")
    parts = [VERSION, data.train.model_dump_json(), train, tokenizer.fingerprint(recipe), data.max_length]
    parts.append(recipe.task.model_dump_json())
    if isinstance(data.validation, Fraction):
        parts.append(data.validation.fraction)
    elif data.validation is not None:
        parts.append(data.validation.model_dump_json())
        parts.append(kinds.of("data", data.validation).fingerprint(data.validation, "data.validation"))
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def find(recipe: Recipe) -> Path | None:
    """The prepared folder where there is one."""
    folder = cache.path(identity(recipe))
    return folder if folder.is_dir() else None


def prepare(recipe: Recipe) -> Path:
    """The prepared folder, made now where it is not there. Raises UserError for mistakes in the data."""
    name = identity(recipe)
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
        texts = (row["text"] for row in _rows(folder, "train"))
        made = tokenizer.train(where, _watched(texts, "training the tokenizer"))
    else:
        made = tokenizer.load(where, "tokenizer" if recipe.tokenizer is None else "tokenizer.name")
    if recipe.task.kind == "mlm" and made.mask_token_id is None:
        raise UserError(Problem("tokenizer", "has no mask token, which masked language modelling needs"))
    made.save_pretrained(folder / "tokenizer")

    samples, tokens, longest = {}, {}, 1
    for side in sides:
        key = "data.validation" if side == "validation" and isinstance(recipe.data.validation, Plugin) else "data.train"
        rows = _watched(_rows(folder, side), f"tokenising {side}")
        tables = task.features(recipe.task, rows, survey, made, recipe.data.max_length, key)
        samples[side], tokens[side], most = _write(folder / f"{side}.arrow", tables)
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
    else:
        with _Rows(folder, "train") as train:
            for row in rows:
                train.add(row)
    if not train.count:
        raise UserError(Problem("data.train", "there is no document in it (is the path, the column or the split right?)"))
    if isinstance(data.validation, Plugin):
        with _Rows(folder, "validation") as validation:
            for row in kinds.of("data", data.validation).rows(data.validation, columns, "data.validation"):
                validation.add(row)
    if data.validation is not None and not validation.count:
        key = "data.validation.fraction" if isinstance(data.validation, Fraction) else "data.validation"
        raise UserError(Problem(key, f"holds out no document of the {train.count} there are (hold out more)"))


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
