"""Collective operations of a training step, and how long they take on the links of a cluster."""

import math
from dataclasses import dataclass
from typing import Literal

Phase = Literal["forward", "backward", "last backward", "update"]
Operation = Literal["all-reduce", "all-gather", "reduce-scatter"]


@dataclass(frozen=True)
class RankStep:
    """What strategies need to know of a rank's part of a step.

    `positions`: computed in a micro-batch, padding included. `weight`, `activation`: bytes of a stored parameter, and
    of a value that layers pass on. `recomputed`: fraction of the layers that run forward again in the backward.
    """

    ranks: int
    micro_batches: int
    positions: float
    weight: int = 4
    activation: int = 4
    recomputed: float = 0.0


@dataclass(frozen=True)
class Collective:
    """Equal collective operations of a step, together.

    `size`: bytes of the whole tensors, over all calls: those that are reduced, or put together from all shards.
    `ranks`: of a group; `stride`: distance between neighbouring ranks of it. `phase`: part of the step. `waits`:
    whether the computation needs the result before anything else, so that nothing overlaps.
    """

    operation: Operation
    size: float
    calls: float
    ranks: int
    phase: Phase
    stride: int = 1
    waits: bool = False

    @property
    def sent(self) -> float:
        """Bytes that each rank sends, by a ring (Patarasuk and Yuan, 2009)."""
        return (2 if self.operation == "all-reduce" else 1) * (self.ranks - 1) / self.ranks * self.size


@dataclass(frozen=True)
class LinkRates:
    """What the links of a cluster reach: bytes per second of a device in one direction, and seconds of a message.

    `within`: between devices of a node of `per_node` ranks; `between`: between devices of two nodes.
    """

    per_node: int
    within: float
    between: float
    latency_within: float
    latency_between: float


def seconds(one: Collective, links: LinkRates) -> float:
    """Return the seconds of collective operations, one after the other, without anything else on the links.

    A ring enters and leaves a node at each of the group's devices there. So a node's part of the bandwidth between
    nodes is that of all these devices. An all-reduce takes the steps of a ring in a node and of a double tree between
    nodes, the other operations those of a ring (NCCL's algorithms).
    """
    if one.ranks == 1:
        return 0.0
    on_node = max(1, min(one.ranks, links.per_node // one.stride))
    nodes = math.ceil(one.ranks / on_node)
    bandwidth = links.within if on_node > 1 else math.inf
    if nodes > 1:
        bandwidth = min(bandwidth, on_node * links.between)
    if one.operation == "all-reduce":
        inside, across = 2 * (on_node - 1), 2 * math.ceil(math.log2(nodes))
    else:
        inside, across = (on_node - 1) * nodes, nodes - 1
    return one.calls * (inside * links.latency_within + across * links.latency_between) + one.sent / bandwidth
