"""Several sources with weights. A mixture has no rows of its own: its sources are read one by one.

`limit`, `on_bad_row` and the names of columns are keys of each source, so a mixture has none.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from launcher import data
from launcher.config import kinds, plugins
from launcher.config.base_model import hint
from launcher.config.errors import Problem, UserError
from launcher.config.types import Plugin
from launcher.data._files import fingerprint_of

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
_Source = Annotated[SerializeAsAny[Plugin], kinds.plugin("data")]


class Config(Plugin):
    """Samples of several sources in given proportions."""

    kind: Literal["mixture"] = "mixture"
    sources: dict[_Name, _Source]
    """Two or more sources by name."""
    weights: dict[str, Annotated[float, Field(gt=0)]]
    """Weight of each source by name. Only proportions count."""

    @field_validator("sources")
    @classmethod
    def _check_sources(cls, value: dict[str, Plugin]) -> dict[str, Plugin]:
        if len(value) < 2:
            raise PydanticCustomError("sources", "a mixture needs two sources or more")
        nested = [name for name, source in value.items() if plugins.source(source).mixed()]
        if nested:
            what = "{names}: a mixture in a mixture: name its sources here"
            raise PydanticCustomError("sources", what, {"names": ", ".join(nested)})
        return value

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        sources = info.data.get("sources")  # None if they are invalid themselves
        if sources is not None:
            wrong = [f"no weight for {name}" for name in sources if name not in value]
            wrong += [f"no source is called {name} ({hint(name, sources)})" for name in value if name not in sources]
            if wrong:
                raise PydanticCustomError("weights", "{wrong}", {"wrong": "; ".join(wrong)})
        return value


class Source(data.Source):
    config: Config

    def fingerprint(self, key: str) -> str:
        """Hash the fingerprints of the sources, in their order. Raises UserError with the mistakes of all sources.

        Weights are not part of it, because they change no row.
        """
        found: list[str] = []
        problems: list[str | Problem] = []
        for name, source in self.config.sources.items():
            try:
                found.append(plugins.source(source).fingerprint(f"{key}.sources.{name}"))
            except UserError as error:
                problems += error.problems
        if problems:
            raise UserError(problems)
        return fingerprint_of(found)

    def mixed(self) -> Mapping[str, tuple[Plugin, float]]:
        total = math.fsum(self.config.weights.values())
        return {name: (source, self.config.weights[name] / total) for name, source in self.config.sources.items()}

    def rows(self, columns: Sequence[str], key: str, part: data.Part) -> Iterator[data.Row | data.BadRow]:
        raise NotImplementedError("a mixture is read source by source")
