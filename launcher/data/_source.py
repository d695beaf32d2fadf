"""What sources share: the names of columns, files and their fingerprints."""

import glob
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import xxhash
from pydantic import Field

from launcher.config.errors import Problem, UserError
from launcher.config.types import Plugin


class SourceConfig(Plugin):
    """`limit`: the first so many rows. `text: body` means that the text is in column body."""

    limit: int | None = Field(None, gt=0)
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"


class FilesConfig(SourceConfig):
    """`path`: a file or glob, or a list of them."""

    path: str | list[str]


def files(config: FilesConfig, key: str) -> list[Path]:
    """Every file of `path`, sorted, each once. Raises UserError for a pattern without a file."""
    patterns = [config.path] if isinstance(config.path, str) else config.path
    found: set[Path] = set()
    for pattern in patterns:
        here = [Path(name) for name in glob.glob(str(Path(pattern).expanduser()), recursive=True)]  # noqa: PTH207
        here = [path for path in here if path.is_file()]
        if not here:
            raise UserError(Problem(f"{key}.path", f"{pattern}: no such file"))
        found.update(here)
    return sorted(found)


def fingerprint_files(config: FilesConfig, key: str) -> str:
    """A hash of the files' bytes, whatever their names."""
    state = xxhash.xxh3_128()
    for path in files(config, key):
        state.update(f"{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
    return str(state.hexdigest())


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a UTF-8 file. Raises UserError naming the first line that is not UTF-8."""
    with path.open("rb") as file:
        if file.read(len(BOM_UTF8)) != BOM_UTF8:
            file.seek(0)
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number}: not UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1}): convert the "
                    f"file, for example by iconv -f latin1 -t utf-8"
                ) from None


def pick(row: Mapping[str, Any], config: SourceConfig, columns: Sequence[str], where: str, key: str) -> dict[str, Any]:
    """A source's row with the canonical names. `where`: file:line or the like. Raises UserError for missing columns."""
    picked = {}
    for column in columns:
        name = getattr(config, column)
        if name is None:
            continue
        if name not in row:
            raise UserError(f"{where}: {key}.{column}: no column {name!r} (there are: {', '.join(map(str, row))})")
        if column != "label" and not isinstance(row[name], str):
            raise UserError(f"{where}: {key}.{column}: column {name!r} is no text but {type(row[name]).__name__}")
        if row[name] is None:
            raise UserError(f"{where}: {key}.{column}: column {name!r} is empty")
        if isinstance(row[name], str):
            _check_characters(row[name], f"{where}: {key}.{column}")
        picked[column] = row[name]
    return picked


def _check_characters(text: str, where: str) -> None:
    """Raises UserError for half a character, which JSON can write as \\ud83d and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half a character (U+{ord(text[error.start]):04X} alone): take it out") from None


def limited(rows: Iterator[dict[str, Any]], config: SourceConfig) -> Iterator[dict[str, Any]]:
    return islice(rows, config.limit)
