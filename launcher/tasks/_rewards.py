"""Example reward functions, from 0 to 1."""


def vowels(prompt: str, completion: str) -> float:
    """Return the share of vowels among the completion's letters."""
    letters = [letter for letter in completion.lower() if letter.isalpha()]
    return sum(letter in "aeiou" for letter in letters) / max(1, len(letters))


def the(prompt: str, completion: str) -> float:
    """Return the share of `the` among the completion's words."""
    words = completion.lower().split()
    return words.count("the") / max(1, len(words))
