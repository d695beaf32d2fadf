"""Where rows come from. A kind is one module here with a `Config` (a subclass of `launcher.data._source.SourceConfig`)
and a class `Source` that extends the one below; the file is the registration. Import heavy libraries inside functions:
a plan reads every Config on a login node. Rows are plain dicts with the canonical column names a task asks for (`text`,
`text_pair`, `label`), whatever the columns are called in the source; an image is an array of shape (height, width,
channels), uint8.

A source is read in parts, in parallel processes, each part by one of them. Parts are cut by the content alone, so that
however many processes read them, and in whatever order, the same rows come out.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from launcher.config.columns import Column as Column
from launcher.config.types import Plugin

Row = dict[str, Any]


INPUTS = ("text", "text_pair", "words", "question", "context", "features", "image")
"""The columns that a model is given: what rows are held out and told apart by."""


@dataclass(frozen=True)
class Part:
    """A piece of a source that can be read by itself. `files`, `start` and `stop` mean what the kind makes of them (all
    of these files; bytes or rows of one); `size`: bytes it holds, about, for progress and for what disk it takes."""

    files: tuple[str, ...] = ()
    start: int = 0
    stop: int | None = None
    size: int = 0


class BadRow(NamedTuple):
    """What stands in the place of a row that cannot be used. `where`: file:line or the like; `missing`: the canonical
    column, or the kept one, that it does not have."""

    where: str
    what: str
    missing: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Source(ABC):
    """The rows of one Config."""

    @abstractmethod
    def __init__(self, config: Any): ...

    @abstractmethod
    def fingerprint(self, key: str) -> str:
        """The identity of the content (bytes, revision or versions): equal fingerprints give equal rows. `key`: the
        recipe key of this source, for messages. Raises UserError."""

    def parts(self, key: str) -> Sequence[Part]:
        """The parts in a fixed order, of some 32 MiB each where the source can be cut; by itself it is read as one.
        Raises UserError."""
        return [Part()]

    @abstractmethod
    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        """The rows of a part in a fixed order, without regard to `limit` and `on_bad_row`, which its reader sees to.
        Raises UserError for what makes the whole source unusable (a column that no row has, a truncated archive)."""

    def notes(self, key: str, part: Part) -> Sequence[str]:
        """What the user should know of how a part is read."""
        return []

    def mixed(self) -> Mapping[str, tuple[Plugin, float]]:
        """Of a mixture: its sources by name, each with its weight. Such a kind has no rows of its own."""
        return {}
