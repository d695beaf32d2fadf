"""`launcher predict`: the answers of a trained model for new rows, a JSON object or a row of a table for each, in their
order."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from launcher.config.atomic_files import flush
from launcher.config.columns import KEPT, KeptColumn
from launcher.config.errors import UserError
from launcher.config.format import plural
from launcher.data import BadRow, Row
from launcher.distributed import output_streams
from launcher.plan import writable_folders
from launcher.prepare.source_shards import notes, parts_of
from launcher.storage import disk_full
from launcher.tools import mask_filling, prediction_lines
from launcher.tools.input_rows import KEY, rows, source
from launcher.tools.progress import progress
from launcher.tools.trained_model import TrainedModel, load_run, tell_best

_INPUTS_CUT = {"rows", "questions"}
"""What is counted of truncated inputs (see launcher.tasks.Features)."""

_ROWS, _SIZE = 8192, 2**24
"""Rows, and characters or bytes of them, that are held at once: rows of like length among them are computed together,
as in an evaluation."""


def predict(
    run: str,
    which: str | int,
    data: str,
    to: Path | None,
    console: Console,
    keep: str | None = None,
    most: int | None = None,
) -> None:
    """Write the predictions to a file, which appears whole or not at all, as a table where its name ends in .csv or
    .tsv; without one, print them. `keep`: the row's own columns that stand before its prediction (default: what the
    model is given). `most`: how many classes, or tokens for a mask, are listed with their probabilities. Raises
    UserError."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if to is not None and (to.exists() or not to.parent.is_dir()):
        what = "is there already (name another file)" if to.exists() else f"there is no folder {to.parent}"
        raise UserError(f"--to {to}: {what}")
    if to is not None and (wrong := writable_folders.unusable(to.parent, f"--to {to}", "name a file elsewhere")):
        raise UserError(wrong)
    if to is not None and to.suffix in prediction_lines.UNWRITTEN:
        raise UserError(f"--to {to}: {to.suffix} is not written (name a .jsonl, .csv or .tsv)")
    kept = prediction_lines.kept_columns(keep)
    trained = load_run(run, which)
    tell_best(trained.folder, trained.saved, which, console)
    config = source(data, trained.recipe.data.train)
    every, model = parts_of(config, KEY), Predictor(trained, kept, most)
    for note in notes(config, KEY, every):
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    size, told = sum(part.size for part in every), 0
    with _written(to) as line, progress(console, "rows", size) as advance:
        for chunk in _chunks(rows(config, every, (*kept, *model.columns))):
            for answer in model.answers(chunk):
                line(prediction_lines.as_json(answer))
            told += len(chunk)
            advance(sum(_size(row) for row in chunk), told)
    if model.truncated:
        what = f"{model.truncated:,} of {told:,} rows are cut at {trained.recipe.data.max_length} tokens"
        console.print(f"note: {what} (`truncated` in their lines)", highlight=False, soft_wrap=True)
    if to is not None:
        console.print(f"{plural(told, 'prediction')} in {to}", highlight=False, markup=False, soft_wrap=True)


