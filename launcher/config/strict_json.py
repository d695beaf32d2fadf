"""JSON that the launcher wrote, read with every check.

Whatever a file holds, and whatever stands in its place, reading ends in a value or in `DamagedFile`: nothing hangs, no
number is beyond 64 bits, and memory stays within a few hundred MiB.
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
"""Bytes of a document."""
MOST_LINE = 8 << 20
"""Bytes of a line in a file of lines."""
MOST_VALUES = 300_000
"""Values of a document or a line: a Python object can take fifty times as much memory as its text."""
_BLOCK = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Object = JsonObject


class DamagedFile(UserError):
    """A file of the launcher does not hold what the launcher writes: `file[:line]: damaged: what (hint)`."""


class Wrong(ValueError):
    """What is wrong with a value, in words that follow its place."""


class Stored(BaseModel):
    """The content of a file: exact types. Keys of other versions of the launcher are ignored."""

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
"""A text that may go to a terminal."""
PlainName = Annotated[str, AfterValidator(_plain_name)]
"""The name of something within a folder, which leads to no other place."""

T = TypeVar("T", bound=BaseModel)


def read(file: Path, model: type[T], hint: str) -> T:
    """A document of this type. Raises DamagedFile, also where there is none."""
    value = read_object(file, hint)
    try:
        return check(value, model)
    except Wrong as error:
        raise damage(file, error, hint) from None


def read_object(file: Path, hint: str, most: int = MOST_BYTES) -> Object:
    """A document that is a JSON object, of at most so many bytes. Raises DamagedFile, also where there is none."""
    with opened(file, hint) as data:
        content = data.read(most + 1)
    if len(content) > most:
        raise damage(file, f"larger than {most >> 10:,} KiB", hint)
    try:
        return parse(content)
    except Wrong as error:
        raise damage(file, error, hint) from None


def check(value: Object, model: type[T]) -> T:
    """The value as this type. Raises Wrong naming the first key that is."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    message = messages.of(first)
    message = "missing" if first["type"] == "missing" else message
    key = ".".join(map(str, first["loc"]))
    raise Wrong(f"{shown(key)}: {message}" if key else message)


def parse(text: bytes) -> Object:
    """A JSON object. Raises Wrong."""
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
    """The lines of a file, each with its offset in bytes, from the first that begins at `begin` or later. A last one
    that was cut off ends without a newline. Raises DamagedFile for one that is too long."""
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
    """`file:line` of the line that begins at this offset."""
    number = 1
    with file.open("rb") as data:
        while offset > 0 and (block := data.read(min(_BLOCK, offset))):
            number += block.count(b"\n")
            offset -= len(block)
    return f"{file}:{number}"


def size(file: Path, hint: str) -> int:
    """Bytes of a regular file. Raises DamagedFile."""
    with opened(file, hint) as data:
        return os.fstat(data.fileno()).st_size


@contextmanager
def opened(file: Path, hint: str) -> Iterator[BinaryIO]:
    """A regular file, open for reading; a pipe in its place is not waited for. Raises DamagedFile."""
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
        raise damage(file, f"cannot be read: {error.strerror}", hint) from None


def exists(file: Path) -> bool:
    """Whether anything has this name, a link that leads nowhere included; also where its folder hides whether."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def damage(where: Path | str, what: object, hint: str) -> DamagedFile:
    return DamagedFile(f"{where}: damaged: {what} ({hint})")


def shown(text: str, most: int = 80) -> str:
    """A text from a file, or a file's name, for a terminal: at most so long, with nothing that a terminal obeys or
    cannot encode."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return f"{plain[:most]}..." if len(plain) > most else plain


def _object(pairs: Sequence[tuple[str, object]]) -> Object:
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
