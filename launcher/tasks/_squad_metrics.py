"""How answers are compared: the definitions of SQuAD's official evaluation (Rajpurkar et al., 2016 and 2018)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal(text: str) -> str:
    """Lower-case words without punctuation and articles."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def exact(truth: str, found: str) -> float:
    return float(normal(truth) == normal(found))


def f1(truth: str, found: str) -> float:
    """Of the words that both share; where one has none, whether the other has none either."""
    one, other = normal(truth).split(), normal(found).split()
    if not one or not other:
        return float(one == other)
    shared = (Counter(one) & Counter(other)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(other), shared / len(one)
    return 2 * precision * recall / (precision + recall)


def best(score: Callable[[str, str], float], truths: Sequence[str], found: str) -> float:
    """The score against whichever true answer it is best for. Answers that are nothing once normalised do not count;
    without any, nothing is the answer."""
    counted = [truth for truth in truths if normal(truth)] or [""]
    return max(score(truth, found) for truth in counted)
