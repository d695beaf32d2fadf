"""The pieces of a run's state, and which rank stores which of them in the memory of its node.

A piece is a rank's part of one tensor: its shard of a DTensor, otherwise the whole tensor. Several ranks may hold the
same piece. Each node stores one copy of every piece that its ranks hold, and a neighbour node stores another copy of
the files with pieces that no other node has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from launcher.distributed.sharded_tensors import is_sharded
from launcher.storage.memory_copy_format import Piece

DTYPES: Mapping[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Names of tensor types in a safetensors file."""


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def key(name: str, tensor: torch.Tensor) -> str:
    """Return the name of this rank's piece of a tensor, the same on every rank that holds the same values:
    `name@I.J`, with the rank's coordinates on those axes of the mesh that shard the tensor."""
    if not is_sharded(tensor):
        return name
    coordinates = tensor.device_mesh.get_coordinate() or []
    pairs = zip(coordinates, tensor.placements, strict=True)
    place = ".".join(str(at) for at, placement in pairs if not placement.is_replicate())
    return f"{name}@{place}" if place else name


def described(tensors: Mapping[str, torch.Tensor]) -> dict[str, Piece]:
    """Return the pieces of this rank that are not empty. Raises KeyError for a type that safetensors does not have."""
    pieces = {key(name, tensor): local(tensor) for name, tensor in tensors.items()}
    return {
        name: Piece(DTYPES[part.dtype], tuple(part.shape), part.nbytes) for name, part in pieces.items() if part.nbytes
    }


@dataclass(frozen=True)
class Assignment:
    """Which rank stores which pieces. All ranks compute the same.

    `names`: of all pieces, sorted. `stored`: for each rank, the pieces of its file in their order. `nodes`: the ranks
    of each node. `receivers`: for each rank whose file another node stores too, the rank of that node that receives it.
    """

    names: Sequence[str]
    stored: Sequence[Mapping[str, Piece]]
    nodes: Sequence[Sequence[int]]
    receivers: Mapping[int, int]

    @classmethod
    def of(cls, pieces: Sequence[Mapping[str, Piece]], node_of: Sequence[str]) -> "Assignment":
        """Return the assignment. `pieces`: of each rank; `node_of`: a text that identifies the node of each rank."""
        names = sorted({name for held in pieces for name in held})
        nodes = _nodes(node_of)
        holders = {name: {node_of[rank] for rank, held in enumerate(pieces) if name in held} for name in names}
        stored = list[dict[str, Piece]]({} for _ in pieces)
        for ranks in nodes:
            _share(ranks, pieces, stored)
        receivers = dict[int, int]()
        for at, ranks in enumerate(nodes if len(nodes) > 1 else ()):
            following = nodes[(at + 1) % len(nodes)]
            for index, rank in enumerate(ranks):
                if any(len(holders[name]) == 1 for name in stored[rank]):
                    receivers[rank] = following[index % len(following)]
        return cls(names, stored, nodes, receivers)

    def numbers(self, rank: int) -> list[int]:
        """Return the numbers of the pieces in a rank's file."""
        number = {name: at for at, name in enumerate(self.names)}
        return [number[name] for name in self.stored[rank]]

    def files_of(self, rank: int) -> list[int]:
        """Return the ranks whose files this rank writes: its own, and those that it receives."""
        return [rank, *(source for source, receiver in self.receivers.items() if receiver == rank)]

    def bytes_of_node(self, rank: int) -> int:
        """Return the bytes of one slot of every file that the node of a rank stores."""
        ranks = next(ranks for ranks in self.nodes if rank in ranks)
        return sum(piece.size for one in ranks for of in self.files_of(one) for piece in self.stored[of].values())


def _nodes(node_of: Sequence[str]) -> list[list[int]]:
    """Return the ranks of each node, the node of the lowest rank first."""
    found = dict[str, list[int]]()
    for rank, node in enumerate(node_of):
        found.setdefault(node, []).append(rank)
    return list(found.values())


def _share(ranks: Sequence[int], pieces: Sequence[Mapping[str, Piece]], stored: Sequence[dict[str, Piece]]) -> None:
    """Give each piece of a node to one of the ranks that hold it: the one with the fewest bytes so far, the largest
    pieces first. A file then has its types in the order of their width, which aligns all tensors."""
    load = dict.fromkeys(ranks, 0)
    held = {name: piece for rank in ranks for name, piece in pieces[rank].items()}
    for name, piece in sorted(held.items(), key=lambda item: (-item[1].size, item[0])):
        rank = min((rank for rank in ranks if name in pieces[rank]), key=lambda rank: (load[rank], rank))
        stored[rank][name] = piece
        load[rank] += piece.size
    for rank in ranks:
        ordered = sorted(stored[rank].items(), key=lambda item: (-_width(item[1]), item[0]))
        stored[rank].clear()
        stored[rank].update(ordered)


def _width(piece: Piece) -> int:
    return {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}.get(piece.dtype, 1)
