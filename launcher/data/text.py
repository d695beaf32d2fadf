"""Plain text files: a document is a blank-line paragraph, a line, or a file."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Literal

from launcher import data
from launcher.config.errors import Problem, UserError
from launcher.data import BadRow, Part, Row, _columns
from launcher.data._lines import after_blank, check_ends, cut, read, unix
from launcher.data._source import FilesConfig, files, fingerprint_files

_BLANK = re.compile(r"\n\s*\n")


class Config(FilesConfig):
    """Documents of text files."""

    kind: Literal["text"] = "text"
    document: Literal["paragraph", "line", "file"] = "paragraph"
    """Unit of text that is one document."""


class Source(data.Source):
    def __init__(self, config: Config):
        self.config = config

    def fingerprint(self, key: str) -> str:
        return fingerprint_files(self.config, key)

    def parts(self, key: str) -> list[Part]:
        return cut(files(self.config, key), ranges=self.config.document != "file")

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        if "image" in columns:
            raise UserError(Problem(f"{key}.kind", "plain text has no image (use image_folder, hub, ...)"))
        if "label" in columns:
            raise UserError(Problem(f"{key}.kind", "plain text has no labels (use jsonl, csv, hub, ...)"))
        read_as = {"paragraph": _paragraphs, "line": _lines, "file": _whole}[self.config.document]
        return chain.from_iterable(read_as(file, part.start, part.stop) for file in part.files)


def _lines(file: str, start: int, stop: int | None) -> Iterator[Row | BadRow]:
    check_ends(file)
    for lines in read(file, start, stop):
        if lines.bad:
            yield lines.bad
        for line in unix(lines.text).split("\n"):
            if line and not line.isspace():
                yield {"text": line}


def _whole(file: str, start: int, stop: int | None) -> Iterator[Row | BadRow]:
    document = _Document("file")
    for lines in read(file, start, stop):
        document.add(unix(lines.text), partial(lines.where, 0), lines.bad)
    yield from document.close()


def _paragraphs(file: str, start: int, stop: int | None) -> Iterator[Row | BadRow]:
    """A paragraph belongs to the range in which it begins: the one that is open at its start is skipped, the one that
    is open at its stop is read to its end."""
    check_ends(file)
    document = _Document("paragraph", skipped=not after_blank(file, start, stop))
    for lines in read(file, start, stop, on=True):
        if lines.beyond and not document.open:
            return
        if lines.bad:
            document.add("", partial(lines.where, 0), lines.bad)
            continue
        text = unix(lines.text)
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
            document.add(last, partial(_where_last, lines.where, text, last))
    yield from document.close()


def _where_last(where: Callable[[int], str], text: str, last: str) -> str:
    return where(text.count("\n") + (not text.endswith("\n")) - last.count("\n"))


class _Document:
    """A document that grows over several blocks. `skipped`: it belongs to somebody else."""

    def __init__(self, kind: str, skipped: bool = False):
        self.kind, self.skipped, self.open = kind, skipped, skipped
        self._texts: list[str] = []
        self._size = 0
        self._bad: BadRow | None = None
        self._where: Callable[[], str] | None = None

    def add(self, text: str, where: Callable[[], str], bad: BadRow | None = None) -> None:
        """Whole lines, which may lack the last end; or what is wrong with one. `where`: their place."""
        self.open, self._where = True, self._where or where
        self._bad = self._bad or bad
        self._size += len(text)
        if self._bad or self.skipped or self._size > _columns.ROW + 1:
            self._texts = ["\n"] if text.endswith("\n") else []  # all that is still needed is its length
        else:
            self._texts.append(text)

    def close(self) -> Iterator[Row | BadRow]:
        """The document, if there is any; the end of its last line is no part of it."""
        text = "".join(self._texts)
        size = self._size - text.endswith("\n")
        if self.skipped or not self.open:
            return
        if self._bad:
            yield self._bad
        elif size > _columns.ROW and self._where:
            what = f"a {self.kind} of {size:,} characters, more than the {_columns.ROW:,} that a row may have: split it"
            yield BadRow(self._where(), what)
        elif text and not text.isspace():
            yield {"text": text.removesuffix("\n")}
