"""Plain text files: each paragraph (up to a blank line), line or file is one text."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Literal

from launcher.config.errors import Problem, UserError
from launcher.data import BadRow, Part, Row, _columns
from launcher.data._files import FilesSource, files
from launcher.data._lines import (
    check_line_ends,
    file_parts,
    follows_blank_line,
    line_places,
    read_lines,
    strip_returns,
)
from launcher.data._source import FilesConfig

_BLANK = re.compile(r"\n\s*\n")


class Config(FilesConfig):
    """Documents of text files."""

    kind: Literal["text"] = "text"
    document: Literal["paragraph", "line", "file"] = "paragraph"
    """Unit of text that is one document."""


class Source(FilesSource):
    config: Config

    def parts(self, key: str) -> list[Part]:
        return file_parts(files(self.config, key), ranges=self.config.document != "file")

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        if "image" in columns:
            raise UserError(Problem(f"{key}.kind", "plain text has no image (use image_folder, hub, ...)"))
        if "label" in columns:
            raise UserError(Problem(f"{key}.kind", "plain text has no labels (use jsonl, csv, hub, ...)"))
        reader = {"paragraph": _paragraphs, "line": _lines, "file": _whole_file}[self.config.document]
        return chain.from_iterable(reader(file, part.start, part.stop) for file in part.files)

    def places(self, key: str, part: Part) -> Iterator[Callable[[], str]]:
        places = {"paragraph": _paragraph_places, "line": line_places, "file": _file_places}[self.config.document]
        return chain.from_iterable(places(file, part.start, part.stop) for file in part.files)


def _file_places(file: str, start: int, stop: int | None) -> Iterator[Callable[[], str]]:
    if next(line_places(file, start, stop), None) is not None:
        yield partial(str, file)


def _paragraph_places(file: str, start: int, stop: int | None) -> Iterator[Callable[[], str]]:
    """Yield the places of the first lines of the paragraphs that begin in the range."""
    inside = not follows_blank_line(file, start, stop)
    for lines in read_lines(file, start, stop):
        texts = ["bad"] if lines.bad else strip_returns(lines.text).removesuffix("\n").split("\n")
        for number, line in enumerate(texts):
            blank = not line or line.isspace()
            if not blank and not inside:
                yield partial(lines.where, number)
            inside = not blank


def _lines(file: str, start: int, stop: int | None) -> Iterator[Row | BadRow]:
    check_line_ends(file)
    for lines in read_lines(file, start, stop):
        if lines.bad:
            yield lines.bad
        for line in strip_returns(lines.text).split("\n"):
            if line and not line.isspace():
                yield {"text": line}


def _whole_file(file: str, start: int, stop: int | None) -> Iterator[Row | BadRow]:
    document = _Document("file")
    for lines in read_lines(file, start, stop):
        document.add(strip_returns(lines.text), partial(lines.where, 0), lines.bad)
    yield from document.close()


def _paragraphs(file: str, start: int, stop: int | None) -> Iterator[Row | BadRow]:
    """Yield the paragraphs that begin in the range.

    A paragraph that begins before the range is skipped. A paragraph that continues after the range is read to its end.
    """
    check_line_ends(file)
    document = _Document("paragraph", skipped=not follows_blank_line(file, start, stop))
    for lines in read_lines(file, start, stop, beyond=True):
        if lines.beyond and not document.open:
            return
        if lines.bad:
            document.add("", partial(lines.where, 0), lines.bad)
            continue
        text = strip_returns(lines.text)
        first, *others = _BLANK.split(f"\n{text}" if text.endswith("\n") else f"\n{text}\n")
        if first:
            document.add(first[1:], partial(lines.where, 0))
        if not others:
            continue
        yield from document.close()
        if lines.beyond:
            return
        last = others.pop()
        for other in others:
            yield {"text": other}
        document = _Document("paragraph")
        if last:
            document.add(last, partial(_place_of_last, lines.where, text, last))
    yield from document.close()


def _place_of_last(where: Callable[[int], str], text: str, last: str) -> str:
    return where(text.count("\n") + (not text.endswith("\n")) - last.count("\n"))


class _Document:
    """A document that is collected from several blocks.

    `skipped`: it began in another range, and is not read here.
    """

    def __init__(self, kind: str, skipped: bool = False):
        self.kind, self.skipped, self.open = kind, skipped, skipped
        self._texts: list[str] = []
        self._size = 0
        self._bad: BadRow | None = None
        self._where: Callable[[], str] | None = None

    def add(self, text: str, where: Callable[[], str], bad: BadRow | None = None) -> None:
        """Add whole lines (the last one may lack its end), or a bad line. `where`: returns their place."""
        self.open, self._where = True, self._where or where
        self._bad = self._bad or bad
        self._size += len(text)
        if self._bad or self.skipped or self._size > _columns.MAX_ROW + 1:
            self._texts = ["\n"] if text.endswith("\n") else []  # only its length is needed from here on
        else:
            self._texts.append(text)

    def close(self) -> Iterator[Row | BadRow]:
        """Yield the document without the end of its last line; nothing is yielded if it is blank or skipped."""
        text = "".join(self._texts)
        size = self._size - text.endswith("\n")
        if self.skipped or not self.open:
            return
        if self._bad:
            yield self._bad
        elif size > _columns.MAX_ROW and self._where:
            what = f"a {self.kind} of {size:,} characters, more than the {_columns.MAX_ROW:,} that a row may have"
            yield BadRow(self._where(), f"{what}: split it")
        elif text and not text.isspace():
            yield {"text": text.removesuffix("\n")}
