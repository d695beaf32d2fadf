"""Which pairs of ranks are measured, and in which order."""

from collections.abc import Iterator

MOST = 16
"""Largest number of ranks of which every pair is measured. Of more ranks those of one node, and between nodes those
with the same place on their node."""


def rounds(world: int, per_node: int) -> list[list[tuple[int, int]]]:
    """Return rounds of pairs. In a round each rank is in at most one pair (circle method for a round robin)."""
    ranks = list(range(world + world % 2))  # one more takes the place of the missing partner
    found = []
    for _ in range(len(ranks) - 1):
        pairs = [(min(pair), max(pair)) for pair in zip(ranks, reversed(ranks), strict=True)][: len(ranks) // 2]
        kept = [pair for pair in pairs if pair[1] < world and _is_measured(pair, world, per_node)]
        if kept:
            found.append(sorted(kept))
        ranks = [ranks[0], ranks[-1], *ranks[1:-1]]
    return found


def _is_measured(pair: tuple[int, int], world: int, per_node: int) -> bool:
    one, other = pair
    return world <= MOST or one // per_node == other // per_node or one % per_node == other % per_node


def pairs(world: int, per_node: int) -> Iterator[tuple[int, int]]:
    """Yield every pair that is measured."""
    for of_round in rounds(world, per_node):
        yield from of_round
