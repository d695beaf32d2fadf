"""Scores of tagged words: of entities where the tags follow an entity scheme, else of the tags themselves."""

import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_NAMES = ("precision", "recall", "f1", "support")

_SCHEMES = (
    ("IO", "I"), ("IOB", "BI"), ("IOE", "IE"), ("BIOES", "BIES"), ("BILOU", "BILU"), ("BMES", "BMES"),
    ("BMEWO", "BMEW"),
)  # fmt: skip
"""Entity schemes with the letters of their prefixes beside O; the first that has all of a data set's is its scheme."""

_AS_SEQEVAL = {"L": "E", "U": "S", "M": "I", "W": "S"}


class Scheme(NamedTuple):
    """`tags`: each label as seqeval reads it, such as S-PER for U-PER."""

    name: str
    tags: dict[str, str]

    @property
    def types(self) -> list[str]:
        """The types of the entities; `_` where tags name none."""
        return sorted({tag[2:] or "_" if "-" in tag else "_" for tag in self.tags.values() if tag != "O"})


def scheme(labels: Sequence[str]) -> Scheme | None:
    """The entity scheme of all labels: O, and a letter with a type (`B-PER`, `B_PER`) or bare (`B`); None: of none."""
    tags, letters = {"O": "O"}, set[str]()
    rest = [label for label in labels if label != "O"]
    bare = {"B", "I"} <= set(rest)
    for label in rest:
        match = re.fullmatch(r"([A-Z])(?:-(.*)|_(.+))?", label)
        if match is None or (match[2] is None and match[3] is None and not bare):
            return None
        kind = match[2] if match[3] is None else match[3]
        letters.add(match[1])
        tags[label] = _AS_SEQEVAL.get(match[1], match[1]) + ("" if kind is None else f"-{kind}")
    return next((Scheme(name, tags) for name, known in _SCHEMES if letters <= set(known)), None)


class Scores(NamedTuple):
    """`total`: precision, recall and f1 of entities, or macro_precision and so on of tags; `classes`: precision, recall
    and f1 of each entity type or tag with its support."""

    total: dict[str, float]
    classes: dict[str, dict[str, float]]


def accuracy(truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """The share of the words that have the right tag; 0 of none."""
    right = [t == f for one, two in zip(truth, found, strict=True) for t, f in zip(one, two, strict=True)]
    return float(np.mean(right)) if right else 0.0


def scores(truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]], labels: Sequence[str]) -> Scores:
    """Of the tags of sequences. `labels`: all that there are."""
    known = scheme(labels)
    return _of_tags(truth, found, labels) if known is None else _of_entities(truth, found, known)


def total_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The names of the scores over all words: f1 and the like are of entities, of tags only their means are known."""
    prefix = "" if scheme(labels) else "macro_"
    return tuple(prefix + name for name in _NAMES[:3])


def _of_entities(truth: Any, found: Any, known: Scheme) -> Scores:
    """As seqeval has them (in its default mode, as conlleval): over all entities, and by type."""
    from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

    truth, found = ([[known.tags.get(tag, tag) for tag in tags] for tags in side] for side in (truth, found))
    types = known.types
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = sorted({kind for side in (truth, found) for kind, *_ in get_entities(side)})
        if not there:
            return _scores((0.0, 0.0, 0.0), {}, types)
        total = precision_recall_fscore_support(truth, found, average="micro", zero_division=0)
        each = precision_recall_fscore_support(truth, found, average=None, zero_division=0)
    return _scores(total, dict(zip(there, zip(*each, strict=True), strict=True)), types)


def _of_tags(truth: Any, found: Any, labels: Sequence[str]) -> Scores:
    """As scikit-learn has them: of each tag, and their means over those that are there or are named."""
    from sklearn.metrics import precision_recall_fscore_support

    pair = [[tag for tags in side for tag in tags] for side in (truth, found)]
    there = sorted({*pair[0], *pair[1]} & set(labels))
    if not there:
        return _scores((0.0, 0.0, 0.0), {}, labels, "macro_")
    each = precision_recall_fscore_support(*pair, labels=there, zero_division=0)
    by_tag = dict(zip(there, zip(*each, strict=True), strict=True))
    return _scores([np.mean(one) for one in each], by_tag, labels, "macro_")


def _scores(total: Sequence[float], each: dict[str, Sequence[float]], names: Sequence[str], prefix: str = "") -> Scores:
    """Of these names: 0 for one that is nowhere."""
    classes = {name: _named(each.get(name, (0.0, 0.0, 0.0, 0.0))) for name in names}
    return Scores({prefix + name: value for name, value in _named(total[:3]).items()}, classes)


def _named(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(_NAMES, map(float, values), strict=False))
