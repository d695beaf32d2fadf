"""Scores of tagged words: of entities where tags tell of them, else of the tags themselves."""

import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_NAMES = ("precision", "recall", "f1")


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
    from seqeval.metrics import classification_report

    types = sorted({label[2:] for label in labels if label != "O"})
    known: dict[str, Any] = {}
    if any(tag != "O" for tags in [*truth, *found] for tag in tags):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = classification_report(truth, found, output_dict=True, zero_division=0)
    return Scores(_named(known.get("micro avg", {})), {one: _with_support(known.get(one, {})) for one in types})


def _of_tags(truth: Any, found: Any, labels: Sequence[str]) -> Scores:
    """As scikit-learn has them: of each tag, and their means over those that are there or are named."""
    from sklearn.metrics import classification_report

    pair = [[tag for tags in side for tag in tags] for side in (truth, found)]
    known = classification_report(*pair, output_dict=True, zero_division=0) if pair[0] else {}
    return Scores(_named(known.get("macro avg", {})), {one: _with_support(known.get(one, {})) for one in labels})


def _named(said: dict[str, Any]) -> dict[str, float]:
    return {name: float(said.get("f1-score" if name == "f1" else name, 0.0)) for name in _NAMES}


def _with_support(said: dict[str, Any]) -> dict[str, float]:
    return {**_named(said), "support": float(said.get("support", 0.0))}
