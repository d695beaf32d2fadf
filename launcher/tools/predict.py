"""`launcher predict`: what a trained model says of new rows, a JSON object for each, in their order."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn

from launcher.config.errors import UserError
from launcher.config.files import flush
from launcher.data import Bad, Row
from launcher.plan import full_disk, usable_folders
from launcher.plan.words import plural
from launcher.run import streams
from launcher.tools.rows import KEY, notes, parts, rows, source
from launcher.tools.trained import Trained, load_run, tell_best

_INPUTS_CUT = {"rows", "questions"}
"""What is counted of truncated inputs (see launcher.tasks.Features)."""

_ROWS, _SIZE = 8192, 2**24
"""Rows, and characters or bytes of them, that are held at once: rows of like length among them are computed together,
as in an evaluation."""


def predict(run: str, which: str | int, data: str, to: Path | None, console: Console) -> None:
    """Write the predictions to a file, which appears whole or not at all; without one, print them. Raises UserError."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if to is not None and (to.exists() or not to.parent.is_dir()):
        what = "is there already (name another file)" if to.exists() else f"there is no folder {to.parent}"
        raise UserError(f"--to {to}: {what}")
    if to is not None and (wrong := usable_folders.unusable(to.parent, f"--to {to}", "name a file elsewhere")):
        raise UserError(wrong)
    trained = load_run(run, which)
    tell_best(trained.folder, trained.saved, which, console)
    config = source(data, trained.recipe.data.train)
    every, model = parts(config), Predictor(trained)
    for note in notes(config, every):
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    columns = ("predict", BarColumn(), "{task.fields[rows]:,} rows", TimeRemainingColumn())
    with _written(to) as line, Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        size, told = sum(part.size for part in every), 0
        bar = progress.add_task("", total=size or None, rows=0)
        for chunk in _chunks(rows(config, every, model.columns)):
            for answer in model.answers(chunk):
                line(json.dumps(answer, ensure_ascii=False))
            told += len(chunk)
            progress.update(bar, advance=sum(_size(row) for row in chunk), rows=told)
        progress.update(bar, total=1, completed=1)
    if model.truncated:
        what = f"{model.truncated:,} of {told:,} rows are cut at {trained.recipe.data.max_length} tokens"
        console.print(f"note: {what} (`truncated` in their lines)", highlight=False, soft_wrap=True)
    if to is not None:
        console.print(f"{plural(told, 'prediction')} in {to}", highlight=False, markup=False, soft_wrap=True)


