"""Data sources: plug-ins that read rows.

A kind is one module in this folder, or a module of your own that the recipe names by its dotted path. It has a class
`Config(SourceConfig)`, whose fields are the keys of the recipe, and a class `Source(data.Source)`, which reads the
rows. The file is the registration. Import heavy libraries inside functions: a plan reads every Config on a login node.

A row is a dict under the canonical column names that the task requires (`text`, `text_pair`, `label`, ...), whatever
the columns are called in the source. An image is an array of shape (height, width, channels), uint8.

Parallel processes read the parts of a source. The content alone decides where parts begin and end, so that any number
of processes reads the same rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from launcher.config.requested_columns import Column as Column
from launcher.config.types import Plugin

Row = dict[str, Any]
"""Canonical column name -> value."""

TEXTS = ("text", "text_pair", "question", "context", "target")
"""The columns that hold one text."""

INPUTS = ("text", "text_pair", "words", "question", "context", "features", "image")
"""The columns that a model sees. Their content decides which rows are held out for validation."""


class SourceConfig(Plugin):
    """Keys of every source. `text: body` reads the text from column body."""

    limit: int | None = Field(None, gt=0)
    """Number of rows to read, from the first on. Default: all."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """What happens at an unusable row: the preparation fails, or the row is skipped and counted."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of a second text."""
    label: str = "label"
    """Column of the label or number."""
    target: str = "target"
    """Column of the target text or number."""
    words: str = "words"
    """Column of a list of words."""
    labels: str = "labels"
    """Column of a list of labels."""
    question: str = "question"
    """Column of the question."""
    context: str = "context"
    """Column of the context."""
    answers: str = "answers"
    """Column of the answers."""
    features: list[str] | str = "features"
    """Column of a list of numbers, or a list of columns of numbers."""
    image: str = "image"
    """Column of the image."""

    @property
    def reads_local_files(self) -> bool:
        """Whether the rows come from files of the user.

        A plan may then read the first rows, since that is quick and needs no download.
        """
        return False


@dataclass(frozen=True)
class Part:
    """A piece of a source that can be read by itself.

    Each kind gives `files`, `start` and `stop` its own meaning: whole files, or the bytes or rows [start, stop) of one
    file. `size`: approximate bytes, for progress and the disk space needed.
    """

    files: tuple[str, ...] = ()
    start: int = 0
    stop: int | None = None
    size: int = 0


class BadRow(NamedTuple):
    """A mistake, yielded in place of a row that cannot be used.

    `where`: place of the row, such as file:line. `what`: the mistake. `missing`: the canonical or kept column that the
    row lacks, if that is the mistake.
    """

    where: str
    what: str
    missing: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Source(ABC):
    """A reader of the rows of one Config. A kind declares its type: `config: Config`.

    `key` is the key of the Config in the recipe, such as data.train. Messages begin with it.
    """

    def __init__(self, config: Any):
        self.config = config

    @abstractmethod
    def fingerprint(self, key: str) -> str:
        """Identify the content by its bytes, revision or versions: equal fingerprints mean equal rows.

        Raises UserError if the source cannot be found or read.
        """

    def local_files(self, key: str) -> Sequence[Path]:
        """Return the user's files that hold the rows; empty: they come from elsewhere. Raises UserError if one cannot
        be found."""
        return []

    def parts(self, key: str) -> Sequence[Part]:
        """Divide the source into parts of some 32 MiB, in a fixed order. The default is a single part.

        Raises UserError if the source cannot be read.
        """
        return [Part()]

    @abstractmethod
    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        """Yield the rows of a part in a fixed order. The caller applies `limit` and `on_bad_row`.

        Raises UserError if the whole source is unusable: a column that no row has, a truncated archive.
        """

    def places(self, key: str, part: Part) -> Iterator[Callable[[], str]]:
        """Yield for each row of `rows`, bad ones included, a function that returns its place, such as file:line.

        There may be more places than rows. The default numbers the rows of the part from 1.
        """
        where = ", ".join(part.files) or key
        after = f" from {part.start}" if part.start else ""
        return (partial("{} row {}{}".format, where, number, after) for number in count(1))

    def notes(self, key: str, part: Part) -> Sequence[str]:
        """Return notes for the user on how a part was read; empty: none.

        The call follows `rows` on the same object, so that a source can collect notes while it reads. With a `limit`,
        some rows of the part may not have been read.
        """
        return []

    def mixed(self) -> Mapping[str, tuple[Plugin, float]]:
        """Return the sources of a mixture by name, each with its weight; empty for any other kind.

        The weights add up to 1. A mixture has no rows of its own.
        """
        return {}
