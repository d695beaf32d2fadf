"""Lines of UTF-8 files, plain or compressed by gzip or zstd, as a stream in bounded memory.

A plain file is read in ranges of bytes: a line belongs to the range in which it begins. Lines come by the block,
decoded at once, since a step for each line would cost more than all else; only around a byte that is wrong are they
looked at one by one. What is wrong with a line stands in its place.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from launcher.config.errors import UserError
from launcher.data import BadRow, Part, _columns, _source
from launcher.data._source import grouped

BLOCK = 2**18
"""Bytes that are read, decoded and split at once."""

_SHORT = 1024
"""Bytes of a file that may well be one line."""

_EXPANDED = 4
"""Bytes of text in a byte of a compressed file, about."""

LONE_RETURNS = r"lines that end with \r alone? tr '\r' '\n' < OLD > NEW"
UTF_16 = "iconv -f utf-16 -t utf-8 OLD > NEW"
_MARKS = (b"\xff\xfe", b"\xfe\xff")
_RETURNS = re.compile(r"(?<!\r)\r++(?=\n|\Z)")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # neither can begin a text in UTF-8
_ENDINGS = {".gz": "gzip", ".zst": "zstd"}


class Lines(NamedTuple):
    """Neighbouring lines of a file, each with its end (the last of a file may lack it), or a bad line in their place.
    `beyond`: they begin after the range. `where(n)`: file:line of the n-th of them, from 0."""

    text: str
    bad: BadRow | None
    beyond: bool
    where: Callable[[int], str]


def cut(files: Sequence[Path], ranges: bool = True) -> list[Part]:
    """The parts of the files: ranges of a large plain file, several small ones together. `ranges`: False where a file
    has to be read as one, as a compressed one always has."""
    return grouped(((file, _size(file)) for file in files), _ranges if ranges else _one)


def _one(file: Path) -> list[Part]:
    return [Part((str(file),), size=_size(file))]


def _size(file: Path) -> int:
    """Bytes of text in a file, about."""
    return file.stat().st_size * (_EXPANDED if compression(file) else 1)


def _ranges(file: Path) -> list[Part]:
    if compression(file):
        return _one(file)
    size, step = file.stat().st_size, _source.PART
    return [Part((str(file),), at, min(at + step, size), min(step, size - at)) for at in range(0, size, step)]


def compression(file: Path) -> str | None:
    """How a file is compressed, by its first bytes: its name is no part of the content. Raises UserError for a name
    that promises what the content does not hold."""
    with file.open("rb") as stream:
        head = stream.read(4)
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    named = _ENDINGS.get(file.suffix)
    if named and found != named:
        raise UserError(f"{file}: is not compressed by {named}, as its name says: get it again, or rename it")
    return found


def read(
    file: str, start: int = 0, stop: int | None = None, on: bool = False, errors: str = "strict"
) -> Iterator[Lines]:
    """The lines that begin at the bytes [start, stop) of a file. `on`: then those beyond, for what goes on there.
    `errors`: what becomes of bytes that are not UTF-8, as in bytes.decode; strict: a bad line. Raises UserError for a
    compressed file that is cut off or damaged, and for a plain one of UTF-16."""
    path = Path(file)
    if kind := compression(path):
        yield from _compressed(path, kind, errors)
        return
    with path.open("rb") as stream:
        if stream.read(2) in _MARKS:
            raise UserError(f"{path}: is UTF-16, not UTF-8 (convert it: {UTF_16})")
        begin = _line_start(stream, start, stop)
        if stop is not None and begin >= stop:
            return
        end = None if stop is None else _line_start(stream, stop)
        count = 0
        for first, last, beyond in ((begin, end, False), (end, None, True)):
            if first is None or (beyond and not on):
                return
            stream.seek(first)
            for lines, number in _decoded(path, begin, _blocks(_chunks(stream, first, last)), count, beyond, errors):
                count = number
                yield lines


def check_ends(file: str) -> None:
    """Raises UserError for a file whose lines end with carriage returns alone, which would be one line."""
    if compression(Path(file)):
        return
    with Path(file).open("rb") as stream:
        head = stream.read(BLOCK)
    if len(head) > _SHORT and b"\n" not in head and head.count(b"\r") > 1:
        raise UserError(f"{file}: has no end of line ({LONE_RETURNS})")


def _compressed(path: Path, kind: str, errors: str) -> Iterator[Lines]:
    import pyarrow as pa

    count = 0
    with pa.OSFile(str(path)) as raw, pa.CompressedInputStream(raw, kind) as stream:
        decoded = _decoded(path, 0, _blocks(_chunks(stream, 0, None)), 0, False, errors)
        while True:
            try:
                lines, count = next(decoded)
            except StopIteration:
                return
            except OSError as error:
                raise UserError(f"{path}: cut off or damaged after line {count} ({error}): get it again") from None
            yield lines


def _chunks(stream: Any, at: int, end: int | None) -> Iterator[bytes]:
    """The bytes of a stream from where it stands (`at`) to an end, without a mark of byte order at the file's start."""
    largest = min(BLOCK, _columns.ROW)
    while chunk := stream.read(largest if end is None else min(largest, end - at)):
        yield chunk.removeprefix(BOM_UTF8) if at == 0 else chunk
        at += len(chunk)