class Predictor:
    """A trained model that is asked about rows, in one process on its device."""

    def __init__(self, trained: Trained):
        from launcher.prepare import tokenizer
        from launcher.prepare.encode import Encoder
        from launcher.run import process

        self._trained, self._task = trained, trained.task()
        self._process = process.connect(process.Place())
        trained.model.to(self._process.device)
        words = self._task.tokenized
        self._encoder = Encoder(trained.folder.tokenizer) if words else None
        self._tokenizer = tokenizer.load(str(trained.folder.tokenizer), "tokenizer") if words else None
        self._equal_lengths: bool | None = None  # known once the task is attached to the model
        self.truncated = 0  # rows that were cut
        self._seen = 0  # samples, whose numbers go on from rows to rows

    @property
    def columns(self) -> tuple[str, ...]:
        """What is needed of a row: no targets."""
        return tuple(column for column in self._task.columns if column not in self._task.targets)

    def answers(self, chunk: Sequence[Row | Bad]) -> list[dict[str, Any]]:
        """A line for each row: what was given, and what the model says of it; `truncated` where it did not see all."""
        good = [row for row in chunk if not isinstance(row, Bad)]
        told = iter(self._told(good) if good else [])
        return [{"error": str(row)} if isinstance(row, Bad) else {**_given(row), **next(told)} for row in chunk]

    def _told(self, good: Sequence[Row]) -> list[dict[str, Any]]:
        """What the model says of rows: of each sample by itself where a row gives several."""
        from launcher.prepare.samples import Samples

        table, counts, cut = self._samples(good)
        told = iter(self._of(Samples.of(table)) if sum(counts) else [])
        rows = [self._together([next(told) for _ in range(count)]) for count in counts]
        self.truncated += sum(cut)
        return [{**row, "truncated": True} if is_cut else row for row, is_cut in zip(rows, cut, strict=True)]

    def _samples(self, good: Sequence[Row]) -> tuple[Any, list[int], list[bool]]:
        """The samples of rows, in their order; how many each row gives, and whether it is cut."""
        import pyarrow as pa

        from launcher.prepare.reading import batch_of

        if getattr(self._trained.recipe.inner_task, "samples", None) != "chunks":  # those are cut from rows joined
            table, cut = self._features(batch_of(list(good)))
            if table is not None and table.num_rows == len(good):
                return table, [1] * len(good), cut
        made = [self._features(batch_of([row])) for row in good]
        counts = [0 if table is None else table.num_rows for table, _ in made]
        there = [table for table, _ in made if table is not None]
        return (pa.concat_tables(there).combine_chunks() if there else None), counts, [any(cut) for _, cut in made]

    def _features(self, batch: Any) -> tuple[Any, list[bool]]:
        """The samples of a batch of rows as a table, None where there is none; and of each row whether it is cut."""
        import numpy as np
        import pyarrow as pa

        trained = self._trained
        survey = {"labels": trained.facts.labels, "shape": list(trained.facts.shape)}
        made = list(
            self._task.features(
                trained.recipe.inner_task, [batch], survey, self._encoder, trained.recipe.data.max_length, KEY
            )
        )
        cut = np.zeros(batch.num_rows, dtype=np.bool_)
        for one in made:
            for name in one.cut.keys() & _INPUTS_CUT:
                cut |= one.cut[name] > 0
        tables = [found.table for found in made if found.table.num_rows]
        return (pa.concat_tables(tables).combine_chunks() if tables else None), cut.tolist()

    def _of(self, samples: Any) -> list[dict[str, Any]]:
        """What the model says of each sample."""
        from launcher.run import evaluation

        recipe, model = self._trained.recipe, self._trained.model
        most, first = recipe.train.max_tokens, self._seen
        given = (samples, self._task, recipe.seed, 0, 1, most, recipe.packed, first)
        self._seen += len(samples)
        if self._equal_lengths is None:
            self._equal_lengths = self._attach(evaluation.Parts(*given)[0].batch)
        parts = evaluation.Parts(*given, equal_lengths=self._equal_lengths)
        generates = getattr(recipe.inner_task, "generate", None) is not None
        task = evaluation.Generating(self._task, model) if generates else self._task
        made = evaluation.outputs(model, task, parts, self._process, recipe.train.precision)
        told: list[dict[str, Any]] = self._task.told(made, self._tokenizer)
        return told

    def _attach(self, batch: dict[str, Any]) -> bool:
        """Attach the task to the model; whether the samples of a micro-batch have to be of one length."""
        from launcher.plan.padding import Padding
        from launcher.run.batches import to
        from launcher.tasks import _padding

        batch = to(batch, self._process.device)
        self._task.attach(self._trained.model, batch)
        return _padding.found(self._task, self._trained.model, batch, self._trained.facts) is not Padding.RIGHT

    def _together(self, told: list[dict[str, Any]]) -> dict[str, Any]:
        """What is told of a row by what is told of its samples."""
        if not told:
            return {"error": "there is no token in it"}
        if hasattr(self._task, "joined"):
            return dict(self._task.joined(told))
        return told[0] if len(told) == 1 else {"parts": told}


def _given(row: Row) -> dict[str, Any]:
    """What stands in a row's line of it: what the model was given, but of an image its file."""
    return {name: value for name, value in row.items() if name != "image"}


def _chunks(every: Iterator[Row | Bad]) -> Iterator[list[Row | Bad]]:
    """The rows, so many at a time as are held at once."""
    chunk, size = list[Row | Bad](), 0
    for row in every:
        chunk.append(row)
        size += _size(row)
        if len(chunk) == _ROWS or size >= _SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(row: Row | Bad) -> int:
    from launcher.prepare.reading import size_of

    return 0 if isinstance(row, Bad) else size_of(row)


@contextmanager
def _written(to: Path | None) -> Iterator[Callable[[str], Any]]:
    """A function that writes a line: to a file that gets its name when the block ends without error, or to the
    standard output."""
    if to is None:
        yield lambda line: print(streams.as_json(line))
        return
    aside = to.with_name(f".{to.name}.{os.getpid()}.partial")
    try:
        with full_disk.reported(to.parent, advice="make room there, or name another file: --to", kind=UserError):
            with aside.open("w", encoding="utf-8") as file:
                yield lambda line: file.write(f"{line}\n")
            flush(aside)
            aside.replace(to)
    finally:
        aside.unlink(missing_ok=True)
