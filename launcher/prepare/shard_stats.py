"""Counts of the rows and samples of each shard, and the facts of a prepared folder that are computed from them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.config.errors import Problem, UserError
from launcher.config.format import plural
from launcher.config.recipe import Data, Fold, Share
from launcher.plan.facts import TruncationCounts
from launcher.prepare.source_shards import NO_DOCUMENT, SIDES, LeafSource, Side

_MAX_NOTES = 5
"""Maximum number of notes on files."""


@dataclass
class ShardStats:
    """Counts of one shard.

    `documents`: rows of each side. `lengths`: samples of each side by their number of tokens. `bad`, `duplicates`,
    `empty`: rows that gave no sample. `example`: message about the first bad row. `special`: number of texts with a
    word that the tokenizer reads as a special token. `special_word`: the first of these words, with the text around it.
    `cut`: what truncation removed on each side, by name (see launcher.tasks.Features). `notes`: notes on how the source
    was read.
    """

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    lengths: dict[str, dict[str, int]] = field(default_factory=lambda: {side: {} for side in SIDES})
    bad: int = 0
    duplicates: int = 0
    empty: int = 0
    example: str = ""
    special: int = 0
    special_word: str = ""
    cut: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> "ShardStats":
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def json(self) -> str:
        return json.dumps(vars(self))

    def add_cut(self, side: Side, counts: Mapping[str, int]) -> None:
        """Add what truncation removed from some rows."""
        of_side = self.cut.setdefault(side, {})
        for name, count in counts.items():
            of_side[name] = of_side.get(name, 0) + count


Counted = Sequence[tuple[LeafSource, ShardStats]]
"""The stats of every shard, with its source, in their order."""


def check_not_empty(data: Data, counted: Counted) -> None:
    """Raise UserError if a side, a source, or a source of a mixture, has no sample."""
    documents = {side: sum(stats.documents[side] for _, stats in counted) for side in SIDES}
    total = sum(documents.values())
    shares: dict[Side, object] = {"validation": data.validation, "test": data.test}
    for side, of in shares.items():
        held = documents[side]
        if isinstance(of, Share | Fold) and total and (held == 0 or documents["train"] == 0):
            key, advice = ("fold", "fewer folds") if isinstance(of, Fold) else ("fraction", "change the fraction")
            what = f"holds out {held} of {total} documents: nothing is left for one side ({advice})"
            raise UserError(Problem(f"data.{side}.{key}", what))
    check_sources(counted)


def check_sources(counted: Counted) -> None:
    """Raise UserError if a source, or a source of a mixture, has no sample."""
    problems = list[str | Problem]()
    for key in dict.fromkeys(leaf.key for leaf, _ in counted):
        own = [(leaf, stats) for leaf, stats in counted if leaf.key == key]
        if not any(stats.lengths[leaf.side] for leaf, stats in own):
            problems.append(Problem(key, _why_no_sample([stats for _, stats in own])))
    if problems:
        raise UserError(problems)


def _why_no_sample(stats: Sequence[ShardStats]) -> str:
    bad, repeated, empty = (
        sum(counts) for counts in zip(*((s.bad, s.duplicates, s.empty) for s in stats), strict=True)
    )
    if bad:
        return f"none of its {plural(bad, 'row')} can be used: {next(s.example for s in stats if s.bad)}"
    if repeated:
        return (
            f"each of its {plural(repeated, 'row')} stands in it, or in a source before it, already (data.deduplicate)"
        )
    return f"no token is found in {plural(empty, 'document')}, which is all of it" if empty else NO_DOCUMENT


def counts(data: Data, counted: Counted) -> dict[str, object]:
    """Add up the stats of all shards. Returns fields of launcher.plan.facts.Facts."""
    stats = [one for _, one in counted]
    lengths = {side: _lengths(stats, side) for side in SIDES if any(one.lengths[side] for one in stats)}
    sources, left_out = Counter[str](), Counter[str]()
    for leaf, one in counted:
        left_out.update({"bad": one.bad, "duplicates": one.duplicates, "empty": one.empty})
        if leaf.side == "train":
            sources[leaf.name] += sum(one.lengths["train"].values())
    return {
        "longest": max(length for of_side in lengths.values() for length in of_side),
        "documents": {side: sum(one.documents[side] for one in stats) for side in lengths},
        "samples": {side: of_side.total() for side, of_side in lengths.items()},
        "tokens": {side: sum(n * count for n, count in of_side.items()) for side, of_side in lengths.items()},
        "sources": dict(sources),
        "lengths": dict(sorted(lengths.get("train", Counter[int]()).items())),
        "left_out": {name: count for name, count in left_out.items() if count},
        "cut": {side: _truncation(data, stats, side) for side in lengths},
    }


def _lengths(stats: Iterable[ShardStats], side: Side) -> Counter[int]:
    """Count the samples of a side by their number of tokens."""
    lengths = Counter[int]()
    for one in stats:
        lengths.update({int(length): count for length, count in one.lengths[side].items()})
    return lengths


def _truncation(data: Data, stats: Sequence[ShardStats], side: Side) -> TruncationCounts:
    total = Counter[str]()
    for one in stats:
        total.update(one.cut.get(side, {}))
    known = {name: total[name] for name in TruncationCounts.model_fields if name in total}
    return TruncationCounts(tokens=data.max_length, of=sum(one.documents[side] for one in stats), **known)


def reading_notes(counted: Counted) -> list[str]:
    """Return notes for the user on how rows were read, and on rows that were left out."""
    stats = [one for _, one in counted]
    bad, notes = sum(one.bad for one in stats), [note for one in stats for note in one.notes]
    if len(notes) > _MAX_NOTES:
        notes = [*notes[:_MAX_NOTES], f"the same of {plural(len(notes) - _MAX_NOTES, 'more file')}"]
    example = next((one.example for one in stats if one.bad), "")
    if special := sum(one.special for one in stats):
        word = next(one.special_word for one in stats if one.special)
        what = f"{plural(special, 'text')} with words that the tokenizer reads as special tokens, the first: {word!r}"
        notes.append(f"{what} (a model that reads its output there, such as BART at the end token, refuses them)")
    return [*([f"{plural(bad, 'bad row')} left out, the first: {example}"] if bad else []), *notes]
