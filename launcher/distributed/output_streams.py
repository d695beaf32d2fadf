"""Standard output and error of a process: any encoding, and a reader, a terminal or a disk that goes away.

A stream that is set up as lasting ends nobody who writes to it: what a full disk has no room for is dropped, and what
has lost its reader is sent to nowhere; the log reports it once. Imports nothing but the standard library.
"""

import codecs
import errno
import io
import os
import re
import select
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_TEXT, _JSON = "launcher.text", "launcher.json"
"""Error handlers of encodings: for people, and for JSON, which loses nothing."""
_PLAIN = {
    **dict(zip("…→←≤≥\xd7·\u2013—▁░▒▓█", ("...", "->", "<-", "<=", ">=", *"x.--_.+#@"), strict=True)),
    **dict.fromkeys("━─╸╺", "-"), **dict.fromkeys("│┃", "|"),
}  # fmt: skip
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_LONGEST_LINE = 1 << 16


def set_up(lasting: bool) -> None:
    """Have both streams take any text, and have their descriptors open. Standard error lasts in any case: it carries no
    answers. `lasting`: so does standard output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    sys.stderr = _lasting(sys.stderr, 2)
    if lasting or sys.stdout is None:
        sys.stdout = _lasting(sys.stdout, 1)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_TEXT)


def copy_to(log: int, *numbers: int) -> None:
    """Copy each line of these streams (1, 2), set up as lasting, to a log, without what only draws on a terminal.
    `log`: a descriptor, which stays the caller's to keep open."""
    set_up(lasting=True)
    for number in numbers:
        _descriptor(sys.stdout if number == 1 else sys.stderr).copy_to(log)


def as_json(text: str) -> str:
    """JSON text with escapes in the place of what standard output cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, _JSON).decode(encoding)


def drop_output() -> None:
    """Send what standard output still holds to nowhere: its reader is gone, or its disk is full."""
    _to_nowhere(1)


class _Descriptor(io.RawIOBase):
    """A descriptor whose loss is no error of whoever writes to it."""

    def __init__(self, number: int):
        self.name = f"<{'stdout' if number == 1 else 'stderr'}>"
        self._number = number
        self._log: int | None = None
        self._line = b""
        self._lost, self._reported = "", False

    def copy_to(self, log: int) -> None:
        self._log = log
        self._report()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: "ReadableBuffer") -> int:
        whole = rest = bytes(data)
        while rest:
            try:
                rest = rest[os.write(self._number, rest) :]
            except BlockingIOError:  # another process of the terminal has made it so
                select.select([], [self._number], [])
            except OSError as error:
                self._lose(error)
                break
        self._copy(whole)
        return len(whole)

    def _lose(self, error: OSError) -> None:
        self._lost = self._lost or os.strerror(error.errno or errno.EIO)
        if not _is_file(self._number):  # a disk may have room again
            _to_nowhere(self._number)
        self._report()

    def _report(self) -> None:
        if self._lost and self._log is not None and not self._reported:
            self._reported = True
            _append(self._log, f"note: {self.name[1:-1]} is lost ({self._lost}): it falls silent, the run goes on\n")

    def _copy(self, data: bytes) -> None:
        if self._log is None:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[-_LONGEST_LINE:]
        for line in lines:
            drawn = _CONTROL.sub(b"", line).rstrip(b"\r").rpartition(b"\r")[2]
            _append(self._log, drawn + b"\n")


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    """The stream, written through a descriptor that may be lost."""
    if isinstance(stream, io.TextIOWrapper):
        if isinstance(getattr(stream.buffer, "raw", None), _Descriptor):
            return stream
        with suppress(OSError):
            stream.flush()
    elif stream is not None:
        return stream  # a test's, in memory
    encoding = "utf-8" if stream is None else stream.encoding
    buffer = io.BufferedWriter(_Descriptor(number))
    return io.TextIOWrapper(buffer, encoding=encoding, errors=_TEXT, line_buffering=True)


def _descriptor(stream: TextIO) -> _Descriptor:
    raw = cast(io.BufferedWriter, stream.buffer).raw
    assert isinstance(raw, _Descriptor)
    return raw


def _is_file(number: int) -> bool:
    with suppress(OSError):
        return stat.S_ISREG(os.fstat(number).st_mode)
    return False


def _to_nowhere(number: int) -> None:
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _append(log: int, line: bytes | str) -> None:
    with suppress(OSError):  # a full disk ends no training
        os.write(log, line.encode() if isinstance(line, str) else line)


def _escape(text: str) -> str:
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True))


def _for_people(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join("*" if "\u2800" <= c <= "\u28ff" else _PLAIN.get(c) or _escape(c) for c in missing), error.end


def _for_json(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _escape(error.object[error.start : error.end]), error.end


codecs.register_error(_TEXT, _for_people)
codecs.register_error(_JSON, _for_json)
