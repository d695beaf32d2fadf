"""`launcher predict`: write predictions of a trained model for new rows, as JSON lines or as a table."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from launcher.config import env_vars, plugins
from launcher.config.atomic_files import write_aside
from launcher.config.errors import UserError
from launcher.config.format import plural
from launcher.data import BadRow, Row
from launcher.distributed import output_streams
from launcher.plan import writable_folders
from launcher.prepare.row_batches import size_of
from launcher.prepare.source_shards import notes
from launcher.storage import disk_full
from launcher.tools.prediction import prediction_lines
from launcher.tools.prediction.input_rows import KEY, read_rows, source_config
from launcher.tools.prediction.predictor import Predictor
from launcher.tools.progress import progress
from launcher.tools.trained_model import load_run, report_best

_ROWS, _SIZE = 8192, 2**24
"""Maximum number of rows, and of their characters or bytes, in memory. Among them, rows of similar length are computed
together, as in an evaluation."""


def predict(
    run: str,
    which: str | int,
    data: str,
    to: Path | None,
    console: Console,
    keep: str | None = None,
    top_k: int | None = None,
) -> None:
    """Write predictions to a file, or print them. Raises UserError.

    The file appears complete or not at all. It is a table if its name ends in .csv or .tsv. `keep`: columns of a row to
    put before its prediction (default: the model's inputs). `top_k`: number of classes, or of tokens for a mask, to
    list with their probabilities.
    """
    env_vars.set_rank_defaults(os.environ)
    _check_target(to)
    kept = prediction_lines.kept_columns(keep)
    trained = load_run(run, which)
    report_best(trained.folder, trained.saved, which, console)
    config = source_config(data, trained.recipe.data.train)
    source, predictor = plugins.source(config), Predictor(trained, kept, top_k)
    parts, done = source.parts(KEY), 0
    with _line_writer(to) as write_line, progress(console, "rows", sum(part.size for part in parts)) as advance:
        for chunk in _chunks(read_rows(config, source, parts, (*kept, *predictor.columns))):
            for line in predictor.predict(chunk):
                write_line(prediction_lines.as_json(line))
            done += len(chunk)
            advance(sum(map(_size, chunk)), done)
    for note in notes(source, KEY, parts):
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    if predictor.truncated:
        what = f"{predictor.truncated:,} of {done:,} rows are cut at {trained.recipe.data.max_length} tokens"
        console.print(f"note: {what} (`truncated` in their lines)", highlight=False, soft_wrap=True)
    if to is not None:
        console.print(f"{plural(done, 'prediction')} in {to}", highlight=False, markup=False, soft_wrap=True)


def _check_target(to: Path | None) -> None:
    """Raise UserError for a file that exists, or that cannot be written."""
    if to is None:
        return
    if to.exists() or not to.parent.is_dir():
        what = "is there already (name another file)" if to.exists() else f"there is no folder {to.parent}"
        raise UserError(f"--to {to}: {what}")
    if problem := writable_folders.unusable(to.parent, f"--to {to}", "name a file elsewhere"):
        raise UserError(problem)
    if to.suffix in prediction_lines.UNSUPPORTED:
        raise UserError(f"--to {to}: {to.suffix} is not written (name a .jsonl, .csv or .tsv)")


def _chunks(rows: Iterator[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    """Yield rows in lists that fit into memory."""
    chunk, size = list[Row | BadRow](), 0
    for row in rows:
        chunk.append(row)
        size += _size(row)
        if len(chunk) == _ROWS or size >= _SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(row: Row | BadRow) -> int:
    return 0 if isinstance(row, BadRow) else size_of(row)


@contextmanager
def _line_writer(to: Path | None) -> Iterator[Callable[[str], object]]:
    """Yield a function that writes a line of JSON to a hidden file or, if `to` is None, to standard output.

    When the block ends without an error, the file is converted to a table if its name requires one, and renamed to
    `to`.
    """
    if to is None:
        yield lambda line: print(output_streams.as_json(line))
        return
    with (
        disk_full.reported(to.parent, advice="make room there, or name another file: --to", kind=UserError),
        write_aside(to) as aside,
    ):
        with aside.open("w", encoding="utf-8") as file:
            yield lambda line: file.write(f"{line}\n")
        if to.suffix in prediction_lines.DELIMITERS:
            with write_aside(aside, flushed=False) as table:
                prediction_lines.write_table(aside, table, prediction_lines.DELIMITERS[to.suffix])
