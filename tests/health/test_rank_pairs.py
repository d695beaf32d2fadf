"""The order of the measurements."""

from itertools import combinations

import pytest

from launcher.health import rank_pairs


@pytest.mark.parametrize("world", range(1, 10))
def test_every_pair_is_measured_once_and_no_rank_twice_in_a_round(world):
    rounds = rank_pairs.rounds(world, world)
    assert sorted(pair for of_round in rounds for pair in of_round) == list(combinations(range(world), 2))
    for of_round in rounds:
        ranks = [rank for pair in of_round for rank in pair]
        assert len(ranks) == len(set(ranks))


def test_of_many_ranks_the_pairs_of_nodes_and_those_at_the_same_place():
    pairs = set(rank_pairs.pairs(32, 8))
    assert len(pairs) == 4 * 28 + 8 * 6
    assert {(0, 7), (0, 8), (7, 31)} <= pairs and (0, 9) not in pairs