class Predictor:
    """A trained model that is asked about rows, in one process on its device."""

    def __init__(self, trained: TrainedModel, keep: Sequence[KeptColumn] = (), most: int | None = None):
        from launcher.distributed import process_group
        from launcher.prepare import tokenizer
        from launcher.prepare.encode import Encoder

        self._trained, self._task = trained, trained.task()
        self._process = process_group.connect(process_group.RankInfo())
        trained.model.to(self._process.device)
        words = self._task.tokenized
        self._encoder = Encoder(trained.folder.tokenizer) if words else None
        self._tokenizer: Any = tokenizer.load(str(trained.folder.tokenizer), "tokenizer") if words else None
        self._equal_lengths: bool | None = None  # known once the task is attached to the model
        self.truncated = 0  # rows that were cut
        self._keep, self._most = keep, most
        self._names = set(prediction_lines.RESERVED)  # of answers so far
        self._filler = self._mask_filler()
        if most is not None and self._filler is None and not self._task.ranks_answers:
            raise mask_filling.no_scores(trained.recipe.inner_task.kind)
        self._seen = 0  # samples, whose numbers go on from rows to rows

    @property
    def columns(self) -> tuple[str, ...]:
        """What is needed of a row: no targets."""
        return tuple(column for column in self._task.columns if column not in self._task.targets)

    def answers(self, chunk: Sequence[Row | BadRow]) -> list[dict[str, Any]]:
        """A line for each row: what was given, and the model's answer; `truncated` where it did not see all."""
        good = [row for row in chunk if not isinstance(row, BadRow)]
        plain = [{name: value for name, value in row.items() if name != KEPT} for row in good]
        answered = self._answered(plain) if plain else []
        self.truncated += sum("truncated" in answer for answer in answered)
        self._names.update(name for answer in answered for name in answer)
        lines = (
            prediction_lines.joined(prediction_lines.given(row, self._keep), answer, self._names)
            for row, answer in zip(good, answered, strict=True)
        )
        return [{"error": str(row)} if isinstance(row, BadRow) else next(lines) for row in chunk]

    def _mask_filler(self) -> mask_filling.MaskFiller | None:
        """Of a masked language model alone."""
        if self._task.auto_class != "AutoModelForMaskedLM" or self._tokenizer.mask_token is None:
            return None
        recipe, most = self._trained.recipe, self._most or mask_filling.DEFAULT
        given = (recipe.data.max_length, most, recipe.train.precision, self._process.device)
        return mask_filling.MaskFiller(self._trained.model, self._tokenizer, *given)

    def _answered(self, good: Sequence[Row]) -> list[dict[str, Any]]:
        """The answer for each row: masks filled in where its text has any."""
        if self._filler is None:
            return self._told(good)
        masked = [self._filler.wanted(row["text"]) for row in good]
        filled = iter(self._filler.fill([row["text"] for row, one in zip(good, masked, strict=True) if one]))
        others = [row for row, one in zip(good, masked, strict=True) if not one]
        told = iter(self._told(others) if others else [])
        return [next(filled if one else told) for one in masked]

    def _told(self, good: Sequence[Row]) -> list[dict[str, Any]]:
        """What the model says of rows: of each sample by itself where a row gives several."""
        from launcher.prepare.samples import Samples

        table, counts, cut = self._samples(good)
        told = iter(self._of(Samples.of(table)) if sum(counts) else [])
        rows = [self._together([next(told) for _ in range(count)]) for count in counts]
        return [{**row, "truncated": True} if is_cut else row for row, is_cut in zip(rows, cut, strict=True)]

    def _samples(self, good: Sequence[Row]) -> tuple[Any, list[int], list[bool]]:
        """The samples of rows, in their order; how many each row gives, and whether it is cut."""
        import pyarrow as pa

        from launcher.prepare.source_shards import batch_of

        if not self._trained.recipe.inner_task.joins_documents:  # those are cut from rows joined
            table, empty, cut = self._features(batch_of(list(good)))
            if table is not None and table.num_rows == len(good) and not empty:  # so one of each
                return table, [1] * len(good), cut
        made = [self._features(batch_of([row])) for row in good]
        counts = [0 if table is None else table.num_rows for table, *_ in made]
        there = [table for table, *_ in made if table is not None]
        return (pa.concat_tables(there).combine_chunks() if there else None), counts, [any(cut) for *_, cut in made]

    def _features(self, batch: Any) -> tuple[Any, int, list[bool]]:
        """The samples of a batch of rows as a table, None where there is none; how many rows gave none; and of each row
        whether it is cut."""
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
        empty = sum(one.empty for one in made)
        return (pa.concat_tables(tables).combine_chunks() if tables else None), empty, cut.tolist()

    def _of(self, samples: Any) -> list[dict[str, Any]]:
        """What the model says of each sample."""
        from launcher.train import evaluation

        recipe, model = self._trained.recipe, self._trained.model
        most, first = recipe.train.max_tokens, self._seen
        given = (samples, self._task, recipe.seed, 0, 1, most, recipe.packed, first)
        self._seen += len(samples)
        if self._equal_lengths is None:
            self._equal_lengths = self._attach(evaluation.Parts(*given)[0].batch)
        parts = evaluation.Parts(*given, equal_lengths=self._equal_lengths)
        generates = recipe.inner_task.generates
        task = evaluation.Generating(self._task, model) if generates else self._task
        made = evaluation.outputs(model, task, parts, self._process, recipe.train.precision)
        told: list[dict[str, Any]] = self._task.predictions(made, self._tokenizer)
        if self._most is not None and self._filler is None:
            ranked = self._task.ranked(made, self._most)
            told = [{**one, "scores": scores} for one, scores in zip(told, ranked, strict=True)]
        return told

    def _attach(self, batch: dict[str, Any]) -> bool:
        """Attach the task to the model; whether the samples of a micro-batch have to be of one length."""
        from launcher.plan import model_requirements
        from launcher.tasks import _padding_side
        from launcher.train.data_loader import to

        trained = self._trained
        self._task.attach(trained.model, to(batch, self._process.device))
        packed = trained.recipe.packed
        return not packed and _padding_side.equal_lengths(
            self._task, trained.model, model_requirements.of(trained.recipe, trained.facts)
        )

    def _together(self, told: list[dict[str, Any]]) -> dict[str, Any]:
        """What is told of a row by what is told of its samples."""
        if not told:
            return {"error": "there is no token in it"}
        joined: dict[str, Any] = self._task.joined(told)
        return joined


def _chunks(every: Iterator[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    """The rows, so many at a time as are held at once."""
    chunk, size = list[Row | BadRow](), 0
    for row in every:
        chunk.append(row)
        size += _size(row)
        if len(chunk) == _ROWS or size >= _SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(row: Row | BadRow) -> int:
    from launcher.prepare.source_shards import size_of

    return 0 if isinstance(row, BadRow) else size_of(row)


@contextmanager
def _written(to: Path | None) -> Iterator[Callable[[str], Any]]:
    """A function that writes a line of JSON: to a file that gets its name, and becomes a table where that asks for one,
    when the block ends without error; or to the standard output."""
    if to is None:
        yield lambda line: print(output_streams.as_json(line))
        return
    aside, table = (to.with_name(f".{to.name}.{os.getpid()}.{part}") for part in ("partial", "table.partial"))
    try:
        with disk_full.reported(to.parent, advice="make room there, or name another file: --to", kind=UserError):
            with aside.open("w", encoding="utf-8") as file:
                yield lambda line: file.write(f"{line}\n")
            if to.suffix in prediction_lines.DELIMITERS:
                prediction_lines.write_table(aside, table, prediction_lines.DELIMITERS[to.suffix])
                table.replace(aside)
            flush(aside)
            aside.replace(to)
    finally:
        aside.unlink(missing_ok=True)
        table.unlink(missing_ok=True)
