"""Lines of UTF-8 files, plain or compressed by gzip or zstd, read as a stream in bounded memory.

A plain file is read in ranges of bytes: a line belongs to the range in which it begins. Lines are decoded by the block,
since a step for each line would take most of the time. Only a block with invalid bytes is decoded line by line. A
`BadRow` takes the place of a line that cannot be used.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from launcher.config.errors import UserError
from launcher.data import BadRow, Part, _columns, _files
from launcher.data._files import group_files

BLOCK = 2**18
"""Bytes that are read, decoded and split at once."""

_SHORT_FILE = 1024
"""Bytes up to which a file may consist of a single line."""

_EXPANSION = 4
"""Approximate bytes of text in a byte of a compressed file."""

LONE_RETURNS = r"lines that end with \r alone? tr '\r' '\n' < OLD > NEW"
UTF_16 = "iconv -f utf-16 -t utf-8 OLD > NEW"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_RETURNS = re.compile(r"(?<!\r)\r++(?=\n|\Z)")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # no text in UTF-8 begins with these
_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Lines(NamedTuple):
    """Neighbouring lines of a file, or a bad line in their place.

    `text`: the lines, each with its end (the last line of a file may lack it). `beyond`: whether they begin after the
    range. `where(n)`: returns file:line of line n, from 0.
    """

    text: str
    bad: BadRow | None
    beyond: bool
    where: Callable[[int], str]


def file_parts(files: Sequence[Path], ranges: bool = True) -> list[Part]:
    """Divide files into parts: a large plain file into ranges of bytes, small neighbours together.

    `ranges`: False for a format whose files must be read from the start. A compressed file is never divided.
    """
    return group_files(((file, _text_size(file)) for file in files), _byte_ranges if ranges else _whole_file)


def _whole_file(file: Path) -> list[Part]:
    return [Part((str(file),), size=_text_size(file))]


def _text_size(file: Path) -> int:
    """Estimate the bytes of text in a file."""
    return file.stat().st_size * (_EXPANSION if compression(file) else 1)


def _byte_ranges(file: Path) -> list[Part]:
    if compression(file):
        return _whole_file(file)
    size, step = file.stat().st_size, _files.PART
    return [Part((str(file),), at, min(at + step, size), min(step, size - at)) for at in range(0, size, step)]


def compression(file: Path) -> str | None:
    """Return the compression of a file by its first bytes; None: a plain file.

    Raises UserError if the suffix of the file names another compression.
    """
    with file.open("rb") as stream:
        head = stream.read(4)
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    named = _SUFFIXES.get(file.suffix)
    if named and found != named:
        raise UserError(f"{file}: is not compressed by {named}, as its name says: get it again, or rename it")
    return found


def read_lines(
    file: str, start: int = 0, stop: int | None = None, beyond: bool = False, errors: str = "strict"
) -> Iterator[Lines]:
    """Yield the lines that begin at the bytes [start, stop) of a file.

    `beyond`: continue with the lines after them. `errors`: treatment of invalid bytes, as in bytes.decode; strict
    yields a bad line. Raises UserError for a compressed file that is truncated or damaged, and for a plain file in
    UTF-16.
    """
    path = Path(file)
    if kind := compression(path):
        yield from _compressed_lines(path, kind, errors)
        return
    with path.open("rb") as stream:
        if stream.read(2) in _UTF_16_MARKS:
            raise UserError(f"{path}: is UTF-16, not UTF-8 (convert it: {UTF_16})")
        begin = _line_start(stream, start, stop)
        if stop is not None and begin >= stop:
            return
        end = None if stop is None else _line_start(stream, stop)
        count = 0
        for first, last, is_beyond in ((begin, end, False), (end, None, True)):
            if first is None or (is_beyond and not beyond):
                return
            stream.seek(first)
            blocks = _blocks(_chunks(stream, first, last))
            for lines, number in _decode(path, begin, blocks, count, is_beyond, errors):
                count = number
                yield lines


def line_places(file: str, start: int, stop: int | None) -> Iterator[Callable[[], str]]:
    """Yield a function that returns the place of each line that begins in the range and is not blank."""
    for lines in read_lines(file, start, stop):
        for number, line in enumerate(["bad"] if lines.bad else lines.text.split("\n")):
            if line and not line.isspace():
                yield partial(lines.where, number)


def check_line_ends(file: str) -> None:
    """Raise UserError if lines end with carriage returns alone, so that the whole file would be one line."""
    if compression(Path(file)):
        return
    with Path(file).open("rb") as stream:
        head = stream.read(BLOCK)
    if len(head) > _SHORT_FILE and b"\n" not in head and head.count(b"\r") > 1:
        raise UserError(f"{file}: has no end of line ({LONE_RETURNS})")


def _compressed_lines(path: Path, kind: str, errors: str) -> Iterator[Lines]:
    import pyarrow as pa

    count = 0
    with pa.OSFile(str(path)) as raw, pa.CompressedInputStream(raw, kind) as stream:
        decoded = _decode(path, 0, _blocks(_chunks(stream, 0, None)), 0, False, errors)
        while True:
            try:
                lines, count = next(decoded)
            except StopIteration:
                return
            except OSError as error:
                raise UserError(f"{path}: cut off or damaged after line {count} ({error}): get it again") from None
            yield lines


def _chunks(stream: _Readable, at: int, end: int | None) -> Iterator[bytes]:
    """Yield the bytes of a stream from its position `at` to `end`, without a byte order mark at the start of the
    file."""
    largest = min(BLOCK, _columns.MAX_ROW)
    while chunk := stream.read(largest if end is None else min(largest, end - at)):
        yield chunk.removeprefix(BOM_UTF8) if at == 0 else chunk
        at += len(chunk)


def _line_start(stream: BinaryIO, at: int, until: int | None = None) -> int:
    """Return the start of the first line at or after the byte `at`; it may be the end of the file.

    The search ends at `until`: a larger result only means that no line begins before it.
    """
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
    """Regroup chunks into blocks of whole lines. In place of a line longer than MAX_ROW, its length is yielded."""
    held, size = list[bytes](), 0  # the beginning of a line
    for chunk in chunks:
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            held, size = [*held, chunk] if size <= _columns.MAX_ROW else [], size + len(chunk)
            continue
        if size:  # a block of its own, so that no block is longer than a row or a chunk
            first = chunk.find(b"\n") + 1
            length = size + first - 1
            yield length if length > _columns.MAX_ROW else b"".join([*held, chunk[:first]])
            chunk, cut = chunk[first:], cut - first
        if cut:
            yield chunk[:cut]
        held, size = [chunk[cut:]], len(chunk) - cut
    if size:
        yield size if size > _columns.MAX_ROW else b"".join(held)


def _decode(
    path: Path, begin: int, blocks: Iterator[bytes | int], count: int, beyond: bool, errors: str
) -> Iterator[tuple[Lines, int]]:
    """Decode blocks. Yields (lines, n), where n is the number of lines from the byte `begin` to the end of `lines`.

    `count`: the number of lines between `begin` and the first block. A block that is an int is the length of a line
    that is too long. It yields a bad line, as do invalid bytes if `errors` is strict.
    """
    for block in blocks:
        where = partial(_place, path, begin, count)
        if isinstance(block, int):
            what = f"a line of {block:,} bytes, more than the {_columns.MAX_ROW:,} that a row may have: split it"
            count += 1
            yield Lines("", BadRow(where(0), what), beyond, where), count
            continue
        lines = block.count(b"\n")
        lines += not block.endswith(b"\n")
        try:
            decoded = Lines(block.decode(errors=errors), None, beyond, where)
        except UnicodeDecodeError:
            yield from _decode_by_line(path, begin, block, count, beyond)
            count += lines
        else:
            count += lines
            yield decoded, count


def _decode_by_line(path: Path, begin: int, block: bytes, count: int, beyond: bool) -> Iterator[tuple[Lines, int]]:
    """Decode a block with invalid bytes. Yields as `_decode`; neighbouring valid lines stay together."""
    valid = list[str]()
    for number, line in enumerate(BytesIO(block), start=count):
        try:
            valid.append(line.decode())
        except UnicodeDecodeError as error:
            if valid:
                yield Lines("".join(valid), None, beyond, partial(_place, path, begin, number - len(valid))), number
                valid = []
            where = partial(_place, path, begin, number)
            yield Lines("", BadRow(where(0), _not_utf8(line, error)), beyond, where), number + 1
    if valid:
        yield Lines("".join(valid), None, beyond, partial(_place, path, begin, number + 1 - len(valid))), number + 1


def _not_utf8(line: bytes, error: UnicodeDecodeError) -> str:
    at = f"byte 0x{line[error.start]:02x} at {error.start + 1}"
    return f"not UTF-8 ({at}): convert the file, for example by iconv -f latin1 -t utf-8"


def _place(path: Path, begin: int, count: int, number: int) -> str:
    """Return file:line of the line that is `count + number` lines after the byte `begin`."""
    return f"{path}:{_lines_before(path, begin) + count + number + 1}"


def _lines_before(path: Path, offset: int) -> int:
    """Return the number of lines before a byte.

    Only a message needs this. The counts of whole parts are therefore cached.
    """
    step, stat = _files.PART, path.stat()
    version = (stat.st_mtime_ns, stat.st_size)
    counts = [_newlines(path, at, at + step, *version) for at in range(0, offset - step + 1, step)]
    return sum(counts) + _newlines(path, len(counts) * step, offset, *version)


@lru_cache(maxsize=2**16)
def _newlines(path: Path, start: int, stop: int, *_version: int) -> int:
    with path.open("rb") as stream:
        stream.seek(start)
        return sum(chunk.count(b"\n") for chunk in _chunks(stream, start, stop))


def follows_blank_line(file: str, start: int, stop: int | None = None) -> bool:
    """Return whether the first line in the bytes [start, stop) follows a blank line, or is the first of the file."""
    with Path(file).open("rb") as stream:
        end = _line_start(stream, start, stop)
        return end == 0 or not _line_before(stream, end - 1).strip()


def _line_before(stream: BinaryIO, end: int) -> str:
    """Return the line that ends at a byte. In place of a long line that is not blank, another text is returned."""
    size = 64
    while True:
        begin = max(end - size, 0)
        stream.seek(begin)
        seen = stream.read(end - begin)
        if begin == 0 or b"\n" in seen:
            line = seen[seen.rfind(b"\n") + 1 :]
            line = line.removeprefix(BOM_UTF8) if len(line) == end else line
            return line.decode(errors="replace") if len(line) <= _columns.MAX_ROW else "not blank"
        if size > _columns.MAX_ROW or seen.decode("ascii", "ignore").strip():
            return "not blank"
        size *= 2


def strip_returns(text: str) -> str:
    """Remove the carriage returns before the ends of lines."""
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    return _RETURNS.sub("", text) if "\r" in text else text
