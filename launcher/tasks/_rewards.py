"""Reward functions that come with the package: what a completion is worth, from 0 to 1, for recipes to try."""


def vowels(prompt: str, completion: str) -> float:
    """The share of the completion's letters that are vowels."""
    letters = [letter for letter in completion.lower() if letter.isalpha()]
    return sum(letter in "aeiou" for letter in letters) / max(1, len(letters))


def the(prompt: str, completion: str) -> float:
    """The share of the completion's words that are `the`."""
    words = completion.lower().split()
    return words.count("the") / max(1, len(words))
