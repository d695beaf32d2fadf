"""Starting the ranks of a plan on this machine, or on each node of a job.

A plan is rendered as a Launch (`launch_spec`), which `execute` starts on this machine. `elastic_agent` starts the ranks
from this process: `local_agent` watches those of one machine and `node_agent` those of a job of several nodes, and each
rank begins in `rank_entry`. `starter` has torchrun or accelerate start them. On a cluster each machine runs a `node`,
whose `job_outcome` decides how the start ended and whether it should start again.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launcher.distributed.failure import Failure
from launcher.distributed.heartbeat import HEARTBEATS
from launcher.distributed.launch_env import LOOPBACK
from launcher.distributed.rank_end import RankEnd
from launcher.distributed.signals import StopReason
from launcher.distributed.stop_requests import STOP_FILE

RankResult = Mapping[str, Any]
"""What rank 0 returns to the command: of an evaluation or a measurement (see launcher.launch.rank_jobs)."""
_JOIN_SECONDS = 120
"""Seconds in which the nodes of an attempt have to join."""


@dataclass(frozen=True)
class Launch:
    """The ranks of one machine and what they do.

    `ranks`: number of them. `threads`: CPU threads of each. `timeout`: minutes for which ranks wait for each other.
    `checkpoint`: the one to evaluate. `steps`: of the run (0: not known yet), or to measure. `argv`: module that starts
    the ranks (torchrun, accelerate) and its arguments; empty: an elastic agent in this process starts them.
    """

    folder: Path
    ranks: int
    device: str
    threads: int
    max_restarts: int = 0
    timeout: float = 30
    job: Literal["train", "evaluate", "measure"] = "train"
    checkpoint: str | int = "latest"
    steps: int = 0
    env: dict[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()


@dataclass(frozen=True)
class RendezvousSpec:
    """The rendezvous of the agents of a start.

    `folder`: of this machine and this start alone, with the stop file. `nodes`: least and greatest number. `index`: of
    this node. `host`, `port`: of the store that the first node serves (0: a file in the folder, for one machine).
    `name`: of this node. `start_folder`: the folder in which nodes post how they ended. `reserve`: number of nodes
    beyond the greatest. `launcher`: id of the process that the ranks are started for.
    """

    folder: Path
    nodes: tuple[int, int] = (1, 1)
    index: int = 0
    host: str = LOOPBACK
    port: int = 0
    name: str = LOOPBACK
    start_folder: Path = Path()
    reserve: int = 0
    launcher: int = field(default_factory=os.getpid)

    @property
    def stop_file(self) -> Path:
        """The file that asks the ranks to stop."""
        return self.folder / STOP_FILE

    @property
    def heartbeats(self) -> Path:
        """The file of the ranks' positions."""
        return self.folder / HEARTBEATS

    @property
    def options(self) -> dict[str, str | int]:
        """Options of torch's rendezvous.

        A node counts as dead after some seconds without a keep-alive: the fewer, the less an elastic job loses. The
        clocks of the nodes may differ by as much. A reserve waits for as long as the run lasts.
        """
        if not self.port:
            return {"store_type": "file"}
        is_elastic = self.nodes[0] < self.nodes[1] or self.reserve > 0
        interval, attempts = (1, 5) if is_elastic else (2, 15)
        return {
            "is_host": False, "timeout": 900, "last_call_timeout": 3,
            "keep_alive_interval": interval, "keep_alive_max_attempt": attempts,
            "join_timeout": 10**8 if self.reserve else _JOIN_SECONDS,
        }  # fmt: skip


@dataclass(frozen=True)
class RanksEnded:
    """How the ranks of this machine ended.

    `reason`: why they left early. `result`: what rank 0 returned. `problems`: mistakes of the user. `failed`: the rank
    that failed first. `closed`: the ranks were not needed, since the run is over.
    """

    code: int
    reason: StopReason = StopReason.NONE
    result: RankResult = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    failed: Failure | None = None
    closed: bool = False

    @classmethod
    def refused(cls, ends: Mapping[int, RankEnd]) -> "RanksEnded | None":
        """Return the end of ranks of which one at least has met a mistake of the user, whatever befell the others;
        None where none has."""
        mistaken = [end for end in ends.values() if end["problems"]]
        if not mistaken:
            return None
        reason = StopReason(max(end["reason"] for end in mistaken))
        return cls(max(end["code"] for end in mistaken), reason, problems=mistaken[0]["problems"])
