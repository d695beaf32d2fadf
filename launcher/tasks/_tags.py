"""Scores of tagged words: of entities where tags tell of them, else of the tags themselves."""

import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_NAMES = ("precision", "recall", "f1", "support")


class Scores(NamedTuple):
    """`total`: precision, recall and f1; `classes`: these of each with its support."""

    total: dict[str, float]
    classes: dict[str, dict[str, float]]


def accuracy(truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """The share of the words that have the right tag; 0 of none."""
    right = [t == f for one, two in zip(truth, found, strict=True) for t, f in zip(one, two, strict=True)]
    return float(np.mean(right)) if right else 0.0


def scores(truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]], labels: Sequence[str]) -> Scores:
    """Of the tags of sequences. `labels`: all that there are."""
    scheme = all(re.fullmatch(r"O|[BIES]-.*", label) for label in labels)
    return _of_entities(truth, found, labels) if scheme else _of_tags(truth, found, labels)


def _of_entities(truth: Any, found: Any, labels: Sequence[str]) -> Scores:
    """As seqeval has them (in its default mode, as conlleval): over all entities, and by type."""
    from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

    types = sorted({label[2:] for label in labels if label != "O"})
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
    there = sorted({*pair[0], *pair[1]})
    if not there:
        return _scores((0.0, 0.0, 0.0), {}, labels)
    each = precision_recall_fscore_support(*pair, labels=there, zero_division=0)
    return _scores([np.mean(one) for one in each], dict(zip(there, zip(*each, strict=True), strict=True)), labels)


def _scores(total: Sequence[float], each: dict[str, Sequence[float]], names: Sequence[str]) -> Scores:
    """Of these names: 0 for one that is nowhere."""
    classes = {name: _named(each.get(name, (0.0, 0.0, 0.0, 0.0))) for name in names}
    return Scores(_named(total[:3]), classes)


def _named(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(_NAMES, map(float, values), strict=False))
