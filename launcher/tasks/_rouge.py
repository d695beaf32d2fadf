"""ROUGE (Lin, 2004): what a text shares with another, as F1 over their lower-case words."""

import re
from collections import Counter


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def rouge1(truth: str, found: str) -> float:
    """Of the words that both hold."""
    one, other = words(truth), words(found)
    return _f1((Counter(one) & Counter(other)).total(), len(one), len(other))


def rouge_l(truth: str, found: str) -> float:
    """Of their longest common subsequence."""
    one, other = words(truth), words(found)
    longest = [0] * (len(other) + 1)
    for word in one:
        above = longest[:]
        for n, another in enumerate(other, start=1):
            longest[n] = above[n - 1] + 1 if word == another else max(above[n], longest[n - 1])
    return _f1(longest[-1], len(one), len(other))


def _f1(shared: int, one: int, other: int) -> float:
    """2 P R / (P + R) with P = shared / other and R = shared / one."""
    return 2 * shared / (one + other) if shared else 0.0