def _line_start(stream: BinaryIO, at: int, until: int | None = None) -> int:
    """Where the first line begins at or after a byte, which may be the file's end; `until` or more: not before that."""
    if at == 0:
        return 0
    stream.seek(at - 1)
    at -= 1
    while (until is None or at < until) and (chunk := stream.read(BLOCK)):
        if (found := chunk.find(b"\n")) >= 0:
            return at + found + 1
        at += len(chunk)
    return at


def _blocks(chunks: Iterator[bytes]) -> Iterator[bytes | int]:
    """Chunks cut anew at the ends of lines. Of a line longer than ROW the length alone, since it is not held."""
    held, size = list[bytes](), 0  # the beginning of a line
    for chunk in chunks:
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            held, size = [*held, chunk] if size <= _columns.ROW else [], size + len(chunk)
            continue
        if size:  # a block of its own, so that none is longer than a row, or than a chunk
            first = chunk.find(b"\n") + 1
            length = size + first - 1
            yield length if length > _columns.ROW else b"".join([*held, chunk[:first]])
            chunk, cut = chunk[first:], cut - first
        if cut:
            yield chunk[:cut]
        held, size = [chunk[cut:]], len(chunk) - cut
    if size:
        yield size if size > _columns.ROW else b"".join(held)


def _decoded(
    path: Path, begin: int, blocks: Iterator[bytes | int], count: int, beyond: bool, errors: str
) -> Iterator[tuple[Lines, int]]:
    """Blocks as text, each with the lines from `begin` to its end. `count`: those before the first block."""
    for block in blocks:
        where = partial(_where, path, begin, count)
        if isinstance(block, int):
            long = f"a line of {block:,} bytes, more than the {_columns.ROW:,} that a row may have: split it"
            count += 1
            yield Lines("", BadRow(where(0), long), beyond, where), count
            continue
        lines = block.count(b"\n")
        lines += not block.endswith(b"\n")
        try:
            whole = Lines(block.decode(errors=errors), None, beyond, where)
        except UnicodeDecodeError:
            yield from _one_by_one(path, begin, block, count, beyond)
            count += lines
        else:
            count += lines
            yield whole, count


def _one_by_one(path: Path, begin: int, block: bytes, count: int, beyond: bool) -> Iterator[tuple[Lines, int]]:
    """The lines of a block in which something is no UTF-8: good neighbours stay together."""
    good = list[str]()
    for number, line in enumerate(BytesIO(block), start=count):
        try:
            good.append(line.decode())
        except UnicodeDecodeError as error:
            if good:
                yield Lines("".join(good), None, beyond, partial(_where, path, begin, number - len(good))), number
                good = []
            where = partial(_where, path, begin, number)
            yield Lines("", BadRow(where(0), _no_text(line, error)), beyond, where), number + 1
    if good:
        yield Lines("".join(good), None, beyond, partial(_where, path, begin, number + 1 - len(good))), number + 1


def _no_text(line: bytes, error: UnicodeDecodeError) -> str:
    at = f"byte 0x{line[error.start]:02x} at {error.start + 1}"
    return f"not UTF-8 ({at}): convert the file, for example by iconv -f latin1 -t utf-8"


def _where(path: Path, begin: int, count: int, number: int) -> str:
    """file:line of a line that is `count + number` lines after the byte `begin`."""
    return f"{path}:{_lines_before(path, begin) + count + number + 1}"


def _lines_before(path: Path, offset: int) -> int:
    """Counted only when a message needs it, and each piece of a file once."""
    step, stat = _source.PART, path.stat()
    whole = [_newlines(path, at, at + step, stat.st_mtime_ns, stat.st_size) for at in range(0, offset - step + 1, step)]
    rest = len(whole) * step
    return sum(whole) + _newlines(path, rest, offset, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2**16)
def _newlines(path: Path, start: int, stop: int, *_version: int) -> int:
    with path.open("rb") as stream:
        stream.seek(start)
        return sum(chunk.count(b"\n") for chunk in _chunks(stream, start, stop))


def after_blank(file: str, start: int, stop: int | None = None) -> bool:
    """Whether the line before the first one that begins at the bytes [start, stop) is blank, or there is none."""
    with Path(file).open("rb") as stream:
        end = _line_start(stream, start, stop)
        return end == 0 or not _tail(stream, end - 1).strip()


def _tail(stream: BinaryIO, end: int) -> str:
    """The text of the line whose end is at a byte, or enough of it to see that it is not blank."""
    size = 64
    while True:
        begin = max(end - size, 0)
        stream.seek(begin)
        seen = stream.read(end - begin)
        if begin == 0 or b"\n" in seen:
            line = seen[seen.rfind(b"\n") + 1 :]
            line = line.removeprefix(BOM_UTF8) if len(line) == end else line
            return line.decode(errors="replace") if len(line) <= _columns.ROW else "not blank"
        if size > _columns.ROW or seen.decode("ascii", "ignore").strip():
            return "not blank"
        size *= 2


def unix(text: str) -> str:
    """Lines without the carriage returns before their ends."""
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    return _RETURNS.sub("", text) if "\r" in text else text
