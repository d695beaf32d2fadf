"""Which rank stores which pieces: each once on a node, and what no other node has also on the next one."""

import pytest
import torch

from launcher.storage.memory_copy_format import Piece
from launcher.train import memory_pieces
from launcher.train.memory_pieces import Assignment


def piece(size, dtype="F32"):
    return Piece(dtype, (size // 4,), size)


WHOLE = {"a": piece(400), "b": piece(200), "c": piece(160), "step": Piece("I64", (), 8)}


def test_the_ranks_of_a_node_share_what_all_of_them_hold():
    made = Assignment.of([WHOLE] * 4, ["n", "n", "m", "m"])
    for ranks in ([0, 1], [2, 3]):
        names = [name for rank in ranks for name in made.stored[rank]]
        assert sorted(names) == ["a", "b", "c", "step"]
        sizes = [sum(part.size for part in made.stored[rank].values()) for rank in ranks]
        assert max(sizes) - min(sizes) <= 40
    assert made.receivers == {}  # the other node has the same
    assert list(made.stored[1]) == ["step", "b", "c"]  # wide types first, which aligns all
    assert made.bytes_of_node(0) == 768


@pytest.mark.parametrize(
    ("node_of", "receivers"),
    [
        (["n", "n", "m", "m"], {0: 2, 1: 3, 2: 0, 3: 1}),
        (["n", "n", "n", "m"], {0: 3, 1: 3, 2: 3, 3: 0}),
        (["n", "m", "n", "m"], {0: 1, 2: 3, 1: 0, 3: 2}),
        (["n", "m", "k", "l"], {0: 1, 1: 2, 2: 3, 3: 0}),
        (["n"] * 4, {}),
    ],
)
def test_shards_are_also_on_the_next_node(node_of, receivers):
    made = Assignment.of([{f"a@{rank}": piece(400), "step": piece(4)} for rank in range(4)], node_of)
    assert made.receivers == receivers
    assert sum(len(made.files_of(rank)) for rank in range(4)) == 4 + len(receivers)


def test_replicas_on_other_nodes_need_no_neighbour():
    held = [{"a@0": piece(4)}, {"a@1": piece(4)}]
    assert Assignment.of(held * 2, ["n", "n", "m", "m"]).receivers == {}
    assert Assignment.of(held * 2, ["n", "m", "n", "m"]).receivers == {0: 1, 1: 0}


def test_pieces_are_numbered_alike_and_empty_ones_left_out():
    made = Assignment.of([{"b@0": piece(4), "a": piece(8)}, {"b@1": piece(4), "a": piece(8)}], ["n", "n"])
    assert made.names == ["a", "b@0", "b@1"] and sorted(made.numbers(0) + made.numbers(1)) == [0, 1, 2]
    assert memory_pieces.described({"empty": torch.zeros(0), "x": torch.zeros(2)}) == {"x": Piece("F32", (2,), 8)}
    with pytest.raises(KeyError):
        memory_pieces.described({"x": torch.zeros(2, dtype=torch.complex64)})
