"""Metric functions: exact sums over samples, correlation, and comparisons of texts."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from launcher.tasks import Outputs

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def total(outputs: Outputs, name: str) -> float:
    """Return the correctly rounded sum over all samples (Shewchuk, 1997), which does not depend on their order."""
    return math.fsum(outputs[name])


def mean_loss(outputs: Outputs) -> float:
    """Return the total loss divided by the total weight; 0 if the weight is 0."""
    weight = total(outputs, "weight")
    return total(outputs, "loss") / weight if weight else 0.0


def pearson(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return the correlation coefficient; 0 if one side is constant."""
    if not np.ptp(truth) or not np.ptp(predicted):
        return 0.0
    one, other = (_unit_deviations(values) for values in (truth, predicted))
    return float(np.clip(np.vecdot(one, other), -1.0, 1.0))


def _unit_deviations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the deviations from the mean, scaled to a vector of length 1; huge values do not overflow."""
    deviations = values - values.mean()
    largest = np.abs(deviations).max()
    return np.asarray(deviations / (largest * np.linalg.vector_norm(deviations / largest)))


def rouge1(truth: str, predicted: str) -> float:
    """Return ROUGE-1 (Lin, 2004): F1 over the lower-case words of two texts."""
    one, other = _words(truth), _words(predicted)
    return _f1((Counter(one) & Counter(other)).total(), len(one), len(other))


def rouge_l(truth: str, predicted: str) -> float:
    """Return ROUGE-L (Lin, 2004): F1 over the longest common subsequence of lower-case words."""
    one, other = _words(truth), _words(predicted)
    longest = [0] * (len(other) + 1)
    for word in one:
        above = longest[:]
        for n, another in enumerate(other, start=1):
            longest[n] = above[n - 1] + 1 if word == another else max(above[n], longest[n - 1])
    return _f1(longest[-1], len(one), len(other))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _f1(shared: int, one: int, other: int) -> float:
    """Return 2 P R / (P + R) with P = shared / other and R = shared / one."""
    return 2 * shared / (one + other) if shared else 0.0


def squad_text(text: str) -> str:
    """Return an answer in lower case, without punctuation and articles, as in SQuAD (Rajpurkar et al., 2016)."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def squad_exact_match(truth: str, predicted: str) -> float:
    """Return 1 if the normalized answers are equal, else 0."""
    return float(squad_text(truth) == squad_text(predicted))


def squad_f1(truth: str, predicted: str) -> float:
    """Return F1 over the words of two normalized answers. If one has no words: 1 if the other has none either, else
    0."""
    one, other = squad_text(truth).split(), squad_text(predicted).split()
    if not one or not other:
        return float(one == other)
    shared = (Counter(one) & Counter(other)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(other), shared / len(one)
    return 2 * precision * recall / (precision + recall)


def squad_best(score: Callable[[str, str], float], truths: Sequence[str], predicted: str) -> float:
    """Return the best score against any of the true answers (Rajpurkar et al., 2018). True answers that are empty after
    normalization do not count; if no other is left, the true answer is the empty text."""
    answers = [truth for truth in truths if squad_text(truth)] or [""]
    return max(score(truth, predicted) for truth in answers)


def confusions(counts: Sequence[Sequence[float]] | NDArray[np.generic]) -> list[tuple[int, int]]:
    """Return the pairs of a true and another predicted class that occur, the most frequent first. `counts`: a row for
    each true class."""
    values = np.array(counts)
    np.fill_diagonal(values, 0)
    order = np.argsort(-values, axis=None, kind="stable")[: np.count_nonzero(values)]
    return [(int(n) // len(values), int(n) % len(values)) for n in order]
