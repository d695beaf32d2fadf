"""What a node has to know for its checks. It goes to other nodes on a command line, so that it has no secrets."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from launcher.config import env_vars, secret_values

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster

RANK_SECONDS = 0.2
"""Duration of each figure of a pair of ranks."""
REPORT_SECONDS = 60.0
"""Seconds for all nodes to show up in the shared folder: Python starts slowly from a shared disk."""


@dataclass(frozen=True)
class NodeRequest:
    """The checks of a node.

    `ranks`: of the node; None: one for each device. `memory`: GiB of the node in the profile, if it is known. `shared`:
    folder of this examination, which all nodes should see; empty: there is one node. `scratch`: folder on the node's
    own disk; empty: none. `variables`: that the profile sets for ranks.
    """

    device: str
    ranks: int | None
    nodes: int
    interface: str
    variables: dict[str, str]
    memory: float | None = None
    shared: str = ""
    scratch: str = ""
    wait: float = REPORT_SECONDS
    seconds: float = RANK_SECONDS


def as_json(request: NodeRequest) -> str:
    """Return the request as text for a command line."""
    return json.dumps(asdict(request))


def of(cluster: "Cluster", ranks: int | None, shared: str) -> NodeRequest:
    """Return the checks of a node of a profile. `ranks`: in the place of the profile's number."""
    count = ranks or (None if cluster.devices_per_node == "auto" else cluster.devices_per_node)
    memory = cluster.memory_per_device if cluster.device == "cpu" and cluster.memory_per_device != "auto" else None
    plain = {
        name: value
        for name, value in cluster.env.items()
        if not env_vars.is_secret(name) and not secret_values.is_known_key(value)
    }
    variables = env_vars.of_interface(cluster.interface) | plain
    scratch = cluster.scratch.local or ""
    return NodeRequest(
        cluster.device, count, cluster.nodes[0], cluster.interface, variables, memory, shared, scratch
    )  # fmt: skip
