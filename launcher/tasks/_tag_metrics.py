"""Scores of tagged words: over entities if the tags follow an entity scheme, else over tags."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Tags = Sequence[Sequence[str]]
"""The tags of the words of each sequence."""

_NAMES = ("precision", "recall", "f1", "support")

_SCHEMES = (
    ("IO", "I"), ("IOB", "BI"), ("IOE", "IE"), ("BIOES", "BIES"), ("BILOU", "BILU"), ("BMES", "BMES"),
    ("BMEWO", "BMEW"),
)  # fmt: skip
"""Entity schemes, each with its prefixes other than O. The scheme of a data set is the first that has all its
prefixes."""

_SEQEVAL_PREFIXES = {"L": "E", "U": "S", "M": "I", "W": "S"}


class Scheme(NamedTuple):
    """An entity scheme. `tags`: seqeval's tag for each label, such as S-PER for U-PER."""

    name: str
    tags: dict[str, str]

    @property
    def types(self) -> list[str]:
        """The entity types, sorted; `_` for tags without a type."""
        return sorted({tag[2:] or "_" if "-" in tag else "_" for tag in self.tags.values() if tag != "O"})


def scheme(labels: Sequence[str]) -> Scheme | None:
    """Return the entity scheme that the labels follow; None: none. In a scheme, a label is O, or a letter with a type
    (`B-PER`, `B_PER`) or alone (`B`)."""
    tags, letters = {"O": "O"}, set[str]()
    rest = [label for label in labels if label != "O"]
    bare = {"B", "I"} <= set(rest)
    for label in rest:
        match = re.fullmatch(r"([A-Z])(?:-(.*)|_(.+))?", label)
        if match is None or (match[2] is None and match[3] is None and not bare):
            return None
        kind = match[2] if match[3] is None else match[3]
        letters.add(match[1])
        tags[label] = _SEQEVAL_PREFIXES.get(match[1], match[1]) + ("" if kind is None else f"-{kind}")
    return next((Scheme(name, tags) for name, known in _SCHEMES if letters <= set(known)), None)


class Scores(NamedTuple):
    """Scores of tagged words. `total`: precision, recall and f1 over entities, or macro_precision, macro_recall and
    macro_f1 over tags. `classes`: precision, recall, f1 and support by entity type or tag."""

    total: dict[str, float]
    classes: dict[str, dict[str, float]]


def accuracy(truth: Tags, predicted: Tags) -> float:
    """Return the share of correct tags; 0 without words."""
    right = [t == f for one, two in zip(truth, predicted, strict=True) for t, f in zip(one, two, strict=True)]
    return float(np.mean(right)) if right else 0.0


def scores(truth: Tags, predicted: Tags, labels: Sequence[str]) -> Scores:
    """Return the scores of the tags of sequences. labels: all tags of the data set."""
    known = scheme(labels)
    return _tag_scores(truth, predicted, labels) if known is None else _entity_scores(truth, predicted, known)


def total_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the names in `Scores.total`."""
    prefix = "" if scheme(labels) else "macro_"
    return tuple(prefix + name for name in _NAMES[:3])


def _entity_scores(truth: Tags, predicted: Tags, known: Scheme) -> Scores:
    """Return seqeval's scores in its default mode, which follows conlleval."""
    from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

    pair = [[[known.tags.get(tag, tag) for tag in tags] for tags in side] for side in (truth, predicted)]
    types = known.types
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = sorted({kind for side in pair for kind, *_ in get_entities(side)})
        if not seen:
            return _scores((0.0, 0.0, 0.0), {}, types)
        total = precision_recall_fscore_support(*pair, average="micro", zero_division=0)
        each = precision_recall_fscore_support(*pair, average=None, zero_division=0)
    return _scores(total, dict(zip(seen, zip(*each, strict=True), strict=True)), types)


def _tag_scores(truth: Tags, predicted: Tags, labels: Sequence[str]) -> Scores:
    """Return scikit-learn's scores of each tag, and their means over the tags that occur or are predicted."""
    from sklearn.metrics import precision_recall_fscore_support

    pair = [[tag for tags in side for tag in tags] for side in (truth, predicted)]
    seen = sorted({*pair[0], *pair[1]} & set(labels))
    if not seen:
        return _scores((0.0, 0.0, 0.0), {}, labels, "macro_")
    each = precision_recall_fscore_support(*pair, labels=seen, zero_division=0)
    by_tag = dict(zip(seen, zip(*each, strict=True), strict=True))
    return _scores([np.mean(one) for one in each], by_tag, labels, "macro_")


def _scores(
    total: Sequence[float], each: Mapping[str, Sequence[float]], names: Sequence[str], prefix: str = ""
) -> Scores:
    """Return the scores by name; 0 for each of `names` that `each` lacks."""
    classes = {name: _named(each.get(name, (0.0, 0.0, 0.0, 0.0))) for name in names}
    return Scores({prefix + name: value for name, value in _named(total[:3]).items()}, classes)


def _named(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(_NAMES, map(float, values), strict=False))
