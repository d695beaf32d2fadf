"""Where rows come from. A kind is one module here with a `Config` (a subclass of `launcher.data._source.SourceConfig`)
and the two functions of `Source` below; the file is the registration. Import heavy libraries inside functions: a plan
reads every Config on a login node. Rows are plain dicts with the canonical column names a task asks for (`text`,
`text_pair`, `label`), whatever the columns are called in the source.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from launcher.config.types import Plugin


class Source(Protocol):
    def fingerprint(self, config: Plugin, key: str) -> str:
        """The identity of the content (bytes, revision or versions): equal fingerprints give equal rows."""

    def rows(self, config: Plugin, columns: Sequence[str], key: str) -> Iterator[dict[str, Any]]:
        """The rows in a fixed order. `key` is the recipe key of this source, for messages. Raises UserError."""
