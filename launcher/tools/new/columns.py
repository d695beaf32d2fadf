"""The columns of a data file: what each holds, and which may be the text and the label."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from launcher.config.errors import UserError, shown
from launcher.config.format import plural
from launcher.data import BadRow

ROWS = 100_000
"""Maximum number of rows that are read."""
_MEASURED = 20_000
"""Maximum number of texts of a column whose words are counted."""
_TEXT_NAMES = (
    "text", "sentence", "review", "content", "body", "document", "message", "comment", "question", "description",
    "abstract", "title",
)  # fmt: skip
_LABEL_NAMES = (
    "label", "labels", "class", "category", "target", "topic", "sentiment", "intent", "y", "score", "rating", "stars",
)  # fmt: skip
_MOST_CLASSES = 1000
_FEW_CLASSES = 50
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass
class Column:
    """What the rows read hold under one name. `tokens`: estimated number of tokens of each text measured."""

    name: str
    rows: int = 0
    empty: int = 0
    texts: int = 0
    fractions: int = 0
    others: int = 0
    characters: int = 0
    foreign: int = 0
    values: Counter[str] = field(default_factory=Counter)
    tokens: list[int] = field(default_factory=list)

    def add(self, value: object) -> None:
        """Count a value of a row."""
        self.rows += 1
        if value is None or (isinstance(value, str) and not value.strip()):
            self.empty += 1
        elif isinstance(value, list | dict | bytes):
            self.others += 1
        else:
            self._add_text(str(value), isinstance(value, str))

    def _add_text(self, text: str, written: bool) -> None:
        self.values[text] += 1
        number = _number(text)
        self.texts += number is None and written
        self.fractions += number is not None and number != int(number)
        self.characters += len(text)
        if len(self.tokens) < _MEASURED:
            foreign = 0 if text.isascii() else sum(character > "\u024f" for character in text)
            self.foreign += foreign
            self.tokens.append(int(max(1.4 * len(_WORD.findall(text)), len(text) / 3.5, foreign)) + 3)

    @property
    def filled(self) -> int:
        """Number of rows with a plain value."""
        return self.rows - self.empty - self.others

    @property
    def is_text(self) -> bool:
        """Whether most values are texts that are no numbers."""
        return self.texts > 0.5 * self.rows

    @property
    def is_number(self) -> bool:
        """Whether every value is a number, and they are no classes."""
        many = len(self.values) > _FEW_CLASSES or bool(self.fractions)
        return self.filled > 0 and self.texts == 0 and many

    @property
    def may_be_label(self) -> bool:
        """Whether the values may be classes or numbers to predict. Whole numbers that all differ are names of rows."""
        if self.is_number and not self.fractions and len(self.values) == self.filled:
            return False
        return self.is_number or 2 <= len(self.values) <= min(_MOST_CLASSES, self.filled // 2)

    @property
    def mean_length(self) -> float:
        """Mean number of characters of a value."""
        return self.characters / max(1, self.filled)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e300 else None


@dataclass
class Table:
    """The columns of a data file. `bad`: rows that cannot be read, and `first_bad`: the mistake in the first one.
    `whole`: whether all rows were read."""

    columns: dict[str, Column]
    rows: int
    bad: int
    first_bad: str
    whole: bool


def survey(rows: Iterable[Mapping[str, object] | BadRow]) -> Table:
    """Read the first rows. Raises UserError if there are none, or if most cannot be read."""
    columns, bad, first, count = dict[str, Column](), 0, "", 0
    for row in islice(rows, ROWS):
        count += 1
        if isinstance(row, BadRow):
            bad, first = bad + 1, first or str(row)
            continue
        for name, value in row.items():
            columns.setdefault(name, Column(name)).add(value)
    if count == 0:
        raise UserError("DATA: has no rows")
    if bad > 0.5 * count:
        raise UserError(f"{bad:,} of {plural(count, 'row')} cannot be read, the first: {shown(first)}")
    return Table(columns, count - bad, bad, first, count < ROWS)


def text_candidates(columns: Mapping[str, Column]) -> list[Column]:
    """Return the columns that may be the text, the likeliest first."""
    texts = [column for column in columns.values() if column.is_text]
    varied = [column for column in texts if len(column.values) > min(_FEW_CLASSES, column.filled // 2)]
    return sorted(varied or texts, key=lambda column: (_place(column.name, _TEXT_NAMES), -column.mean_length))


def label_candidates(columns: Mapping[str, Column], text: str) -> list[Column]:
    """Return the columns that may be the label, the likeliest first."""
    found = [column for column in columns.values() if column.name != text and column.may_be_label]
    return sorted(found, key=lambda column: (_place(column.name, _LABEL_NAMES), column.is_number, len(column.values)))


def is_likeliest(candidates: Sequence[Column]) -> bool:
    """Return whether the first candidate for the label is more likely than the others, by its name or as the only
    one."""
    named = bool(candidates) and candidates[0].name.lower() in _LABEL_NAMES
    return named or len(candidates) == 1


def _place(name: str, known: Sequence[str]) -> int:
    return known.index(name.lower()) if name.lower() in known else len(known)
