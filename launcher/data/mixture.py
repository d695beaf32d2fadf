"""Several sources with weights. It has no rows of its own: whoever reads it reads its sources, by their weights.

`limit`, `on_bad_row` and the names of columns belong to each source, so a mixture has none.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from launcher import data
from launcher.config import kinds, plugins
from launcher.config.errors import Problem, UserError
from launcher.config.types import Plugin, hint
from launcher.data._source import fingerprint_of

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
    def _several(cls, value: dict[str, Any]) -> dict[str, Any]:
        if len(value) < 2:
            raise PydanticCustomError("sources", "a mixture needs two sources or more")
        nested = [name for name, source in value.items() if plugins.source(source).mixed()]
        if nested:
            told = {"names": ", ".join(nested)}
            raise PydanticCustomError("sources", "{names}: a mixture in a mixture: name its sources here", told)
        return value

    @field_validator("weights")
    @classmethod
    def _of_the_sources(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        sources = info.data.get("sources")  # absent where they are wrong themselves
        if sources is not None:
            wrong = [f"no weight for {name}" for name in sources if name not in value]
            wrong += [f"no source is called {name} ({hint(name, sources)})" for name in value if name not in sources]
            if wrong:
                raise PydanticCustomError("weights", "{wrong}", {"wrong": "; ".join(wrong)})
        return value


class Source(data.Source):
    def __init__(self, config: Config):
        self.config = config

    def fingerprint(self, key: str) -> str:
        """Of its sources in their order; weights change no row. Raises UserError with the mistakes of all of them."""
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
        """Its sources in their order, each with its weight; the weights add up to 1."""
        total = math.fsum(self.config.weights.values())
        return {name: (source, self.config.weights[name] / total) for name, source in self.config.sources.items()}

    def rows(self, columns: Sequence[str], key: str, part: data.Part) -> Iterator[data.Row | data.BadRow]:
        raise NotImplementedError("a mixture is read source by source")
