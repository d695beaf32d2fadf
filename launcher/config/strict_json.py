"""Read JSON files of the launcher, and check them.

Reading returns a value or raises `DamagedFile`, whatever the file holds. It never blocks, accepts no number beyond 64
bits, and needs at most a few hundred MiB of memory.
"""

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from launcher.config import messages
from launcher.config.errors import UserError
from launcher.config.types import JsonObject

MOST_BYTES = 32 << 20
"""Maximum size of a document in bytes."""
MOST_LINE = 8 << 20
"""Maximum length of a line in bytes."""
MOST_VALUES = 300_000
"""Maximum number of values in a document or a line. A Python object can take fifty times the memory of its text."""
_BLOCK = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class DamagedFile(UserError):
    """Error: a file does not hold what the launcher writes. The message is `file[:line]: damaged: what (hint)`."""


class Wrong(ValueError):
    """Error: a value is wrong. The caller puts the location of the value before the message."""


class Stored(BaseModel):
    """Content of a file, with exact types. Keys of other versions of the launcher are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


def _word(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("has a control character")
    return text


def _plain_name(text: str) -> str:
    if text in ("", ".", "..") or "/" in text:
        raise ValueError("should be a name without a path")
    if len(text) > 255:
        raise ValueError("is too long for a name")
    return _word(text)


Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Time = Annotated[float, Field(ge=0, lt=2.5e11)]
"""Seconds since the epoch, up to the year 9999."""
Word = Annotated[str, AfterValidator(_word)]
"""A text that may be printed to a terminal."""
PlainName = Annotated[str, AfterValidator(_plain_name)]
"""Name of an entry of a folder, without a path."""

T = TypeVar("T", bound=BaseModel)


def read(file: Path, model: type[T], hint: str) -> T:
    """Read a document of type `model`. `hint`: advice for the message. Raises DamagedFile, also for a missing file."""
    value = read_object(file, hint)
    try:
        return check(value, model)
    except Wrong as error:
        raise damage(file, error, hint) from None


def read_object(file: Path, hint: str, limit: int = MOST_BYTES) -> JsonObject:
    """Read a document that is a JSON object of at most `limit` bytes. Raises DamagedFile, also for a missing file."""
    with opened(file, hint) as data:
        content = data.read(limit + 1)
    if len(content) > limit:
        raise damage(file, f"larger than {limit >> 10:,} KiB", hint)
    try:
        return parse(content)
    except Wrong as error:
        raise damage(file, error, hint) from None


def check(value: JsonObject, model: type[T]) -> T:
    """Validate a value as `model`. Raises Wrong with the first wrong key."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    message = messages.of(first)
    message = "missing" if first["type"] == "missing" else message
    key = ".".join(map(str, first["loc"]))
    raise Wrong(f"{shown(key)}: {message}" if key else message)


def parse(text: bytes) -> JsonObject:
    """Parse a JSON object. Raises Wrong."""
    if sum(text.count(sign) for sign in (b",", b"[", b"{")) > MOST_VALUES:
        raise Wrong(f"more than {MOST_VALUES:,} values")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer)
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise Wrong("nested too deep") from None
    except UnicodeEncodeError:
        raise Wrong("half a character (a lone surrogate)") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise Wrong("not a JSON object") from None
    if not isinstance(value, dict):
        raise Wrong("not a JSON object")
    return value


def lines(file: Path, hint: str, begin: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in bytes, line) for each line of a file. A truncated last line has no newline.

    `begin`: lines that start before this offset are left out. Raises DamagedFile for a line that is too long.
    """
    with opened(file, hint) as data:
        if begin > 0:
            data.seek(begin - 1)
            while (skipped := data.readline(_BLOCK)) and not skipped.endswith(b"\n"):
                continue
        offset = data.tell()
        while line := data.readline(MOST_LINE + 1):
            if len(line) > MOST_LINE:
                raise damage(place(file, offset), f"longer than {MOST_LINE >> 20} MiB", hint)
            yield offset, line
            offset += len(line)


def place(file: Path, offset: int) -> str:
    """Return `file:line` for the line at an offset."""
    number = 1
    with file.open("rb") as data:
        while offset > 0 and (block := data.read(min(_BLOCK, offset))):
            number += block.count(b"\n")
            offset -= len(block)
    return f"{file}:{number}"


def size(file: Path, hint: str) -> int:
    """Return the size of a regular file in bytes. Raises DamagedFile."""
    with opened(file, hint) as data:
        return os.fstat(data.fileno()).st_size


@contextmanager
def opened(file: Path, hint: str) -> Iterator[BinaryIO]:
    """Open a regular file for reading. If a pipe has its name, opening does not block.

    Raises DamagedFile; if the system cannot read the file, the OSError is its cause.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as data:
            kind = os.fstat(data.fileno()).st_mode
            if not stat.S_ISREG(kind):
                what = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
                raise damage(file, f"{what} is in its place", hint)
            yield data
    except FileNotFoundError:
        raise damage(file, "it is missing", hint) from None
    except IsADirectoryError:
        raise damage(file, "a folder is in its place", hint) from None
    except OSError as error:
        raise damage(file, f"cannot be read: {error.strerror}", hint) from error


def exists(file: Path) -> bool:
    """Return whether an entry has this name, even a broken link; True also if its folder cannot be searched."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def damage(where: Path | str, what: object, hint: str) -> DamagedFile:
    return DamagedFile(f"{where}: damaged: {what} ({hint})")


def shown(text: str, limit: int = 80) -> str:
    """Shorten a text of a file for a message, and replace characters that are not printable."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[: limit + 1])
    return f"{plain[:limit]}..." if len(plain) > limit else plain


def _object(pairs: Sequence[tuple[str, object]]) -> JsonObject:
    value = dict(pairs)
    if len(value) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise Wrong(f"{shown(key)}: stands there twice")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise Wrong("a number beyond 64 bits")
    return value
