"""Standard output and error that survive any encoding and the loss of their reader, terminal or disk.

Writing to a stream that is set up as lasting never fails. Output is dropped if the disk is full or the reader is gone.
The log reports the loss once. This module imports the standard library only.
"""

import codecs
import ctypes
import errno
import io
import os
import re
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_TEXT, _JSON = "launcher.text", "launcher.json"
"""Names of encoding error handlers: one writes readable text, the other JSON escapes that lose nothing."""
_PLAIN = {
    **dict(zip("…→←≤≥\xd7·\u2013—▁░▒▓█", ("...", "->", "<-", "<=", ">=", *"x.--_.+#@"), strict=True)),
    **dict.fromkeys("━─╸╺", "-"), **dict.fromkeys("│┃", "|"),
}  # fmt: skip
ERASE, FRAME = "\x1b[J", "\x1b[0J"
"""Control sequences that erase what is below the cursor. The second one begins a frame of a live display, which ends
when the cursor moves up to its beginning."""
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_FRAME = re.compile(rb"\x1b\[0J.*?\x1b\[[0-9]+A\r", re.DOTALL)
_LONGEST_LINE = 1 << 16
_LINE_BUFFERED = 1
"""_IOLBF of C's stdio.h on Linux."""


def set_up(lasting: bool) -> None:
    """Make both streams accept any text, and open descriptors that are closed.

    Standard error becomes lasting in any case, because it has no results. `lasting`: whether standard output does, too.
    What libraries print is then written line by line, since a process that is killed writes no buffer.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would receive the output
            os.open(os.devnull, os.O_RDWR)
    sys.stderr = _lasting(sys.stderr, 2)
    if lasting or sys.stdout is None:
        sys.stdout = _lasting(sys.stdout, 1)
        _buffer_lines_of_libraries()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_TEXT)


def separate(log: int) -> None:
    """Keep Python's standard output where it is, copy its lines to a log, and send there what libraries write to
    descriptor 1, such as NCCL's warnings.

    `log`: a descriptor, which the caller has to keep open.
    """
    copy_to(log, 1)
    descriptor = _descriptor(sys.stdout)
    if descriptor is not None:
        sys.stdout.flush()
        descriptor.move()
        os.dup2(log, 1)


def copy_to(log: int, *numbers: int) -> None:
    """Copy each line of these streams (1, 2) to a log, without control sequences of terminals and without the frames of
    a live display.

    `log`: a descriptor, which the caller has to keep open.
    """
    set_up(lasting=True)
    for number in numbers:
        descriptor = _descriptor(sys.stdout if number == 1 else sys.stderr)
        assert descriptor is not None
        descriptor.copy_to(log)


def erasure(number: int) -> str:
    """Return the control sequence that erases a rank's display below the cursor; empty: this is no terminal."""
    dumb = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    return "" if dumb or not os.isatty(number) else ERASE


def erase_display() -> None:
    """Erase what the display of a rank that was killed has left on this terminal."""
    with suppress(OSError):
        os.write(1, erasure(1).encode())


def write_error(text: str) -> None:
    """Write to standard error without copying the text to the log (see `copy_to`). Raises OSError or ValueError."""
    descriptor = _descriptor(sys.stderr)
    with descriptor.not_copied() if descriptor is not None else nullcontext():
        sys.stderr.write(f"{erasure(2)}{text}")
        sys.stderr.flush()


def as_json(text: str) -> str:
    """Replace characters of JSON text that standard output cannot encode with escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, _JSON).decode(encoding)


def exit_now(code: int) -> NoReturn:
    """Write what is buffered, and end this process without waiting for its threads or its process group.

    After an error, the end of a group could wait for other ranks: NCCL completes its collectives first.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def drop_output() -> None:
    """Discard the buffered standard output, because its reader is gone or its disk is full."""
    _to_nowhere(1)


class _Descriptor(io.RawIOBase):
    """A file descriptor to which writing never fails. Its lines can be copied to a log."""

    def __init__(self, number: int):
        self.name = f"<{'stdout' if number == 1 else 'stderr'}>"
        self._number = number
        self._log: int | None = None
        self._line = b""
        self._lost, self._reported = "", False

    def copy_to(self, log: int) -> None:
        self._log = log
        self._report()

    def move(self) -> None:
        """Write to a duplicate of the descriptor from here on, so that the descriptor itself can be replaced."""
        self._number = os.dup(self._number)

    @contextmanager
    def not_copied(self) -> Iterator[None]:
        log, self._log = self._log, None
        try:
            yield
        finally:
            self._log = log

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
            except BlockingIOError:  # another process of the terminal has made it non-blocking
                select.select([], [self._number], [])
            except OSError as error:
                self._lose(error)
                break
        self._copy(whole)
        return len(whole)

    def _lose(self, error: OSError) -> None:
        self._lost = self._lost or os.strerror(error.errno or errno.EIO)
        if not _is_file(self._number):  # a full disk may have room again
            _to_nowhere(self._number)
        self._report()

    def _report(self) -> None:
        if self._lost and self._log is not None and not self._reported:
            self._reported = True
            _append(self._log, f"note: {self.name[1:-1]} is lost ({self._lost}): it falls silent, the run goes on\n")

    def _copy(self, data: bytes) -> None:
        if self._log is None:
            return
        text, begins, frame = _FRAME.sub(b"", self._line + data).partition(FRAME.encode())
        *lines, rest = text.split(b"\n")
        self._line = (rest + begins + frame)[-_LONGEST_LINE:]
        for line in lines:
            drawn = _CONTROL.sub(b"", line).rstrip(b"\r").rpartition(b"\r")[2]
            _append(self._log, drawn + b"\n")


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    """Wrap standard output or error so that writing to it never fails (see `_Descriptor`).

    `number`: its file descriptor. A stream that is wrapped already, or in memory, is returned as it is.
    """
    if isinstance(stream, io.TextIOWrapper):
        if _descriptor(stream) is not None:
            return stream
        with suppress(OSError):
            stream.flush()
    elif stream is not None:
        return stream  # in memory, in tests
    encoding = "utf-8" if stream is None else stream.encoding
    buffer = io.BufferedWriter(_Descriptor(number))
    return io.TextIOWrapper(buffer, encoding=encoding, errors=_TEXT, line_buffering=True)


def _descriptor(stream: TextIO) -> _Descriptor | None:
    """Return the `_Descriptor` of a lasting stream; None for any other stream."""
    raw = getattr(stream.buffer, "raw", None) if isinstance(stream, io.TextIOWrapper) else None
    return raw if isinstance(raw, _Descriptor) else None


def _is_file(number: int) -> bool:
    with suppress(OSError):
        return stat.S_ISREG(os.fstat(number).st_mode)
    return False


def _buffer_lines_of_libraries() -> None:
    """Make the C library's standard output line-buffered; on a system that names it otherwise, do nothing."""
    with suppress(OSError, ValueError):
        library = ctypes.CDLL(None)
        library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, _LINE_BUFFERED, 0)


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
