"""Parquet files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.config.errors import UserError, first_line
from launcher.config.requested_columns import resolved
from launcher.data import BadRow, Part, Row, _files
from launcher.data._files import FilesSource, files, group_files
from launcher.data._source import FilesConfig, check_columns, source_columns
from launcher.data._tables import batch_rows, table_rows

if TYPE_CHECKING:
    import pyarrow.parquet as pq


class Config(FilesConfig):
    """Rows of Parquet files."""

    kind: Literal["parquet"] = "parquet"


class Source(FilesSource):
    config: Config

    def parts(self, key: str) -> list[Part]:
        """Divide large files by row groups, and group small ones. Raises UserError if a file is no parquet."""
        return group_files(((file, sum(_sizes(file))) for file in files(self.config, key)), _row_group_parts)

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        return chain.from_iterable(_rows(self.config, columns, key, file, part) for file in part.files)

    def places(self, key: str, part: Part) -> Iterator[Callable[[], str]]:
        for file in part.files:
            with _opened(file) as opened:
                counts = [opened.metadata.row_group(n).num_rows for n in range(opened.num_row_groups)]
            before = sum(counts[: part.start])
            yield from (partial(_place, file, before, n) for n in range(sum(counts[part.start : part.stop])))


def _rows(config: Config, columns: Sequence[str], key: str, file: str, part: Part) -> Iterator[Row | BadRow]:
    with _opened(file) as opened:
        columns = resolved(columns, opened.schema_arrow.names)
        check_columns(config, columns, opened.schema_arrow.names, file, key)
        names = list(dict.fromkeys(source_columns(config, columns).values()))
        groups = [opened.metadata.row_group(n) for n in range(opened.num_row_groups)]
        at = sum(group.num_rows for group in groups[: part.start])
        chosen = range(len(groups))[part.start : part.stop]
        size = batch_rows(opened.metadata.num_rows, sum(group.total_byte_size for group in groups))
        for batch in opened.iter_batches(batch_size=size, row_groups=list(chosen), columns=names):
            yield from table_rows(batch, config, columns, key, partial(_place, file, at))
            at += batch.num_rows


def _place(file: str, before: int, number: int) -> str:
    return f"{file} row {before + number + 1}"


@contextmanager
def _opened(file: str | Path) -> "Iterator[pq.ParquetFile]":
    """Open a parquet file. Raises UserError if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pa.parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as opened:
            yield opened
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: is no parquet file, or is damaged: {first_line(error)}") from None


def _sizes(file: Path) -> list[int]:
    """Return the uncompressed bytes of each row group."""
    with _opened(file) as opened:
        return [opened.metadata.row_group(n).total_byte_size for n in range(opened.num_row_groups)]


def _row_group_parts(file: Path) -> list[Part]:
    """Divide a file into parts of neighbouring row groups."""
    parts: list[Part] = []
    start, part_size = 0, 0
    sizes = _sizes(file)
    for number, size in enumerate(sizes):
        if number > start and part_size + size > _files.PART:
            parts.append(Part((str(file),), start, number, part_size))
            start, part_size = number, 0
        part_size += size
    return [*parts, Part((str(file),), start, len(sizes), part_size)]
