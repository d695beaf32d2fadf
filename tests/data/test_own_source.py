"""A source of the user: one file outside of the launcher, found by its dotted path, that passes mypy --strict."""

import support
from support import type_check

from launcher.config.recipe import Recipe
from launcher.plan import facts
from launcher.prepare import prepared_data

SOURCE = '''
"""Sentences about numbers."""

from collections.abc import Iterator, Sequence

from pydantic import Field

from launcher import data
from launcher.data import BadRow, Part, Row, SourceConfig


class Config(SourceConfig):
    """`last`: the last number."""

    kind: str = "mine.numbers"
    last: int = Field(100, gt=0)


class Source(data.Source):
    config: Config

    def fingerprint(self, key: str) -> str:
        return f"numbers 1 {self.config.last}"

    def parts(self, key: str) -> list[Part]:
        half = self.config.last // 2
        return [Part(start=0, stop=half, size=half), Part(start=half, stop=self.config.last, size=half)]

    def rows(self, columns: Sequence[str], key: str, part: Part) -> Iterator[Row | BadRow]:
        for number in range(part.start, part.stop or 0):
            if number % 50 == 13:
                yield BadRow(f"number {number}", "brings bad luck")
            else:
                yield {"text": f"the number {number} is {'odd' if number % 2 else 'even'}"}

    def notes(self, key: str, part: Part) -> list[str]:
        return [f"numbers from {part.start}"]
'''


def test_a_source_of_the_user_is_one_file_that_mypy_accepts_and_a_recipe_names(workspace, monkeypatch):
    monkeypatch.setenv("LAUNCHER_CACHE", str(workspace / "cache"))
    monkeypatch.syspath_prepend(workspace)
    file = workspace / "mine" / "numbers.py"
    file.parent.mkdir()
    file.write_text(SOURCE, encoding="utf-8")
    train = {"kind": "mine.numbers", "last": 120, "on_bad_row": "skip", "limit": 100}
    folder = prepared_data.prepare(Recipe.model_validate(support.mlm(data__train=train)), processes=1)
    known = facts.read(folder)
    assert (sum(known.documents.values()), known.left_out) == (100, {"bad": 2})
    assert known.notes == [
        "2 bad rows left out, the first: number 13: brings bad luck",
        "numbers from 0",
        "numbers from 60",
    ]
    type_check.assert_accepted(file)
