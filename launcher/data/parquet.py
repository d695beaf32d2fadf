"""Parquet files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from launcher import data
from launcher.config.columns import resolved
from launcher.config.errors import UserError, first_line
from launcher.data import BadRow, Part, Row, _source
from launcher.data._source import FilesConfig, check_columns, columns_of, files, fingerprint_files, grouped
from launcher.data._tables import batch_rows, rows_of


class Config(FilesConfig):
    """Rows of Parquet files."""

    kind: Literal["parquet"] = "parquet"


class Source(data.Source):
    def __init__(self, config: Config):
        self.config = config

    def fingerprint(self, key: str) -> str:
        return fingerprint_files(self.config, key)

    def parts(self, key: str) -> list[Part]:
        """Row groups of a file, or several small files. Raises UserError for a file that is no parquet."""
        return grouped(((file, sum(_sizes(file))) for file in files(self.config, key)), _row_groups)

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        return chain.from_iterable(_rows(self.config, columns, key, file, part) for file in part.files)


def _rows(config: Config, columns: Sequence[str], key: str, file: str, part: Part) -> Iterator[Row | BadRow]:
    with _opened(file) as opened:
        columns = resolved(columns, opened.schema_arrow.names)
        check_columns(config, columns, opened.schema_arrow.names, file, key)
        names = list(dict.fromkeys(columns_of(config, columns).values()))
        groups = [opened.metadata.row_group(n) for n in range(opened.num_row_groups)]
        at = sum(group.num_rows for group in groups[: part.start])
        chosen = range(len(groups))[part.start : part.stop]
        size = batch_rows(opened.metadata.num_rows, sum(group.total_byte_size for group in groups))
        for batch in opened.iter_batches(batch_size=size, row_groups=list(chosen), columns=names):
            yield from rows_of(batch, config, columns, key, partial(_where, file, at))
            at += batch.num_rows


def _where(file: str, before: int, number: int) -> str:
    return f"{file} row {before + number + 1}"


@contextmanager
def _opened(file: str | Path) -> Iterator[Any]:
    """A pyarrow ParquetFile. Raises UserError where it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pa.parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as opened:
            yield opened
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: is no parquet file, or is damaged: {first_line(error)}") from None


def _sizes(file: Path) -> list[int]:
    """Bytes of the row groups, before their compression."""
    with _opened(file) as opened:
        return [opened.metadata.row_group(n).total_byte_size for n in range(opened.num_row_groups)]


def _row_groups(file: Path) -> list[Part]:
    """Neighbouring row groups of a file, up to the size of a part together."""
    parts: list[Part] = []
    start, together = 0, 0
    sizes = _sizes(file)
    for number, size in enumerate(sizes):
        if number > start and together + size > _source.PART:
            parts.append(Part((str(file),), start, number, together))
            start, together = number, 0
        together += size
    return [*parts, Part((str(file),), start, len(sizes), together)]
