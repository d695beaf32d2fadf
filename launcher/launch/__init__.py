"""Starting the ranks of a plan on this machine, or on each node of a job.

A plan is rendered as a Launch (`launch_spec`), which `execute` starts on this machine. `elastic_agent` starts the ranks
from this process: `local_agent` watches the ranks of a single machine, and `node_agent` those of one node of a job.
Each rank begins in `rank_entry`. `starter` starts the ranks with torchrun or accelerate instead. On a cluster each
machine runs a `node`. `job_outcome` then decides how the start ended and whether to start again.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launcher.config import paths
from launcher.config.watchdog import Watchdog
from launcher.distributed.failure import Failure
from launcher.distributed.heartbeat import HEARTBEATS
from launcher.distributed.launch_env import LOOPBACK
from launcher.distributed.rank_end import RankEnd
from launcher.distributed.signals import StopReason
from launcher.distributed.stop_requests import STOP_FILE
from launcher.distributed.watchdog import Watchdog as RankWatchdog

RankResult = Mapping[str, Any]
"""Result of rank 0 for the command, of an evaluation or a measurement (see launcher.launch.rank_jobs)."""
_JOIN_SECONDS = 120
"""Seconds for the nodes of an attempt to join."""


@dataclass(frozen=True)
class Launch:
    """The ranks of one machine and their job.

    `ranks`: number of ranks. `threads`: CPU threads of each rank. `restart_window`: seconds without a failure after
    which restarts count from 0 again; None: never. `timeout`: minutes for which ranks wait for each other. `watchdog`:
    detection of training ranks that hang. `checkpoint`, `split`: what to evaluate. `steps`: number of steps of the run
    (0: not known yet), or to measure. `argv`: module that starts the ranks (torchrun, accelerate), and its arguments;
    empty: an elastic agent in this process starts them.
    """

    folder: Path
    ranks: int
    device: str
    threads: int
    max_restarts: int = 0
    restart_window: float | None = None
    timeout: float = 30
    watchdog: Watchdog = field(default_factory=lambda: Watchdog(seconds="off"))
    job: Literal["train", "evaluate", "measure", "tune"] = "train"
    checkpoint: str | int = "latest"
    split: str = "validation"
    steps: int = 0
    env: dict[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()

    def watch(self, spec: "RendezvousSpec") -> RankWatchdog:
        """Return the watchdog of the ranks that are about to start on this machine."""
        ends, host = self.watchdog.action != "report", spec.name if spec.port else ""
        most = 60 * self.timeout
        return RankWatchdog(spec.heartbeats, self.folder / paths.LOGS, self.watchdog.least, most, ends, host)


@dataclass(frozen=True)
class RendezvousSpec:
    """Rendezvous of the agents of a start.

    `folder`: a folder for only this machine and this start, which contains the stop file. `nodes`: minimum and maximum
    number of nodes. `index`, `name`: of this node. `host`, `port`: address of the store that the first node serves
    (port 0: a file in the folder, for one machine). `start_folder`: folder to which nodes write how they ended.
    `reserve`: number of nodes above the maximum. `launcher`: id of the process for which the ranks are started.
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
        """File that asks the ranks to stop."""
        return self.folder / STOP_FILE

    @property
    def heartbeats(self) -> Path:
        """File of the ranks' positions."""
        return self.folder / HEARTBEATS

    @property
    def options(self) -> dict[str, str | int]:
        """Options of torch's rendezvous.

        A node counts as dead after some seconds without a keep-alive. With fewer seconds, an elastic job loses less
        time, but the clocks of the nodes may also differ less. A reserve node waits as long as the run lasts.
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

    `reason`: why they left early. `result`: of rank 0. `problems`: user errors. `failed`: the rank that failed first.
    `closed`: the ranks were not needed, because the run was over.
    """

    code: int
    reason: StopReason = StopReason.NONE
    result: RankResult = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    failed: Failure | None = None
    closed: bool = False

    @classmethod
    def refused(cls, ends: Mapping[int, RankEnd]) -> "RanksEnded | None":
        """Return the end of the ranks if at least one had a user error, whatever happened to the others; else None."""
        mistaken = [end for end in ends.values() if end["problems"]]
        if not mistaken:
            return None
        reason = StopReason(max(end["reason"] for end in mistaken))
        return cls(max(end["code"] for end in mistaken), reason, problems=mistaken[0]["problems"])
